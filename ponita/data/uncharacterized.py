"""The molecules of QM9 whose geometry is that of another molecule, as their authors list them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FILE = "uncharacterized.txt"


def read_uncharacterized(root: Path) -> np.ndarray:
    """Their places in QM9, from 1.

    Args:
        root: folder that holds the list, or has it in raw/.

    Raises:
        FileNotFoundError: if there is no list.
        ValueError: if it holds no whole numbers.
    """
    path = next((path for path in (root / FILE, root / "raw" / FILE) if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"no {FILE} in {root}; the published split needs it (https://ndownloader.figshare.com/files/3195404). Put it "
            "there, or split at random."
        )
    # Below the ruled head, every row begins with a number.
    first_words = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    ids = np.array([int(word) for word in first_words if word.isdigit()], dtype=np.int64)
    if not ids.size:
        raise ValueError(f"{path} lists no molecules; fetch it again.")
    return np.unique(ids)
