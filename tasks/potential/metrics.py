"""Errors of potentials: of energies, forces and stresses, of groups of structures and of elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ponita.data.elements import SYMBOLS
from ponita.data.units import GPA
from ponita.models import EnergyForces, EnergyForcesStress

MILLI = 1000.0  # energies are in meV, forces in meV/Å
QUANTITIES = ("energy", "energy_per_atom", "forces", "stress")


class Errors(NamedTuple):
    """Attributes:
    mae: [K] mean absolute error of each group.
    rmse: [K] root mean square error.
    count: [K] numbers that it is of.
    """

    mae: Tensor
    rmse: Tensor
    count: Tensor

    def overall(self) -> Errors:
        """Of all groups together, K = 1."""
        count = self.count.sum(0, keepdim=True)
        share = self.count / count.clamp(min=1)
        square = (share * self.rmse.square()).sum(0, keepdim=True)
        return Errors((share * self.mae).sum(0, keepdim=True), square.sqrt(), count)


class GroupedErrors(Metric):
    """Mean absolute and root mean square errors of numbers that belong to K groups.

    Args:
        num_groups: K.
    """

    full_state_update = False

    def __init__(self, num_groups: int) -> None:
        super().__init__()
        for name in ("absolute", "squared", "count"):
            self.add_state(name, torch.zeros(num_groups, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, target: Tensor, group: Tensor) -> None:
        """Add numbers [M, ...] of things that belong to groups [M]; where the target is NaN they do not count."""
        known = ~target.isnan()
        # Differences first: total energies do not fit float32 to a meV.
        error = (predicted.detach() - torch.where(known, target, 0)).double()
        error = torch.where(known, error, 0)
        for state, values in (
            (self.absolute, error.abs()),
            (self.squared, error.square()),
            (self.count, known.double()),
        ):
            state.index_add_(0, group, values.reshape(len(group), -1).sum(1))

    def compute(self) -> Errors:
        number = self.count.clamp(min=1)
        return Errors(self.absolute / number, (self.squared / number).sqrt(), self.count)


class PotentialErrors(nn.Module):
    """Errors of a stage, in meV, meV an atom, meV/Å and GPa.

    Args:
        elements: atomic numbers of the potential.
        groups: names of the groups of structures.
    """

    def __init__(self, elements: Sequence[int], groups: Sequence[str] = ("",)) -> None:
        super().__init__()
        self.elements, self.groups = tuple(elements), tuple(groups)
        for name in QUANTITIES:
            setattr(self, name, GroupedErrors(len(groups)))
        self.of_elements = GroupedErrors(len(elements))

    def update(
        self,
        predicted: EnergyForces | EnergyForcesStress,
        target: EnergyForces | EnergyForcesStress,
        batch: Tensor,
        element: Tensor,
        group: Tensor,
    ) -> None:
        """Add a batch.

        Args:
            predicted: in eV, eV/Å and eV/Å³.
            target: the same; NaN where unknown.
            batch: [N] structure of each atom.
            element: [N] place of each atom's element among `elements`.
            group: [G] of each structure.
        """
        sizes = torch.bincount(batch, minlength=group.shape[0])
        energies = (predicted.energy, target.energy)
        self.energy.update(*(MILLI * energy for energy in energies), group)
        self.energy_per_atom.update(*(MILLI * energy / sizes for energy in energies), group)
        forces = (MILLI * predicted.forces, MILLI * target.forces)
        self.forces.update(*forces, group.index_select(0, batch))
        self.of_elements.update(*forces, element)
        if isinstance(predicted, EnergyForcesStress) and isinstance(target, EnergyForcesStress):
            self.stress.update(predicted.stress / GPA, target.stress / GPA, group)

    def tables(self) -> dict[str, Errors]:
        """Errors [K] by group, of "energy", "energy_per_atom", "forces", "stress"; and of "of_elements".

        Only of what there is.
        """
        metrics = {name: getattr(self, name) for name in (*QUANTITIES, "of_elements")}
        computed = {name: metric.compute() for name, metric in metrics.items() if metric.update_called}
        return {
            name: Errors(*map(torch.atleast_1d, errors)) for name, errors in computed.items()
        }  # of one group: scalars

    def values(self) -> dict[str, Tensor]:
        """Errors of all structures by name, such as "forces_mae"; what has no labels is left out."""
        tables, values = self.tables(), {}
        for name in QUANTITIES:
            if name in tables and float((errors := tables[name].overall()).count) > 0:
                values |= {f"{name}_mae": errors.mae[0].float(), f"{name}_rmse": errors.rmse[0].float()}
        if "stress_mae" in values:
            values["stress_mae_ev"] = values["stress_mae"] * GPA
        for k, z in enumerate(self.elements):
            errors = tables.get("of_elements")
            if errors is not None and float(errors.count[k]) > 0:
                values |= {f"forces_mae_{SYMBOLS[z]}": errors.mae[k].float()}
                values |= {f"forces_rmse_{SYMBOLS[z]}": errors.rmse[k].float()}
        return values

    def reset(self) -> None:
        """Forget everything."""
        for metric in self.children():
            metric.reset()
