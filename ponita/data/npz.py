"""Reading npz files that may be damaged."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

# What numpy and zipfile raise on damaged bytes, or on a file that is not an npz at all.
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, TypeError, AttributeError, RuntimeError, OSError)


def read_npz(path: Path, remedy: str) -> dict[str, np.ndarray]:
    """All arrays of a file.

    Args:
        path: the file.
        remedy: what the message tells the user to do.

    Raises:
        ValueError: if the file is damaged, was cut short, or is no npz of plain arrays.
    """
    # numpy leaves a file that it opened itself, and that is no zip, open.
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as stored:
                return {key: stored[key] for key in stored}
        except UNREADABLE as error:
            raise ValueError(
                f"{path} cannot be read as an npz file of numbers ({error}); it is damaged or was cut short: {remedy}"
            ) from error
