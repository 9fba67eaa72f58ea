"""Graphs of superpixels: their arrays, how an image becomes one, and who is whose neighbour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

NUM_SEGMENTS = 75
COMPACTNESS = 0.25
#: Local numbers of points are stored as one byte.
MAX_NODES = 256
CHUNK = 500


@dataclass(frozen=True, eq=False)
class SuperpixelGraphs:
    """G graphs of N superpixels in all, as flat arrays.

    Attributes:
        positions: [N, 2] centroids (x, y) in pixels, float32; y grows downwards, (0, 0) is the centre of the first pixel.
        grey: [N] mean grey level, 0 to 1, float32.
        offsets: [G + 1] int64; graph g has the points offsets[g]:offsets[g + 1].
        labels: [G] int64, digits.
        pairs: [P, 2] uint8, neighbours i < j of a graph, counted from its first point; each pair stands for two edges.
        pair_offsets: [G + 1] int64; graph g has the pairs pair_offsets[g]:pair_offsets[g + 1].
        source: where they are from, in words.
    """

    positions: np.ndarray
    grey: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    pairs: np.ndarray
    pair_offsets: np.ndarray
    source: str

    def __len__(self) -> int:
        return len(self.labels)


def segment(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Superpixels of one image by SLIC (Achanta et al. 2012), about 75.

    Args:
        image: [H, W] uint8.

    Returns:
        Centroids [n, 2] float32, (x, y) in pixels, and mean grey levels [n] float32 from 0 to 1.

    Raises:
        ImportError: without scikit-image.
    """
    slic = _slic()
    labels = slic(
        image / 255, n_segments=NUM_SEGMENTS, compactness=COMPACTNESS, channel_axis=None, start_label=0
    ).ravel()
    labels = np.unique(labels, return_inverse=True)[1].ravel()
    height, width = image.shape
    x, y = np.tile(np.arange(width), height), np.repeat(np.arange(height), width)
    sums = [np.bincount(labels, values) for values in (x, y, image.ravel() / 255)]
    means = (np.stack(sums, axis=1) / np.bincount(labels)[:, None]).astype(np.float32)
    return means[:, :2], means[:, 2]


def neighbors(positions: np.ndarray, offsets: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of points of one graph that are closer than a radius, but do not coincide.

    Args:
        positions: [N, 2].
        offsets: [G + 1].
        radius: length, in the units of the positions.

    Returns:
        `pairs` and `pair_offsets` of `SuperpixelGraphs`.
    """
    counts = np.diff(offsets)
    candidates = np.stack(np.triu_indices(counts.max(), 1), axis=1).astype(np.uint8)
    pairs, num_pairs = [], []
    for first in range(0, len(counts), CHUNK):
        part = counts[first : first + CHUNK]
        # Absent points are at NaN, which is close to nothing.
        padded = np.full((2, len(part), counts.max()), np.nan, dtype=np.float32)
        padded[:, np.arange(counts.max()) < part[:, None]] = positions[offsets[first] : offsets[first + len(part)]].T
        squares = ((padded[:, :, candidates[:, 0]] - padded[:, :, candidates[:, 1]]) ** 2).sum(axis=0)
        close = (squares > 0) & (squares < radius**2)
        pairs.append(candidates[np.flatnonzero(close) % len(candidates)])
        num_pairs.append(close.sum(axis=1))
    return np.concatenate(pairs), to_offsets(np.concatenate(num_pairs))


def pairs_of_edges(edge_index: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Each edge once, whichever direction is given; no loops, and no points that coincide.

    Args:
        edge_index: [2, E] of one graph.
        positions: [n, 2] of its points.

    Shape:
        [P, 2] uint8, i < j, in lexicographic order.
    """
    low, high = edge_index.min(axis=0), edge_index.max(axis=0)
    keys = np.unique(low * MAX_NODES + high)
    low, high = keys // MAX_NODES, keys % MAX_NODES
    apart = (positions[low] != positions[high]).any(axis=1)
    return np.stack([low, high], axis=1)[apart].astype(np.uint8)


def to_offsets(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """[G] -> [G + 1] int64, where each run starts, and the end."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _slic() -> Callable[..., np.ndarray]:
    try:
        from skimage.segmentation import slic
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}; superpixels are made by scikit-image: pip install 'ponita[superpixel]'") from error
    return slic
