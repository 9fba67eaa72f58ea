"""What looks wrong with a set of structures, with the places of those it is about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ponita.data.energy_faults import energy_outliers, energy_units, forces_against_energies
from ponita.data.structures import Structures
from ponita.geometry.periodic import periodic_neighbors

CLOSEST = 0.5  # Å; no bond is as short
NET_FORCE = 2e-3  # eV/Å an atom, above which forces do not sum to zero
OUTLIER_SPREADS = 6.0
SMALLEST_SPREAD = 0.15  # decades
SAME = 1e-4  # Å within which positions are the same


@dataclass(frozen=True, eq=False)
class Fault:
    """Attributes:
    kind: a word or two.
    message: what was seen, what was expected.
    rows: [K] the structures it is about, worst first.
    severe: whether training on these structures cannot work.
    """

    kind: str
    message: str
    rows: np.ndarray
    severe: bool = False

    def describe(self, structures: Structures, limit: int = 5) -> str:
        """The message, with the names of some structures."""
        if not len(self.rows):
            return f"{self.kind}: {self.message}"
        names = "; ".join(structures.name(int(row)) for row in self.rows[:limit])
        more = f" and {len(self.rows) - limit} more" if len(self.rows) > limit else ""
        return f"{self.kind}: {self.message} ({names}{more})"


def find_faults(structures: Structures) -> list[Fault]:
    """Everything this module can find, severe faults first."""
    faults = [
        flat_cells(structures),
        close_atoms(structures),
        force_outliers(structures),
        net_forces(structures),
        duplicates(structures),
        *missing_labels(structures),
        *_of_energies(structures),
    ]
    return sorted((fault for fault in faults if fault is not None), key=lambda fault: not fault.severe)


def find_training_faults(structures: Structures) -> list[Fault]:
    """What should be known before training, in little time: flat cells, huge forces, energies in another unit."""
    faults = [flat_cells(structures), force_outliers(structures), *_of_energies(structures)]
    return [fault for fault in faults if fault is not None]


def flat_cells(s: Structures) -> Fault | None:
    """Cells that are flat along a periodic direction, where no periodic structure exists."""
    # Vectors of directions that are not periodic may be missing.
    lengths = np.linalg.norm(s.cell, axis=2)
    missing = s.pbc & (lengths < 1e-3)
    full = s.pbc.all(1) & (s.volume < 1e-3 * np.maximum(lengths.prod(1), 1e-6))
    rows = np.flatnonzero(missing.any(1) | full)
    if not rows.size:
        return None
    return Fault(
        "flat cell",
        f"{rows.size} structures are periodic along cell vectors that are missing or linearly dependent; expected a volume",
        rows,
        severe=True,
    )


def close_atoms(s: Structures) -> Fault | None:
    """Atoms, or images of atoms, on top of one another."""
    flat = flat_cells(s)
    skip = set() if flat is None else set(flat.rows.tolist())
    shortest = {}
    for row in range(len(s)):
        if row not in skip:
            distance = _shortest_below(s, row, CLOSEST)
            if distance is not None:
                shortest[row] = distance
    if not shortest:
        return None
    rows = np.array(sorted(shortest, key=shortest.__getitem__))
    return Fault(
        "close atoms",
        f"{rows.size} structures have atoms closer than {CLOSEST} Å, down to {shortest[rows[0]]:.3f} Å",
        rows,
    )


def largest_forces(s: Structures) -> np.ndarray:
    """[G] eV/Å, the largest norm of a force in each structure; 0 where there are no forces."""
    norms = np.nan_to_num(np.linalg.norm(s.forces, axis=1))
    return np.maximum.reduceat(norms, s.ptr[:-1]) if len(s) else norms


def force_outliers(s: Structures) -> Fault | None:
    """Structures whose largest force is far, on a logarithmic scale, from what is usual."""
    largest = largest_forces(s)
    logarithm = np.log10(np.maximum(largest, 1e-3))
    usual = logarithm[largest > 1e-3]
    if usual.size < 10:
        return None
    median = np.median(usual)
    spread = max(1.4826 * float(np.median(np.abs(usual - median))), SMALLEST_SPREAD)
    rows = np.flatnonzero(logarithm > median + OUTLIER_SPREADS * spread)
    if not rows.size:
        return None
    rows = rows[np.argsort(-largest[rows])]
    return Fault(
        "huge forces",
        f"{rows.size} structures have forces up to {largest[rows[0]]:.4g} eV/Å; the median of the largest is "
        f"{10**median:.3g} eV/Å",
        rows,
    )


def net_force_per_atom(s: Structures) -> np.ndarray:
    """[G] eV/Å, norm of the sum of forces divided by the number of atoms; NaN where there are no forces."""
    total = np.stack([np.bincount(s.structure, s.forces[:, k], minlength=len(s)) for k in range(3)], axis=1)
    return np.where(s.has["forces"], np.linalg.norm(total, axis=1) / s.counts, np.nan)


def net_forces(s: Structures) -> Fault | None:
    """Forces that push a structure as a whole; an energy that does not change with a translation has none."""
    net = np.nan_to_num(net_force_per_atom(s))
    rows = np.flatnonzero((net > NET_FORCE) & (s.counts > 1))
    if not rows.size:
        return None
    rows = rows[np.argsort(-net[rows])]
    return Fault(
        "net forces",
        f"{rows.size} structures have forces that do not sum to zero, up to {1000 * net[rows[0]]:.3g} meV/Å an atom",
        rows,
    )


def duplicates(s: Structures) -> Fault | None:
    """Structures with the same atoms at the same places, of one level of theory."""
    places: dict[bytes, list[int]] = defaultdict(list)
    for row, key in enumerate(structure_keys(s)):
        places[key].append(row)
    repeated = [rows for rows in places.values() if len(rows) > 1]
    if not repeated:
        return None
    differ = sum(float(np.ptp(s.energy[rows] / s.counts[rows])) > 1e-3 for rows in repeated)
    contradiction = f"; {differ} of them with energies that differ by more than 1 meV an atom" if differ else ""
    rows = np.array([row for rows in repeated for row in rows[1:]])
    return Fault("duplicates", f"{rows.size} structures repeat an earlier one{contradiction}", rows)


def structure_keys(s: Structures) -> list[bytes]:
    """[G] bytes that are equal where atoms, places, cell and level of theory are."""
    positions, cell = (np.rint(values / SAME).astype(np.int64) for values in (s.positions, s.cell))
    return [
        b"".join(
            [
                s.numbers[a:b].tobytes(),
                positions[a:b].tobytes(),
                cell[k].tobytes(),
                s.pbc[k].tobytes(),
                s.head[k].encode(),
            ]
        )
        for k, (a, b) in enumerate(zip(s.ptr[:-1], s.ptr[1:], strict=True))
    ]


def missing_labels(s: Structures) -> list[Fault]:
    """Labels that some structures have and others do not, or that none has."""
    faults = []
    expected = {"energy": np.ones(len(s), bool), "forces": s.counts > 1, "stress": s.pbc.any(1)}
    for label, has in s.has.items():
        rows = np.flatnonzero(expected[label] & ~has)
        if rows.size:
            which = "none of the" if rows.size == expected[label].sum() else f"{rows.size} of"
            periodic = "periodic " if label == "stress" else ""
            faults.append(
                Fault(f"missing {label}", f"{which} {expected[label].sum()} {periodic}structures", rows)
                if rows.size < expected[label].sum()
                else Fault(f"missing {label}", f"{which} {periodic}structures has one", rows[:0])
            )
    return faults


def _of_energies(s: Structures) -> list[Fault]:
    faults = [
        Fault("unit of energy", message, np.zeros(0, dtype=np.int64))
        for message in (energy_units(s), forces_against_energies(s))
        if message is not None
    ]
    rows, message = energy_outliers(s)
    return [*faults, Fault("energy outliers", message, rows)] if rows.size else faults


def _shortest_below(s: Structures, row: int, cutoff: float) -> float | None:
    """The shortest distance of a structure, if it is below the cut-off."""
    atoms = slice(s.ptr[row], s.ptr[row + 1])
    pos, cell = torch.from_numpy(s.positions[atoms]), torch.from_numpy(s.cell[row])
    found = periodic_neighbors(pos, cutoff, cell, torch.from_numpy(s.pbc[row]))
    if not found.edge_index.shape[1]:
        return None
    sender, receiver = found.edge_index
    return float((pos[sender] + found.offsets.double() @ cell - pos[receiver]).norm(dim=1).min())


def shared(first: Structures, second: Structures) -> np.ndarray:
    """Places in `second` of structures that are in `first` too."""
    known = set(structure_keys(first))
    return np.array([row for row, key in enumerate(structure_keys(second)) if key in known], dtype=np.int64)


def name_rows(s: Structures, rows: Sequence[int] | np.ndarray, limit: int = 5) -> str:
    """Names of some structures, for a message."""
    more = f" and {len(rows) - limit} more" if len(rows) > limit else ""
    return "; ".join(s.name(int(row)) for row in rows[:limit]) + more
