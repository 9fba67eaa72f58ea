"""Fixtures of the tests of tasks."""

import lightning  # noqa: F401  (its log handler must be made before a test replaces stderr)
