"""The idx files in which MNIST is published."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np

#: (images, labels) of each part; each may also end in .gz.
MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
UNSIGNED_BYTE = 8


def find_mnist(folder: Path) -> dict[str, tuple[Path, Path]] | None:
    """The four files of MNIST, as (images, labels) of "train" and "test".

    Args:
        folder: where they lie, compressed by gzip or not.

    Returns:
        None unless all four are there.
    """
    found = {part: tuple(_existing(folder / name) for name in names) for part, names in MNIST_FILES.items()}
    return None if any(path is None for paths in found.values() for path in paths) else found


def read_mnist(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one part.

    Args:
        images: idx file of unsigned bytes [G, H, W].
        labels: idx file of unsigned bytes [G].

    Returns:
        [G, H, W] uint8 (0 is black) and [G] int64 from 0 to 9.

    Raises:
        ValueError: if a file is damaged, of another form, or the two do not fit.
    """
    pixels, digits = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(digits) or len(digits) == 0:
        raise ValueError(f"{images} holds {len(pixels)} images and {labels} {len(digits)} labels; expected as many.")
    if digits.max() > 9:
        raise ValueError(f"{labels} holds the label {digits.max()}; expected digits from 0 to 9.")
    return pixels, digits.astype(np.int64)


def read_idx(path: Path, num_dims: int) -> np.ndarray:
    """An array of unsigned bytes from an idx file.

    Args:
        path: the file; compressed by gzip where its name ends in .gz.
        num_dims: dimensions it must have.

    Raises:
        ValueError: if the file is damaged, was cut short, or holds something else.
    """
    content = _content(path)
    header = 4 + 4 * num_dims
    if len(content) < header or content[:4] != bytes((0, 0, UNSIGNED_BYTE, num_dims)):
        raise ValueError(
            f"{path} starts with {content[:4].hex()}; expected {bytes((0, 0, UNSIGNED_BYTE, num_dims)).hex()}, the mark of "
            f"an idx file of unsigned bytes in {num_dims} dimensions."
        )
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", num_dims, 4))
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{path} holds {len(content) - header} bytes of data, expected {math.prod(shape)} for {list(shape)}; it was cut "
            "short or is damaged: fetch it again."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def digest(files: dict[str, tuple[Path, Path]]) -> str:
    """SHA-256 of the uncompressed files, hexadecimal: the same however they are compressed."""
    total = hashlib.sha256()
    for path in (path for paths in files.values() for path in paths):
        total.update(_content(path))
    return total.hexdigest()


def _existing(path: Path) -> Path | None:
    return next((p for p in (path, path.with_name(path.name + ".gz")) if p.is_file()), None)


def _content(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be decompressed ({error}); it was cut short or is damaged: fetch it again."
        ) from error
