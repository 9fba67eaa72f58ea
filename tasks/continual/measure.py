"""Errors of several methods on several molecules, while they are measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch_geometric.data import Batch

from ponita.models import EnergyForces
from ponita.tasks.potential.metrics import PotentialErrors

QUANTITIES = ("forces", "energy")


class StreamErrors:
    """Mean absolute errors of forces (meV/Å) and energies (meV) by method and molecule.

    Args:
        methods: names.
        molecules: names, in the order in which they come.
        elements: atomic numbers of the potentials.
        device: of the batches.
    """

    def __init__(
        self, methods: Sequence[str], molecules: Sequence[str], elements: Sequence[int], device: torch.device
    ) -> None:
        self.molecules = tuple(molecules)
        self.of = {method: PotentialErrors(elements, molecules).to(device) for method in methods}

    def add(self, method: str, predicted: EnergyForces, batch: Batch, element: torch.Tensor, stage: int) -> None:
        """Add what a method predicted of a batch.

        Args:
            method: its name.
            predicted: by it.
            batch: with labels, of one molecule.
            element: [N] place of each atom's element.
            stage: of the molecule.
        """
        group = torch.full_like(batch.ptr[1:], stage)
        self.of[method].update(predicted, EnergyForces(batch.energy, batch.forces), batch.batch, element, group)

    def means(self, method: str, quantity: str, number: int) -> list[float]:
        """Errors of a method on the first molecules."""
        return self.of[method].tables()[quantity].mae[:number].tolist() if number else []

    def by_name(self, part: str, number: int) -> dict[str, float]:
        """Errors of all methods on the first molecules, to be logged."""
        return {
            f"{part}_{quantity}_mae/{method}/{molecule}": value
            for method in self.of
            for quantity in QUANTITIES
            for molecule, value in zip(self.molecules, self.means(method, quantity, number), strict=False)
        }
