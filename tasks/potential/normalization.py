"""What the training set decides of a potential: reference energies, shift and scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn

from ponita.data.elements import SYMBOLS
from ponita.data.references import (
    CompositionSums,
    References,
    given_references,
    isolated_references,
    least_squares_references,
)
from ponita.data.structures import LABELS, Structures
from ponita.models import Potential
from ponita.tasks.datamodule import GraphDataModule
from ponita.training import LossWeights

#: What `reference_energies` of the task can be, beside numbers.
CHOICES = ("isolated", "least_squares", "mean")
Choice = str | Mapping[str, float | Mapping[str, float]] | None


@dataclass
class Statistics:
    """Sums over a training set, taken in one pass.

    Attributes:
        sums: for each head, what references need.
        number: structures.
        expected: for each label, structures that should have it: all; for forces those of several atoms; for the
            stress the periodic ones.
        labelled: for each label, structures that have it.
        energy: sum of the energies, eV.
        squares: sum of the squares of the known force components, (eV/Å)^2.
        components: how many of these there are.
    """

    sums: dict[str, CompositionSums]
    number: int = 0
    expected: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LABELS, 0))
    labelled: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LABELS, 0))
    energy: float = 0.0
    squares: float = 0.0
    components: int = 0

    def add(self, s: Structures) -> None:
        """Count structures.

        Raises:
            ValueError: for elements or levels of theory that the potential does not have.
        """
        for head, sums in self.sums.items():
            chosen = np.arange(len(s)) if len(self.sums) == 1 else np.flatnonzero(s.head == head)
            if chosen.size:
                sums.add(s.take(chosen))
        expected = {"energy": np.ones(len(s), bool), "forces": s.counts > 1, "stress": s.pbc.any(1)}
        self.number += len(s)
        for label in LABELS:
            self.expected[label] += int(expected[label].sum())
            self.labelled[label] += int((s.has[label] & expected[label]).sum())
        self.energy += float(s.energy[s.has["energy"]].sum())
        forces = s.forces[np.isfinite(s.forces).all(1)]
        self.squares += float((forces**2).sum())
        self.components += forces.size

    @property
    def num_compositions(self) -> int:
        """How many different compositions have energies."""
        return len(set().union(*(sums.compositions for sums in self.sums.values())))


def gather(parts: Iterable[Structures], potential: Potential) -> Statistics:
    """One pass over a training set.

    Raises:
        ValueError: for elements or levels of theory that the potential does not have.
    """
    statistics = Statistics({head: CompositionSums(potential.elements) for head in potential.heads})
    for part in parts:
        check_elements(part, potential)
        check_heads(part, potential)
        statistics.add(part)
    return statistics


def check_elements(s: Structures, potential: Potential) -> None:
    """Raise ValueError for atoms of elements that the potential does not know, naming a structure."""
    unknown = ~np.isin(s.numbers, potential.elements)
    if not unknown.any():
        return
    numbers = np.unique(s.numbers[unknown]).tolist()
    where = s.name(int(s.structure[np.argmax(unknown)]))
    raise ValueError(
        f"atomic numbers {numbers} are unknown to this potential, which was made for {list(potential.elements)}; {where} is "
        f"the first that has {', '.join(SYMBOLS[z] for z in numbers)}. Train a potential whose `elements` (and whose "
        "network's in_channels) include them, or leave these structures out."
    )


def check_heads(s: Structures, potential: Potential) -> None:
    """Raise ValueError unless each structure's level of theory is a head of the potential, or none is named."""
    names = set(np.unique(s.head).tolist())
    fits = names == {""} if len(potential.heads) == 1 else names <= set(potential.heads)
    if len(potential.heads) == 1 and names <= {"", *potential.heads}:
        fits = True
    if not fits:
        raise ValueError(
            f"the data are of the levels of theory {sorted(names)}; the potential has heads {list(potential.heads)}. Give it "
            "heads with their names (and the network as many out_channels), and name the head of every file (data.init_args.heads)."
        )


def check_labels(statistics: Statistics, weights: LossWeights) -> None:
    """Compare the labels that are there with those the loss wants.

    Raises:
        ValueError: if the loss has a weight on labels that no structure has.

    Warns:
        UserWarning: if some structures lack them.
    """
    for label, weight in (("energy", weights.energy), ("forces", weights.forces), ("stress", weights.stress)):
        have, expected = statistics.labelled[label], statistics.expected[label]
        if weight > 0 and not have:
            raise ValueError(
                f"loss_weights.{label}={weight:g}, but none of the {statistics.number} training structures has "
                f"{'' if label == 'forces' else 'a '}{label}; set the weight to 0, or say what its key is (keys.{label}; "
                "`ponita data inspect FILE` shows what a file holds)."
            )
        if weight > 0 and have < expected:
            rank_zero_warn(
                f"{expected - have} of {expected} training structures have no {label}: that term of the loss leaves them out"
            )


def normalize_from(
    potential: Potential, data: GraphDataModule, weights: LossWeights, choice: Choice
) -> dict[str, References]:
    """Check the labels of a training set, and set what it decides of a potential that has not been trained.

    Raises:
        ValueError: for data that do not fit the potential or the loss.
    """
    statistics = gather(data.sets["train"].parts(), potential)
    check_labels(statistics, weights)
    return normalize(potential, statistics, choice, getattr(data, "isolated", None))


