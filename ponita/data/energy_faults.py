"""Energies in another unit, energies that do not belong, and forces that are not their derivatives."""

from __future__ import annotations

import warnings

import numpy as np

from ponita.data.elements import all_electron_energy
from ponita.data.references import least_squares_references, sum_compositions
from ponita.data.structures import Structures
from ponita.data.units import EV_PER_KCAL_MOL, HARTREE

LARGE = 1e4  # eV an atom
CLOSE = 0.08  # relative; the estimate of the energy of all electrons is exact to a few hundredths
#: How many of a unit an eV is.
PER_EV = {"Ha": 1 / HARTREE, "Ry": 2 / HARTREE, "kcal/mol": 1 / EV_PER_KCAL_MOL, "kJ/mol": 4.184 / EV_PER_KCAL_MOL}
SMALL_STEP = 0.3  # Å, root mean square over the atoms


def energy_units(s: Structures) -> str | None:
    """What speaks against energies in eV, with a guess of what they are; None if nothing does.

    Energies of all electrons follow from the elements to a few hundredths (`all_electron_energy`), so their unit can
    be read off. Energies with pseudopotentials cannot be recognised, unless they are huge.
    """
    has = s.has["energy"]
    if not has.any():
        return None
    per_atom = float(np.median(np.abs(s.energy[has] / s.counts[has])))
    heavy = float(np.mean(s.numbers > 2)) > 0.2
    if heavy:
        all_electrons = np.bincount(s.structure, all_electron_energy(s.numbers), minlength=len(s))
        ratio = float(np.median(s.energy[has] / all_electrons[has]))
        if abs(ratio - 1) < CLOSE:
            return None
        for unit, value in PER_EV.items():
            if abs(ratio / value - 1) < CLOSE:
                return (
                    f"energies are {per_atom:.4g} an atom in size, {ratio:.3g} times the {per_atom / ratio:.4g} eV of all "
                    f"electrons: they look like {unit}; expected eV. Declare it: units.energy={unit}"
                )
    if per_atom > LARGE:
        return (
            f"energies are {per_atom:.4g} eV an atom in size; expected less than {LARGE:.0g}. Are they in another unit, such "
            "as kcal/mol or meV? Declare it: units.energy"
        )
    return None


def energy_outliers(s: Structures, spreads: float = 30.0, smallest: float = 0.5) -> tuple[np.ndarray, str]:
    """Structures whose energy per atom is far from what their composition explains.

    Args:
        s: the structures.
        spreads: how many (robust) standard deviations are far.
        smallest: eV an atom that is never far.

    Returns:
        Their places, the worst first, and what to say.
    """
    rows = np.flatnonzero(s.has["energy"])
    none = np.zeros(0, dtype=np.int64), ""
    if rows.size < 10 * len(s.elements):  # few structures of many elements are explained too well
        return none
    distance = _from_explained(s, rows)[rows]
    # Once more without the farthest, which drew the fit to themselves.
    near = rows[distance <= 3 * np.median(distance)]
    distance = _from_explained(s, near)[rows]
    bound = max(spreads * 1.4826 * float(np.median(distance)), smallest)
    far = np.flatnonzero(distance > bound)
    if not far.size:
        return none
    far = far[np.argsort(-distance[far])]
    message = f"{far.size} structures are up to {distance[far[0]]:.4g} eV an atom from what their composition explains"
    return rows[far], message


def _from_explained(s: Structures, rows: np.ndarray) -> np.ndarray:
    """[G] eV an atom, distance of every energy from what references fitted to some of the structures explain."""
    some = s.take(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        references = least_squares_references(sum_compositions([some], s.elements)).energies
    explained = s.composition() @ np.array([references[z] for z in s.elements])
    residual = (s.energy - explained) / s.counts
    return np.abs(residual - np.median(residual[rows]))


def forces_against_energies(s: Structures) -> str | None:
    """Whether energies change by the work of the forces along trajectories; None if they do, or if there are none.

    Between two frames of a file with the same atoms, close to each other, E2 - E1 = -(F1 + F2)/2 . (x2 - x1) up to third
    order. A ratio that is far from one tells of units that do not fit, a negative one of the sign of the forces.
    """
    change, work = _consecutive(s)
    if change.size < 10:
        return None
    ratio = float(change @ work / (work @ work))
    correlation = float(change @ work / np.sqrt((change @ change) * (work @ work)))
    if abs(correlation) < 0.9 or 0.5 < ratio < 2:
        return None
    if ratio < 0:
        return f"energies rise where forces push (ratio {ratio:.3g} over {change.size} steps): are these gradients?"
    guesses = {unit: value for unit, value in PER_EV.items()}
    near = [unit for unit, value in guesses.items() if abs(np.log(ratio / value)) < 0.2]
    guess = f", as if energies were in {near[0]} and forces in eV/Å" if near else ""
    return (
        f"energies change by {ratio:.3g} times the work of the forces over {change.size} steps between frames; expected 1"
        f"{guess}: declare the units"
    )


def _consecutive(s: Structures) -> tuple[np.ndarray, np.ndarray]:
    """Change of energy, and work of the forces, over steps between neighbouring frames that are close."""
    changes, works = [], []
    usable = s.has["energy"] & s.has["forces"]
    same = (s.counts[1:] == s.counts[:-1]) & (s.file[1:] == s.file[:-1]) & usable[1:] & usable[:-1]
    for row in np.flatnonzero(same):
        a, b = slice(s.ptr[row], s.ptr[row + 1]), slice(s.ptr[row + 1], s.ptr[row + 2])
        step = s.positions[b] - s.positions[a]
        close = np.sqrt((step**2).sum(1).mean()) < SMALL_STEP and (step**2).max() > 0
        if close and np.array_equal(s.numbers[a], s.numbers[b]) and np.allclose(s.cell[row], s.cell[row + 1]):
            changes.append(s.energy[row + 1] - s.energy[row])
            works.append(-0.5 * ((s.forces[a] + s.forces[b]) * step).sum())
    return np.array(changes), np.array(works)
