"""Reference energies: what an atom of each element contributes to total energies, before anything is learned."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ponita.data.elements import SYMBOLS, atomic_number
from ponita.data.structures import Structures


@dataclass(frozen=True)
class References:
    """Energies of atoms, and what they leave over.

    Attributes:
        energies: eV of an atom, by atomic number.
        source: how they were found, in words.
        residual_mean: mean over the structures of (energy - sum of references) / atoms, eV.
        residual_rms: root mean square of the same about its mean, eV.
        warnings: what is doubtful about them.
    """

    energies: dict[int, float]
    source: str
    residual_mean: float = 0.0
    residual_rms: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def rows(self) -> list[tuple[str, ...]]:
        """A table of them, with a heading."""
        return [
            ("element", "reference energy (eV)"),
            *((SYMBOLS[z], f"{energy:.4f}") for z, energy in sorted(self.energies.items())),
        ]


class CompositionSums:
    """What least squares over compositions need, added up over parts of a data set of any size.

    Args:
        elements: atomic numbers of the columns.
    """

    def __init__(self, elements: Sequence[int]) -> None:
        self.elements = tuple(elements)
        size = len(self.elements)
        self.gram, self.moment, self.total, self.squares = np.zeros((size, size)), np.zeros(size), 0.0, 0.0
        self.count = 0
        self.compositions: set[bytes] = set()
        self.isolated: dict[int, list[float]] = {}

    def add(self, structures: Structures) -> None:
        """Count structures that have an energy."""
        has = structures.has["energy"]
        counts = structures.composition(self.elements)[has]
        energy, size = structures.energy[has], structures.counts[has]
        self.gram += (counts / size[:, None]).T @ (counts / size[:, None])
        self.moment += (counts / size[:, None]).T @ (energy / size)
        self.total += float((energy / size).sum())
        self.squares += float(((energy / size) ** 2).sum())
        self.count += int(has.sum())
        self.compositions |= {row.tobytes() for row in np.unique(counts, axis=0)}
        alone = np.flatnonzero(has & (structures.counts == 1))
        for row in alone:
            number = int(structures.numbers[structures.ptr[row]])
            self.isolated.setdefault(number, []).append(float(structures.energy[row]))

    def residuals(self, energies: Mapping[int, float]) -> tuple[float, float]:
        """Mean, and root mean square about it, of the energies per atom that references leave over (eV)."""
        if not self.count:
            return 0.0, 0.0
        x = np.array([energies.get(z, 0.0) for z in self.elements])
        # Composition fractions sum to one, so the mean of what references explain follows from the Gram matrix.
        fractions = self.gram.sum(1)
        mean = (self.total - float(fractions @ x)) / self.count
        square = (self.squares - 2 * float(self.moment @ x) + float(x @ self.gram @ x)) / self.count
        return mean, max(square - mean**2, 0.0) ** 0.5


def sum_compositions(parts: Iterable[Structures], elements: Sequence[int]) -> CompositionSums:
    """Sums over all parts.

    Args:
        parts: structures; what has no energy is left out.
        elements: atomic numbers of the potential.

    Raises:
        ValueError: for an atom of another element.
    """
    sums = CompositionSums(elements)
    for part in parts:
        sums.add(part)
    return sums


def isolated_references(sums: CompositionSums, isolated: Structures | None = None) -> References:
    """Energies of structures of a single atom.

    Args:
        sums: of the training structures, in which isolated atoms count.
        isolated: further structures, of which those with a single atom count, and come first.

    Raises:
        ValueError: if an element has none, or two that differ by more than 1 meV.
    """
    found = {z: list(values) for z, values in sums.isolated.items()}
    if isolated is not None:
        extra = sum_compositions([isolated], isolated.elements)
        found |= extra.isolated
    missing = [SYMBOLS[z] for z in sums.elements if z not in found]
    if missing:
        raise ValueError(
            f"no isolated atoms of {', '.join(missing)} with an energy; expected a structure of one atom for every element. "
            "Add them (isolated_atoms: FILE), give the energies ({H: -13.6, ...}), or use 'least_squares'."
        )
    for z, values in found.items():
        if max(values) - min(values) > 1e-3:
            raise ValueError(
                f"isolated atoms of {SYMBOLS[z]} have energies from {min(values):.4f} to {max(values):.4f} eV; expected one."
            )
    return _judged({z: found[z][0] for z in sums.elements}, "isolated atoms", sums)


def given_references(sums: CompositionSums, energies: Mapping[str | int, float]) -> References:
    """Energies the user gave, by symbols or atomic numbers.

    Raises:
        ValueError: if one is missing, or is no element.
    """
    known = {atomic_number(name): float(energy) for name, energy in energies.items()}
    missing = [SYMBOLS[z] for z in sums.elements if z not in known]
    if missing:
        raise ValueError(f"reference_energies has no energy of {', '.join(missing)}; expected one for every element.")
    return _judged({z: known[z] for z in sums.elements}, "given", sums)


def least_squares_references(sums: CompositionSums, rcond: float = 1e-8) -> References:
    """Energies that explain total energies per atom best; the smallest where compositions leave a choice.

    Args:
        sums: of the training structures.
        rcond: eigenvalues of the normal equations below this times the largest count as zero.

    Raises:
        ValueError: if no structure has an energy.
    """
    if not sums.count:
        raise ValueError("no structure has an energy; least squares over compositions need some.")
    values, vectors = np.linalg.eigh(sums.gram)
    keep = values > rcond * values[-1]
    solution = vectors[:, keep] @ ((vectors[:, keep].T @ sums.moment) / values[keep])
    occurring = np.diag(sums.gram) > 0
    doubts = []
    rank, unknowns = int(keep.sum()), int(occurring.sum())
    if rank < unknowns:
        doubts.append(
            f"{len(sums.compositions)} compositions determine {rank} of {unknowns} reference energies; the smallest ones were "
            "taken. Energies of other compositions will be wrong: use isolated atoms, or data of more compositions."
        )
    if not occurring.all():
        absent = [SYMBOLS[z] for z, occurs in zip(sums.elements, occurring, strict=True) if not occurs]
        doubts.append(
            f"no training structure with an energy holds {', '.join(absent)}: their reference energies are 0."
        )
    energies = dict(zip(sums.elements, np.where(occurring, solution, 0.0).tolist(), strict=True))
    return _judged(energies, f"least squares over {sums.count} structures", sums, doubts)


def _judged(energies: dict[int, float], source: str, sums: CompositionSums, doubts: Sequence[str] = ()) -> References:
    for doubt in doubts:
        warnings.warn(doubt, UserWarning, stacklevel=3)
    mean, rms = sums.residuals(energies)
    return References(energies, source, mean, rms, list(doubts))
