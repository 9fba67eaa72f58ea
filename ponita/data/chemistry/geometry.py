"""Bond lengths and angles by kind, and how far two distributions of them are apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ponita.data.chemistry.distances import Bonds, table_bonds
from ponita.data.elements import SYMBOLS
from ponita.data.molecules import Molecules

_SIGN = {1: "-", 2: "=", 3: "#"}


class Distance(NamedTuple):
    """Two distributions of one kind of bond or angle.

    Attributes:
        kind: such as "C-H", "C=O" or "H-C-C".
        wasserstein: Å for bonds and degrees for angles; NaN where one side has none of the kind.
        count: how many of the kind the molecules have.
        reference_count: how many the reference has.
    """

    kind: str
    wasserstein: float
    count: int
    reference_count: int


def lengths(molecules: Molecules, bonds: Bonds | None = None) -> dict[str, np.ndarray]:
    """Bond lengths in Å of each kind, such as "C-H" and "C=O", the heavier element last but for carbon and hydrogen.

    Args:
        molecules: of H, C, N, O and F.
        bonds: theirs; those of the distance table where None.
    """
    bonds = table_bonds(molecules) if bonds is None else bonds
    first, second = bonds.pairs.T
    distance = np.linalg.norm(_vectors(molecules, first, second), axis=1)
    one, two = molecules.numbers[first], molecules.numbers[second]
    # Chemists write C-H, C-N and O-H: hydrogen last, else by atomic number.
    swap = np.where(one == 1, 1000, one) > np.where(two == 1, 1000, two)
    one, two = np.where(swap, two, one), np.where(swap, one, two)
    kinds = (one * 200 + two) * 10 + bonds.orders

    def name(code: int) -> str:
        return f"{SYMBOLS[code // 2000]}{_SIGN[code % 10]}{SYMBOLS[code // 10 % 200]}"

    return {name(int(code)): distance[kinds == code] for code in np.unique(kinds)}


def angles(molecules: Molecules, bonds: Bonds | None = None) -> dict[str, np.ndarray]:
    """Angles between two bonds of an atom in degrees, of each kind, such as "C-C-H"; whatever the bonds' orders.

    Args:
        molecules: of H, C, N, O and F.
        bonds: theirs; those of the distance table where None.
    """
    bonds = table_bonds(molecules) if bonds is None else bonds
    left, centre, right = _triples(bonds, len(molecules.numbers))
    a, b = _vectors(molecules, left, centre), _vectors(molecules, right, centre)
    length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(1) / np.maximum(length, 1e-12)
    degrees = np.degrees(np.arccos(cosine.clip(-1, 1)))
    ends = np.sort(molecules.numbers[np.stack([left, right])], axis=0)[::-1]  # C-C-H, not H-C-C
    kinds = (ends[0] * 200 + molecules.numbers[centre]) * 200 + ends[1]

    def name(code: int) -> str:
        return "-".join(SYMBOLS[part] for part in (code // 40000, code // 200 % 200, code % 200))

    return {name(int(code)): degrees[kinds == code] for code in np.unique(kinds)}


def _vectors(molecules: Molecules, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return molecules.positions[first].astype(np.float64) - molecules.positions[second]


def _triples(bonds: Bonds, atoms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left end, centre and right end of all pairs of bonds that share an atom, each once."""
    centre, end = np.concatenate([bonds.pairs, bonds.pairs[:, ::-1]]).T
    order = np.argsort(centre, kind="stable")
    centre, end = centre[order], end[order]
    last = np.cumsum(np.bincount(centre, minlength=atoms))[centre]
    place = np.arange(len(centre))
    later = last - place - 1
    first = np.repeat(place, later)
    offset = np.arange(len(first)) - np.repeat(np.cumsum(later) - later, later)
    return end[first], centre[first], end[first + 1 + offset]


def wasserstein(values: np.ndarray, others: np.ndarray) -> float:
    """First Wasserstein distance of two samples: the area between their cumulative distributions, in their unit.

    Args:
        values: [K].
        others: [L].

    Returns:
        NaN where one of them is empty.
    """
    if not len(values) or not len(others):
        return float("nan")
    points = np.sort(np.concatenate([values, others]))
    one, two = (
        np.searchsorted(np.sort(sample), points[:-1], side="right") / len(sample) for sample in (values, others)
    )
    return float(np.abs(one - two) @ np.diff(points))


def compare_geometry(molecules: Molecules, reference: Molecules) -> list[Distance]:
    """Distance of each kind of bond, then of each kind of angle, from those of reference molecules.

    Args:
        molecules: of H, C, N, O and F.
        reference: such as training molecules.

    Returns:
        bonds, then angles; each sorted by how common the kind is in the reference.
    """
    rows = []
    for measure in (lengths, angles):
        ours, theirs = measure(molecules), measure(reference)
        none = np.zeros(0)
        found = [
            Distance(kind, wasserstein(a, b), len(a), len(b))
            for kind in ours.keys() | theirs.keys()
            for a, b in [(ours.get(kind, none), theirs.get(kind, none))]
        ]
        rows += sorted(found, key=lambda row: (-row.reference_count, row.kind))
    return rows
