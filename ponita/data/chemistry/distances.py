"""Bonds by a table of typical lengths, as the literature on molecule generation reads them.

Source: Hoogeboom et al., "Equivariant diffusion for molecule generation in 3D" (EDM), 2022, with its tables and margins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ponita.data.elements import atomic_number
from ponita.data.molecules import Molecules
from ponita.data.structures import to_ptr

#: Typical lengths in pm of single, double and triple bonds; pairs that are missing have no such bond.
LENGTHS = (
    "HH74 HC109 HN101 HO96 HF92 CC154 CN147 CO143 CF135 NN145 NO140 NF136 OO148 OF142 FF142",
    "CC134 CN129 CO120 NN125 NO121 OO121",
    "CC120 CN116 CO113 NN110",
)
#: pm by which a bond of order one, two and three may be longer than in the table.
MARGINS = (10.0, 5.0, 3.0)
#: Elements of the table.
ELEMENTS = (1, 6, 7, 8, 9)


class Bonds(NamedTuple):
    """B bonds, each once.

    Attributes:
        pairs: [B, 2] int64 atoms, the first the lower; places in the flat arrays of all molecules.
        orders: [B] int64, from 1 to 3.
    """

    pairs: np.ndarray
    orders: np.ndarray

    def valences(self, atoms: int) -> np.ndarray:
        """[atoms] int64 sum of the bond orders of each atom."""
        return np.bincount(self.pairs.T.ravel(), np.tile(self.orders, 2), minlength=atoms).astype(np.int64)


def has_table(molecules: Molecules) -> bool:
    """Whether all elements are in the table: H, C, N, O and F."""
    return bool(np.isin(molecules.numbers, ELEMENTS).all())


def table_bonds(molecules: Molecules, chunk: int = 1000) -> Bonds:
    """Bonds by length.

    A pair is bonded where its distance is below the single bond's length plus 10 pm; the bond is double where the distance
    is also below the double bond's length plus 5 pm, and a double bond triple below the triple bond's plus 3 pm.

    Args:
        molecules: of H, C, N, O and F.
        chunk: molecules taken at once, for memory.

    Raises:
        ValueError: for other elements.
    """
    if not has_table(molecules):
        other = np.setdiff1d(molecules.numbers, ELEMENTS).tolist()
        raise ValueError(f"atomic numbers {other}; the table of bond lengths has {list(ELEMENTS)}: H, C, N, O and F.")
    limits = _limits()
    found = []
    for first in range(0, len(molecules), chunk):
        pairs = _pairs(molecules.ptr[first : first + chunk + 1])
        vectors = molecules.positions[pairs[:, 0]].astype(np.float64) - molecules.positions[pairs[:, 1]]
        distance = 100 * np.linalg.norm(vectors, axis=1)  # pm
        elements = molecules.numbers[pairs]
        below = distance < limits[:, elements[:, 0], elements[:, 1]]
        orders = np.cumprod(below, axis=0).sum(0)  # no double bond without the single one's bound
        bonded = orders > 0
        found.append(Bonds(pairs[bonded], orders[bonded]))
    if not found:
        return Bonds(np.zeros((0, 2), np.int64), np.zeros(0, np.int64))
    return Bonds(np.concatenate([b.pairs for b in found]), np.concatenate([b.orders for b in found]))


def _limits() -> np.ndarray:
    """[3, 10, 10] pm: the longest single, double and triple bond of two elements; 0 where there is none."""
    limits = np.zeros((3, 10, 10))
    for order, (words, margin) in enumerate(zip(LENGTHS, MARGINS, strict=True)):
        for word in words.split():
            i, j = (atomic_number(letter) for letter in word[:2])
            limits[order, i, j] = limits[order, j, i] = float(word[2:]) + margin
    return limits


def _pairs(ptr: np.ndarray) -> np.ndarray:
    """[K, 2] all pairs of two atoms of a molecule, the first the lower."""
    ends = np.repeat(ptr[1:], np.diff(ptr))
    atoms = np.arange(ptr[0], ptr[-1])
    later = ends - atoms - 1  # atoms of the molecule behind each
    starts = to_ptr(later)[:-1]
    first = np.repeat(atoms, later)
    return np.stack([first, first + 1 + np.arange(len(first)) - np.repeat(starts, later)], axis=1)
