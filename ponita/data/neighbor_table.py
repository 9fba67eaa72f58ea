"""Neighbour lists of a set of structures, made once: batches are drawn by joining them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from ponita.data.structures import Structures, runs, to_ptr
from ponita.geometry.periodic import periodic_neighbors

#: Structures that are matched at once.
TOGETHER = 256


@dataclass(frozen=True, eq=False)
class NeighborTable:
    """Edges of G structures as flat arrays, sorted by receiver within each structure.

    Attributes:
        edge_index: [2, E] int32, sender and receiver, counted from the structure's first atom.
        offsets: [E, 3] int16, cell that the sender's image is in.
        reverse: [E] int32, place of each edge's reverse, counted from the structure's first edge.
        ptr: [G + 1] int64; structure g has the edges ptr[g]:ptr[g + 1].
    """

    edge_index: np.ndarray
    offsets: np.ndarray
    reverse: np.ndarray
    ptr: np.ndarray

    @classmethod
    def make(cls, parts: Iterable[Structures], cutoff: float, loops: bool) -> NeighborTable:
        """Find the neighbours within a cut-off.

        Args:
            parts: structures.
            cutoff: Å.
            loops: include the edges i->i.

        Raises:
            ValueError: for a flat cell, naming the structure.
        """
        tables = [_table(chunk, cutoff, loops) for part in parts for chunk in part.chunks(TOGETHER)]
        edges, offsets, reverse, counts = (list(column) for column in zip(*tables, strict=True))
        return cls(
            np.concatenate(edges, axis=1),
            np.concatenate(offsets),
            np.concatenate(reverse),
            to_ptr(np.concatenate(counts)),
        )

    def take(self, rows: np.ndarray, first_atom: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The edges of some structures, as those of one graph.

        Args:
            rows: [K] structures.
            first_atom: [K] where the atoms of each begin in the batch.

        Returns:
            edge_index [2, E] int64 sorted by receiver, offsets [E, 3] int64, and reverse [E] int64.
        """
        edges, counts = runs(self.ptr, rows)
        first_edge = np.cumsum(counts) - counts
        edge_index = self.edge_index[:, edges].astype(np.int64) + np.repeat(first_atom, counts)
        reverse = self.reverse[edges].astype(np.int64) + np.repeat(first_edge, counts)
        return edge_index, self.offsets[edges].astype(np.int64), reverse


def _table(s: Structures, cutoff: float, loops: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    found = [_neighbors(s, row, cutoff, loops) for row in range(len(s))]
    counts = np.array([offsets.shape[0] for _, offsets in found])
    edge_index = np.concatenate([edges for edges, _ in found], axis=1)
    offsets = np.concatenate([offsets for _, offsets in found])
    structure = np.repeat(np.arange(len(s)), counts)
    key, opposite = _keys(structure, edge_index, offsets), _keys(structure, edge_index[::-1], -offsets)
    matched = np.isin(key, opposite)
    if not matched.all():  # rounding can find one direction of a pair only at the cut-off, where kernels vanish
        structure, edge_index, offsets = structure[matched], edge_index[:, matched], offsets[matched]
        key, opposite = key[matched], opposite[matched]
        counts = np.bincount(structure, minlength=len(s))
    # Sorted by what each is, and by what its reverse is, edges meet their reverses.
    reverse = np.empty_like(structure)
    reverse[np.argsort(opposite)] = np.argsort(key)
    first_edge = np.repeat(np.cumsum(counts) - counts, counts)
    return edge_index.astype(np.int32), offsets.astype(np.int16), (reverse - first_edge).astype(np.int32), counts


def _neighbors(s: Structures, row: int, cutoff: float, loops: bool) -> tuple[np.ndarray, np.ndarray]:
    atoms = slice(s.ptr[row], s.ptr[row + 1])
    positions, cell, pbc = (torch.from_numpy(array) for array in (s.positions[atoms], s.cell[row], s.pbc[row]))
    try:
        found = periodic_neighbors(positions, cutoff, cell, pbc, loops=loops)
    except ValueError as error:
        raise ValueError(f"{s.name(row)}: {error}") from error
    order = torch.argsort(found.edge_index[1], stable=True)
    return found.edge_index[:, order].numpy(), found.offsets[order].numpy()


def _keys(structure: np.ndarray, edge_index: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """[E] a number that no other edge of any of the structures has."""
    size, reach = int(edge_index.max(initial=0)) + 1, int(np.abs(offsets).max(initial=0))
    key = (structure * size + edge_index[0]) * size + edge_index[1]
    for column in offsets.T:
        key = key * (2 * reach + 1) + (column + reach)
    return key
