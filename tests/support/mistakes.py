"""Commands that are given something wrong."""

from pathlib import Path

import pytest

from ponita.tasks.cli import main


def assert_refused(words, message, capsys):
    """A command ends with this message, and has written nothing."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code not in (0, None)
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()
