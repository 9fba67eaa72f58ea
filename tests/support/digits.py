"""Small sets of drawn digits in the files of MNIST, and in the file of published superpixels."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import numpy as np
import torch

#: Strokes of three digits on a plane of 28 x 28 pixels, as corner points (x, y).
STROKES = {
    0: [(9, 6), (18, 6), (20, 14), (18, 22), (9, 22), (8, 14), (9, 6)],
    1: [(14, 5), (14, 23)],
    7: [(8, 6), (20, 6), (12, 23)],
}


def draw_digit(digit: int, rng: np.random.RandomState) -> np.ndarray:
    """[28, 28] uint8: a digit of `STROKES` with soft edges, moved and sheared a little."""
    corners = np.array(STROKES[digit], dtype=float) + rng.uniform(-2, 2, 2)
    corners[:, 0] += rng.uniform(-0.2, 0.2) * (corners[:, 1] - 14)
    steps = np.linspace(0, 1, 20)[:, None]
    line = np.concatenate([a + steps * (b - a) for a, b in itertools.pairwise(corners)])
    y, x = np.mgrid[:28, :28]
    nearest = np.hypot(x[..., None] - line[:, 0], y[..., None] - line[:, 1]).min(-1)
    return (255 / (1 + np.exp(3 * (nearest - 1.5)))).astype(np.uint8)


def write_digits(folder: Path, counts: tuple[int, int] = (24, 9), seed: int = 0) -> Path:
    """Write drawn digits as the four idx files of MNIST, the images compressed and the labels not.

    Args:
        folder: to write to; made if absent.
        counts: images of the training and of the test part.
        seed: of what is drawn.
    """
    rng = np.random.RandomState(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in zip(("train", "t10k"), counts, strict=True):
        labels = np.array([list(STROKES)[k % len(STROKES)] for k in range(count)], dtype=np.uint8)
        images = np.stack([draw_digit(int(label), rng) for label in labels])
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return folder


def idx_bytes(array: np.ndarray) -> bytes:
    """An idx file of unsigned bytes."""
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">u4").tobytes()
    return header + array.tobytes()


def write_published(path: Path, counts: tuple[int, int] = (4, 2)) -> list[list[dict[str, torch.Tensor]]]:
    """Write random graphs of five points in the form of the published file, with edges in one direction only.

    Args:
        path: of the file.
        counts: graphs of the training and of the test part.

    Returns:
        What was written.
    """
    generator = torch.Generator().manual_seed(0)
    ring = torch.tensor([[0, 1, 2, 3, 4, 2, 2], [1, 2, 3, 4, 0, 1, 2]])
    parts = [
        [
            {
                "x": torch.rand(5, 1, generator=generator),
                "pos": 28 * torch.rand(5, 2, generator=generator),
                "edge_index": ring,
                "y": torch.tensor([k % 10]),
            }
            for k in range(count)
        ]
        for count in counts
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(parts, path)
    return parts
