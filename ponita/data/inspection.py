"""What a set of structures holds, in numbers."""

from __future__ import annotations

import warnings

import numpy as np

from ponita.data.elements import SYMBOLS, formula
from ponita.data.faults import net_force_per_atom
from ponita.data.references import References, least_squares_references, sum_compositions
from ponita.data.structures import Structures
from ponita.data.units import GPA

Rows = list[tuple[str, ...]]


def summarize(s: Structures) -> Rows:
    """One line for each quantity: how many structures have it, and its range.

    Args:
        s: the structures.

    Returns:
        A heading, and rows of name, unit, number, smallest, median, mean, largest, standard deviation.
    """
    periodic = s.pbc.any(1) & (s.volume > 0)
    energy = (s.energy / s.counts)[s.has["energy"]]
    forces = s.forces[np.isfinite(s.forces).all(1)]
    stress = s.stress[s.has["stress"]] / GPA
    rows = [
        ("atoms in a structure", "", s.counts),
        ("volume of an atom", "Å³", (s.volume / s.counts)[periodic & s.pbc.all(1)]),
        ("energy of an atom", "eV", energy),
        ("  less references (least squares)", "eV", _residuals(s)),
        ("force components", "eV/Å", forces.ravel()),
        ("forces", "eV/Å", np.linalg.norm(forces, axis=1)),
        ("net force an atom", "meV/Å", 1000 * net_force_per_atom(s)[s.has["forces"]]),
        ("pressure", "GPa", -np.trace(stress, axis1=1, axis2=2) / 3),
        ("stress components", "GPa", stress.ravel()),
    ]
    heading = ("", "unit", "number", "smallest", "median", "mean", "largest", "std")
    return [heading, *(_statistics(*row) for row in rows if len(row[2]))]


def summarize_elements(s: Structures) -> Rows:
    """One line for each element: structures and atoms that are of it, its forces, its reference energy (eV) if determined."""
    references = fitted(s)
    determined = references.energies if not references.warnings else {}
    norms = np.linalg.norm(s.forces, axis=1)
    rows: Rows = [("element", "structures", "atoms", "force rms (eV/Å)", "largest force", "reference energy (eV)")]
    for z in s.elements:
        of_element = s.numbers == z
        known = norms[of_element & np.isfinite(norms)]
        rms = f"{np.sqrt((known**2).mean() / 3):.3f}" if known.size else "-"
        largest = f"{known.max():.3f}" if known.size else "-"
        in_structures = len(np.unique(s.structure[of_element]))
        reference = f"{determined[z]:.3f}" if z in determined else "-"
        rows.append((SYMBOLS[z], str(in_structures), str(of_element.sum()), rms, largest, reference))
    return rows


def summarize_groups(s: Structures, limit: int = 30) -> Rows:
    """One line for each group and level of theory; none where there is but one.

    Args:
        s: the structures.
        limit: lines, of the largest groups.
    """
    labels = np.array([" ".join(filter(None, pair)) for pair in zip(s.head, s.group, strict=True)])
    names, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(names) < 2:
        return []
    rows: Rows = [("group", "structures", "atoms", "energy of an atom (eV)")]
    order = np.argsort(-counts, kind="stable")
    for number in order[:limit]:
        of_group = inverse == number
        energy = (s.energy / s.counts)[of_group & s.has["energy"]]
        mean = f"{energy.mean():.4f}" if energy.size else "-"
        rows.append((names[number] or "(none)", str(counts[number]), str(s.counts[of_group].sum()), mean))
    if len(names) > limit:
        rows.append((f"{len(names) - limit} more", str(counts[order[limit:]].sum()), "", ""))
    return rows


def describe(s: Structures) -> list[str]:
    """Sentences: how many structures of what, and where the labels were found."""
    compositions = np.unique(s.composition(), axis=0)
    kinds = f"{len(compositions)} compositions"
    if len(compositions) == 1:
        kinds = formula(s.numbers[: s.ptr[1]])
    periodic = int(s.pbc.any(1).sum())
    lines = [
        f"{len(s)} structures of {len(s.numbers)} atoms: {kinds}, {len(s.elements)} elements, {periodic} periodic"
        f"{_partly(s)}"
    ]
    for label in ("energy", "forces", "stress", "virial", "group", "head"):
        if label in s.found:
            lines.append(f"{label}: {s.found[label]}")
    if "held" in s.found:
        lines.append(f"no labels under the usual names; the file holds {s.found['held']}")
    return lines


def fitted(s: Structures) -> References:
    """References by least squares, without a warning where they are not determined; none without energies."""
    if not s.has["energy"].any():
        return References({}, "no energies")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return least_squares_references(sum_compositions([s], s.elements))


def _partly(s: Structures) -> str:
    partly = int((s.pbc.any(1) & ~s.pbc.all(1)).sum())
    return f", {partly} in some directions only" if partly else ""


def _residuals(s: Structures) -> np.ndarray:
    references = fitted(s).energies
    if not references:
        return np.zeros(0)
    explained = s.composition() @ np.array([references[z] for z in s.elements])
    return ((s.energy - explained) / s.counts)[s.has["energy"]]


def _statistics(name: str, unit: str, values: np.ndarray) -> tuple[str, ...]:
    numbers = np.array([values.min(), np.median(values), values.mean(), values.max(), values.std()])
    rounding = 1e-9 * np.abs(numbers).max()
    return (name, unit, str(values.size), *(f"{0.0 if abs(n) < rounding else n:.5g}" for n in numbers))
