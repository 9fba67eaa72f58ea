"""What can be learned from QM9: the twelve targets and the dipole vector, their units, and energies of free atoms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ponita.data.units import HARTREE

#: Debye of one atomic unit of dipole moment (CODATA 2018).
DEBYE_PER_AU = 2.541746473
#: kcal/mol of a hartree, as the columns of atomisation energies were made with.
KCAL_PER_HARTREE = 627.509


class Target(NamedTuple):
    """Attributes:
    unit: of the values inside the package, and of what models return.
    shown: unit of tables, which is the paper's.
    per_unit: how many `shown` one `unit` is.
    factor: how many `unit` one unit of the file is.
    additive: whether it grows with the molecule, so that contributions of atoms are subtracted.
    column: name in the file.
    vector: whether it has three components.
    """

    unit: str
    shown: str
    per_unit: float
    factor: float
    additive: bool
    column: str
    vector: bool = False


def _energy(column: str, additive: bool) -> Target:
    return Target("eV", "meV", 1000.0, HARTREE, additive, column)


def _plain(unit: str, column: str, additive: bool) -> Target:
    return Target(unit, unit, 1.0, 1.0, additive, column)


#: By name, in the order of the paper's table.
TARGETS: dict[str, Target] = {
    "mu": _plain("D", "mu", False),
    "alpha": _plain("a0³", "alpha", True),
    "homo": _energy("homo", False),
    "lumo": _energy("lumo", False),
    "gap": _energy("gap", False),
    "r2": _plain("a0²", "r2", True),
    "zpve": _energy("zpve", True),
    "U0": _energy("U0", True),
    "U": _energy("U", True),
    "H": _energy("H", True),
    "G": _energy("G", True),
    "Cv": _plain("cal/mol/K", "Cv", True),
    "dipole": Target("D", "D", 1.0, DEBYE_PER_AU, False, "mp2_dipole_au", vector=True),
}
#: Columns of atomisation energies (kcal/mol), by the energy they are of.
ATOMISATION = {"U0": "u0_atom", "U": "u298_atom", "H": "h298_atom", "G": "g298_atom"}

#: Free atoms by target and atomic number, in the units of QM9 (hartree; cal/mol/K). Source: atomref.txt of the data set
#: (Ramakrishnan et al. 2014, https://doi.org/10.6084/m9.figshare.c.978904). The zero-point energy of an atom is zero.
FREE_ATOMS: dict[str, dict[int, float]] = {
    "zpve": dict.fromkeys((1, 6, 7, 8, 9), 0.0),
    "U0": {1: -0.500273, 6: -37.846772, 7: -54.583861, 8: -75.064579, 9: -99.718730},
    "U": {1: -0.498857, 6: -37.845355, 7: -54.582445, 8: -75.063163, 9: -99.717314},
    "H": {1: -0.497912, 6: -37.844411, 7: -54.581501, 8: -75.062219, 9: -99.716370},
    "G": {1: -0.510927, 6: -37.861317, 7: -54.598897, 8: -75.079532, 9: -99.733544},
    "Cv": dict.fromkeys((1, 6, 7, 8, 9), 2.981),
}


def find_target(name: str) -> Target:
    """The target of a name.

    Raises:
        ValueError: if there is none.
    """
    if name not in TARGETS:
        lower = {known.lower(): known for known in TARGETS}
        hint = f"; did you mean {lower[name.lower()]!r}?" if name.lower() in lower else ""
        raise ValueError(f"target {name!r} is unknown; expected some of {', '.join(TARGETS)}{hint}")
    return TARGETS[name]


def free_atoms(name: str, elements: Sequence[int]) -> np.ndarray:
    """What the free atoms of elements have of a target; zeros for targets the published table does not have.

    Args:
        name: of the target.
        elements: atomic numbers.

    Returns:
        [elements] in the target's unit.

    Raises:
        ValueError: for an element that QM9 does not have.
    """
    factor, table = find_target(name).factor, FREE_ATOMS.get(name)
    if table is None:
        return np.zeros(len(elements))
    unknown = sorted(set(elements) - table.keys())
    if unknown:
        raise ValueError(f"the published table of free atoms has {sorted(table)}, not the atomic numbers {unknown}.")
    return factor * np.array([table[z] for z in elements])
