"""Settings of a run from the words of a command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomllib

FILE = Path(__file__).parent / "pyproject.toml"


def read_settings(words: Sequence[str]) -> dict[str, Any]:
    """Settings of pyproject.toml, with those that words such as `root=DIR` change.

    Raises:
        ValueError: for a word that is no setting.
    """
    settings = tomllib.loads(FILE.read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]
    for word in words:
        key, equal, value = word.partition("=")
        if not equal or key not in settings:
            raise ValueError(f"{word!r}; expected KEY=VALUE with a key among {', '.join(settings)}.")
        settings[key] = type(settings[key])(value)
    for key in ("config", "root"):  # the processes may run in other folders
        if settings[key] and Path(settings[key]).exists():
            settings[key] = str(Path(settings[key]).resolve())
    return settings
