"""Committees: the mean of several potentials, and their spread as a measure of what they do not know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ponita.interfaces.evaluator import Evaluator, Prediction
from ponita.interfaces.skin import ListKind, NearGraph, SkinList
from ponita.models import Potential


class CommitteePrediction(NamedTuple):
    """Means over the members, and standard deviations (with M - 1, of M members).

    Attributes:
        energy: [] eV.
        forces: [N, 3] eV/Å.
        stress: [3, 3] eV/Å³ or None.
        energy_std: [] eV.
        forces_std: [N] eV/Å, of the force vector: sqrt(sum over m of |F_m - F|² / (M - 1)).
        max_force_std: [] eV/Å, the largest of them.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor | None
    energy_std: Tensor
    forces_std: Tensor
    max_force_std: Tensor


def mean_and_spread(members: Sequence[Prediction]) -> CommitteePrediction:
    """What a committee says.

    Args:
        members: predictions of two potentials or more for one structure.
    """
    energies = torch.stack([member.energy for member in members])
    forces = torch.stack([member.forces.double() for member in members])
    stresses = [member.stress.double() for member in members if member.stress is not None]
    spread = vector_spread(forces)
    return CommitteePrediction(
        energy=energies.mean(0),
        forces=forces.mean(0),
        stress=torch.stack(stresses).mean(0) if stresses else None,
        energy_std=energies.std(0),
        forces_std=spread,
        max_force_std=spread.max(),
    )


def vector_spread(vectors: Tensor) -> Tensor:
    """[M, N, d] vectors of M members -> [N] standard deviation, sqrt(sum |v_m - mean|² / (M - 1))."""
    return vectors.var(0).sum(-1).sqrt()


class Committee:
    """Potentials that differ in what they were initialised with, evaluated on the same structures.

    Members that read the same kind of neighbour list share it.

    Args:
        potentials: two or more potentials or checkpoints.
        skin: Å, of the neighbour lists.
        **options: `device`, `dtype`, `head` and `tabulate` of `Evaluator`, for all members.

    Raises:
        ValueError: for fewer than two members, and as `Evaluator`.
    """

    def __init__(self, potentials: Sequence[Potential | Path | str], skin: float = 0.3, **options: Any) -> None:
        if len(potentials) < 2:
            raise ValueError(f"a committee of {len(potentials)} has no spread; expected at least two potentials.")
        self.members = [Evaluator(potential, **options) for potential in potentials]
        self.lists = {m.kind: SkinList(m.kind, skin, m.device) for m in self.members}

    def check_elements(self, numbers: Tensor) -> None:
        """Raise ValueError for atomic numbers [N] that a member does not know."""
        for member in self.members:
            member.check_elements(numbers)

    def predict(self, pos: Tensor, numbers: Tensor, cell: Tensor, pbc: Tensor, stress: bool) -> CommitteePrediction:
        """Mean and spread for a structure.

        Args:
            pos: [N, 3] Å, float64, on the CPU.
            numbers: [N] atomic numbers.
            cell: [3, 3] Å, float64, rows the cell vectors.
            pbc: [3] bool.
            stress: whether to compute it; needs a periodic structure.
        """
        graphs = self._graphs(pos, cell, pbc)
        return mean_and_spread([m.evaluate(graphs[m.kind], numbers, cell, stress) for m in self.members])

    def atom_energies(self, pos: Tensor, numbers: Tensor, cell: Tensor, pbc: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each atom's share of the energy, [N] and [N] eV; arguments as of `predict`."""
        graphs = self._graphs(pos, cell, pbc)
        energies = torch.stack([m.atom_energies(graphs[m.kind], numbers, cell) for m in self.members])
        return energies.mean(0), energies.std(0)

    def _graphs(self, pos: Tensor, cell: Tensor, pbc: Tensor) -> dict[ListKind, NearGraph]:
        return {kind: near.graph(pos, cell, pbc) for kind, near in self.lists.items()}