def normalize(
    potential: Potential, statistics: Statistics, choice: Choice, isolated: Structures | None = None
) -> dict[str, References]:
    """Set reference energies, shift and scale of a potential that has not been trained.

    With "mean" the shift is the mean energy and the references are zero: for structures of one composition. Otherwise the
    shift is zero, and the network starts from the mean energy an atom that the references leave over.

    Args:
        potential: to change.
        statistics: of the training set.
        choice: "isolated", "least_squares", "mean"; energies by element, or by head and element; None: "mean" where
            there is one composition.
        isolated: structures of single atoms, beside those of the training set.

    Returns:
        References by head; empty for "mean".

    Raises:
        ValueError: if there is no choice and there are several compositions, or if the choice cannot be made.
    """
    sums = next(iter(statistics.sums.values()))
    scale = _scale(statistics, sums)
    if choice == "mean" or choice is None:
        _check_mean(statistics, choice)
        potential.set_normalization(statistics.energy / max(sums.count, 1), scale)
        return {}
    references = {
        head: _references(of_head, choice, head, isolated, len(statistics.sums))
        for head, of_head in statistics.sums.items()
    }
    if not statistics.components:
        scale = max((r.residual_rms for r in references.values()), default=0.0) or 1.0
    potential.set_normalization(0.0, scale)
    with torch.no_grad():
        for row, found in enumerate(references.values()):
            values = [found.energies[z] for z in potential.elements]
            potential.reference_energies[row] = torch.tensor(values, dtype=torch.float64)
            for readout in potential.network.readouts.values():
                readout.linear.bias[row] += found.residual_mean / scale
    return references


def correct_references(
    potential: Potential, counts: np.ndarray, residuals: np.ndarray, heads: np.ndarray
) -> dict[str, References]:
    """Change the reference energies of a trained potential by least squares, and no more than the data ask for.

    Of all corrections that explain the residuals equally well the smallest is taken, so elements that are missing keep
    their energies, and one composition changes those of its elements together.

    Args:
        potential: to change.
        counts: [G, elements] atoms of each element.
        residuals: [G] eV, energies less the potential's; NaN where they are not known.
        heads: [G] places of the levels of theory.

    Returns:
        References by head, of the heads with energies.
    """
    found = {}
    for place, head in enumerate(potential.heads):
        rows = np.isfinite(residuals) & (heads == place)
        if not rows.any():
            continue
        size = counts[rows].sum(1)
        fractions, target = counts[rows] / size[:, None], residuals[rows] / size
        correction = np.linalg.lstsq(fractions, target, rcond=1e-9)[0]
        with torch.no_grad():
            potential.reference_energies[place] += torch.from_numpy(correction).to(potential.reference_energies)
        left = target - fractions @ correction
        energies = dict(zip(potential.elements, potential.reference_energies[place].tolist(), strict=True))
        source = f"those of the potential, corrected by least squares over {rows.sum()} structures"
        found[head] = References(energies, source, float(left.mean()), float(left.std()))
    return found


def _scale(statistics: Statistics, sums: CompositionSums) -> float:
    """Root mean square force component; without forces, what energies an atom vary by."""
    if statistics.components:
        return (statistics.squares / statistics.components) ** 0.5
    variance = sums.squares / max(sums.count, 1) - (sums.total / max(sums.count, 1)) ** 2
    return max(variance, 0.0) ** 0.5 or 1.0


def _check_mean(statistics: Statistics, choice: str | None) -> None:
    if statistics.num_compositions <= 1 and len(statistics.sums) == 1:
        return
    seen = f"{statistics.num_compositions} compositions"
    if len(statistics.sums) > 1:
        seen += f" and {len(statistics.sums)} levels of theory"
    start = "reference_energies='mean' is for one composition" if choice else "no reference energies were chosen"
    raise ValueError(
        f"{start}, and the training set has {seen}: their total energies differ by thousands of eV for reasons that are no "
        "interaction. Choose --model.init_args.reference_energies isolated (structures of single atoms are in the "
        "training files, or in data.init_args.isolated_atoms), least_squares, or numbers in eV: {H: -13.6, O: -2041.8}."
    )


def _references(
    sums: CompositionSums, choice: Choice, head: str, isolated: Structures | None, num_heads: int
) -> References:
    if isinstance(choice, Mapping):
        energies = choice.get(head) if num_heads > 1 else choice
        if not isinstance(energies, Mapping) or any(isinstance(value, Mapping) for value in energies.values()):
            expected = "energies of elements under the name of each head" if num_heads > 1 else "energies of elements"
            raise ValueError(f"reference_energies={choice}; expected {expected}.")
        return given_references(sums, energies)
    if choice == "least_squares":
        return least_squares_references(sums)
    if choice != "isolated":
        raise ValueError(f"reference_energies={choice!r}; expected one of {list(CHOICES)}, or energies of elements.")
    if isolated is not None and num_heads > 1:
        rows = np.flatnonzero(np.isin(isolated.head, ["", head]))
        isolated = isolated.take(rows) if rows.size else None
    return isolated_references(sums, isolated)
