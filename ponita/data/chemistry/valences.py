"""Which sums of bond orders atoms can have."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ponita.data.chemistry.distances import ELEMENTS, Bonds, table_bonds
from ponita.data.molecules import Molecules

#: Sum of bond orders of a stable atom in the convention of the literature, which knows no charges.
NEUTRAL = {1: 1, 6: 4, 7: 3, 8: 2, 9: 1}
#: Sums of integer bond orders (kekulised) that an element can have at a formal charge, with closed shells.
#: Bare hydrogen ions are left out: a hydrogen that lies too far off would be one, and its molecule stable without it.
ALLOWED: dict[tuple[int, int], tuple[int, ...]] = {
    (1, 0): (1,),
    (5, 0): (3,),
    (5, -1): (4,),
    (6, 0): (4,),
    (6, 1): (3,),
    (6, -1): (3,),
    (7, 0): (3,),
    (7, 1): (4,),
    (7, -1): (2,),
    (8, 0): (2,),
    (8, 1): (3,),
    (8, -1): (1,),
    (9, 0): (1,),
    (9, -1): (0,),
    (14, 0): (4,),
    (15, 0): (3, 5),
    (15, 1): (4,),
    (16, 0): (2, 4, 6),
    (16, 1): (3,),
    (16, -1): (1,),
    (17, 0): (1,),
    (17, -1): (0,),
    (35, 0): (1,),
    (35, -1): (0,),
    (53, 0): (1,),
    (53, -1): (0,),
}


class Stability(NamedTuple):
    """Which atoms and molecules are stable.

    Attributes:
        atoms: [N] bool.
        molecules: [M] bool, those all of whose atoms are.
    """

    atoms: np.ndarray
    molecules: np.ndarray


def table_stability(molecules: Molecules, bonds: Bonds | None = None) -> Stability:
    """Stability by the distance table (`table_bonds`), as EDM counts it.

    An atom is stable if its bond orders add up to 1 for H, 4 for C, 3 for N, 2 for O and 1 for F, whatever its charge. The
    shares of the literature are those of all atoms, and of all molecules. Bonds that share electrons in other ways count
    as unstable: nitro groups, ammonium, carbon monoxide, many aromatic rings with nitrogen.

    Args:
        molecules: of H, C, N, O and F.
        bonds: theirs, where known already.

    Raises:
        ValueError: for other elements.
    """
    bonds = table_bonds(molecules) if bonds is None else bonds
    wanted = np.zeros(max(ELEMENTS) + 1, dtype=np.int64)
    wanted[list(NEUTRAL)] = list(NEUTRAL.values())
    return stability(molecules, bonds.valences(len(molecules.numbers)) == wanted[molecules.numbers])


def stability(molecules: Molecules, atoms: np.ndarray) -> Stability:
    """Stability of molecules by that of their atoms, [N] bool."""
    unstable = np.bincount(molecules.molecule[~atoms], minlength=len(molecules))
    return Stability(atoms, unstable == 0)


def valences_allowed(numbers: np.ndarray, charges: np.ndarray, valences: np.ndarray) -> np.ndarray:
    """Which atoms have a valence that their element has at their charge (`ALLOWED`).

    Args:
        numbers: [N] atomic numbers.
        charges: [N] formal charges.
        valences: [N] sums of integer bond orders, hydrogens included. Aromatic orders of one and a half must be kekulised
            first: cut to integers, they would call wrong atoms right.

    Returns:
        [N] bool; False for elements and charges that are not listed.

    Raises:
        ValueError: for valences that are not integers.
    """
    if not np.issubdtype(np.asarray(valences).dtype, np.integer):
        raise ValueError(f"valences are {np.asarray(valences).dtype}; expected integers: kekulise the molecule first.")
    atoms = zip(numbers.tolist(), charges.tolist(), np.asarray(valences).tolist(), strict=True)
    return np.array([valence in ALLOWED.get((number, charge), ()) for number, charge, valence in atoms], dtype=bool)
