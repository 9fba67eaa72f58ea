"""Clusters of four atoms with Morse pairs: a family of small potentials to pretrain on one and adapt to others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ponita import Ponita
from ponita.data.batching import complete_edges
from ponita.models import Potential
from ponita.nn import calibrate

ATOMS, SPECIES = 4, (1, 6, 8)
SPREAD = 0.13  # of the positions


@dataclass
class Pairs:
    """Depth, width and distance of the Morse potential of each pair of species, [3, 3] symmetric."""

    depth: Tensor
    width: Tensor
    distance: Tensor

    @classmethod
    def drawn(cls, seed: int) -> Pairs:
        """Of random species."""
        generator = torch.Generator().manual_seed(seed)

        def symmetric(low: float, high: float) -> Tensor:
            values = low + (high - low) * torch.rand(3, 3, generator=generator)
            return (values + values.T) / 2

        return cls(symmetric(0.5, 1.5), symmetric(0.8, 1.6), symmetric(1.0, 1.6))

    def shifted(self, seed: int, size: float) -> Pairs:
        """Others, `size` (relative) away."""
        generator = torch.Generator().manual_seed(seed)

        def moved(values: Tensor) -> Tensor:
            noise = torch.randn(3, 3, generator=generator)
            return values * (1 + size * (noise + noise.T) / 2)

        return Pairs(moved(self.depth), moved(self.width), moved(self.distance))


@dataclass
class Clusters:
    """Positions [G, 4, 3], species [G, 4], energies [G], forces [G, 4, 3]."""

    pos: Tensor
    species: Tensor
    energy: Tensor
    forces: Tensor

    def __len__(self) -> int:
        return len(self.pos)

    def take(self, rows: Tensor) -> Clusters:
        return Clusters(self.pos[rows], self.species[rows], self.energy[rows], self.forces[rows])


def clusters(pairs: Pairs, number: int, seed: int) -> Clusters:
    """Distorted tetrahedra of random species, labelled."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.5
    pos = corners + SPREAD * torch.randn(number, ATOMS, 3, generator=generator)
    species = torch.randint(3, (number, ATOMS), generator=generator)
    pos.requires_grad_()
    a, b = torch.triu_indices(ATOMS, ATOMS, 1)
    r = (pos[:, a] - pos[:, b]).norm(dim=-1)
    d, w, r0 = (values[species[:, a], species[:, b]] for values in (pairs.depth, pairs.width, pairs.distance))
    energy = (d * ((1 - torch.exp(-w * (r - r0))) ** 2 - 1)).sum(1)
    (gradient,) = torch.autograd.grad(energy.sum(), pos)
    return Clusters(pos.detach(), species, energy.detach(), -gradient)


def new_potential(seed: int = 0) -> Potential:
    """A network of 24 channels and two layers, calibrated."""
    torch.manual_seed(seed)
    network = Ponita(
        3,
        hidden_channels=24,
        basis_channels=24,
        num_layers=2,
        num_orientations=6,
        widening=2,
        degree=2,
        axis_smoothing=0.1,
    )
    model = Potential(network, SPECIES, self_loops=False)
    calibrate(model, inputs(clusters(Pairs.drawn(0), 16, 5)))
    return model


def inputs(data: Clusters) -> dict[str, object]:
    """Arguments of a potential for all clusters at once."""
    number = len(data)
    numbers = torch.tensor(SPECIES)[data.species.flatten()]
    batch = torch.repeat_interleave(torch.arange(number), ATOMS)
    edges = complete_edges((ATOMS,) * number, False)
    return {
        "pos": data.pos.flatten(0, 1),
        "numbers": numbers,
        "edge_index": edges,
        "batch": batch,
        "num_graphs": number,
    }


def force_error(model: nn.Module, data: Clusters) -> float:
    """Mean absolute error of force components."""
    return float((model.eval().energy_forces(**inputs(data)).forces - data.forces.flatten(0, 1)).abs().mean())


def train(
    model: nn.Module,
    data: Sequence[Clusters],
    steps: int,
    lr: float,
    seed: int = 0,
    batch: int = 16,
    scope: Callable[[int], object] | None = None,
) -> nn.Module:
    """Adam on energies and forces; steps go round the sets of `data`, each in the scope of its number."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for step in range(steps):
        task = step % len(data)
        chosen = data[task].take(torch.randperm(len(data[task]), generator=generator)[:batch])
        optimizer.zero_grad()
        if scope is None:
            predicted = model.energy_forces(**inputs(chosen), create_graph=True)
        else:
            with scope(task):
                predicted = model.energy_forces(**inputs(chosen), create_graph=True)
        energies = (predicted.energy - chosen.energy).square().mean() / ATOMS
        forces = (predicted.forces - chosen.forces.flatten(0, 1)).square().mean()
        (energies + forces).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    return model


def pretrained(steps: int = 1500) -> Potential:
    """A potential of the first pairs."""
    return train(new_potential(), [clusters(Pairs.drawn(0), 1024, 1)], steps, 5e-3, batch=32)


def copy_of(model: Potential) -> Potential:
    """Before adapters are put in: copies of plain models are safe."""
    return copy.deepcopy(model)
