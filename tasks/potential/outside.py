"""Batches, losses and errors of a potential for loops that are not Lightning's: searches, federations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Batch

from ponita.data import collate
from ponita.geometry import random_rotations
from ponita.models import EnergyForces
from ponita.tasks.potential.metrics import MILLI
from ponita.tasks.potential.task import PotentialTask, rotate_structures
from ponita.training import structure_losses


def rotated_batches(
    dataset: Dataset, rows: Sequence[int] | Tensor, size: int, generator: torch.Generator
) -> Iterator[Batch]:
    """Structures of a training set in the order given, each turned at random.

    Args:
        dataset: of structures with energies and forces.
        rows: of it.
        size: structures in a batch.
        generator: of the rotations.
    """
    for part in torch.as_tensor(rows).split(size):
        batch = collate([dataset[int(row)] for row in part])
        turns = random_rotations(batch.num_graphs, generator=generator, dtype=batch.pos.dtype)
        yield rotate_structures(batch, turns)


def parts_by_energy(dataset: Dataset, parts: int) -> list[Tensor]:
    """Rows of a training set in even parts: the first part holds the structures of lowest energy, the last those of highest.

    Args:
        dataset: of structures of one composition with energies.
        parts: how many.

    Raises:
        ValueError: for fewer structures than parts.
    """
    if len(dataset) < parts:
        raise ValueError(f"{len(dataset)} training structures for {parts} parts; expected one for each at least.")
    energies = torch.cat([dataset[row].energy for row in range(len(dataset))])
    return list(energies.argsort(stable=True).tensor_split(parts))


def batch_losses(task: PotentialTask, batch: Batch, create_graph: bool = True) -> tuple[Tensor, EnergyForces]:
    """[G] loss of each structure, with its gradient where the graph is kept, and what was predicted."""
    predicted = task(batch, create_graph=create_graph)
    labels = EnergyForces(batch.energy, batch.forces)
    counts, scale = batch.ptr.diff(), task.potential.scale
    return structure_losses(predicted, labels, scale, task.loss_weights, batch.batch, counts), predicted


def force_error(task: PotentialTask, batches: Iterable[Batch]) -> float:
    """Mean absolute error of force components, meV/Å."""
    total, count = 0.0, 0
    for batch in batches:
        forces = task(batch).forces
        total += float((forces - batch.forces).abs().sum())
        count += forces.numel()
    return MILLI * total / count
