"""Losses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ponita.models import EnergyForces, EnergyForcesStress


@dataclass
class LossWeights:
    """Weights of the terms of a potential's loss, all in units of the potential's scale (eV; eV/Å; eV/Å³).

    Attributes:
        energy: of the mean squared error of a structure's energy. The published recipe has 1/500.
        forces: of the mean squared error of a force component.
        stress: of the mean squared error of a component of the stress, which is a hundredth of a force in size.
        energy_per_atom: divide the error of an energy by the number of atoms: for structures of different sizes.
        energy_growth: factor that the weight of energies grows by from the first step of a training to the last, evenly in
            its logarithm. Crystals want a small weight at first, since energies are learned without any forces and the
            network stays there, and a large one at last.

    Raises:
        ValueError: unless the growth is positive.
    """

    energy: float = 0.002
    forces: float = 1.0
    stress: float = 0.0
    energy_per_atom: bool = False
    energy_growth: float = 1.0

    def __post_init__(self) -> None:
        if not self.energy_growth > 0:
            raise ValueError(
                f"energy_growth={self.energy_growth}; expected a positive factor, 1 for a constant weight."
            )

    def at(self, progress: float) -> LossWeights:
        """The weights at a part of a training.

        Args:
            progress: 0 at the first step, 1 after the last.
        """
        return replace(self, energy=self.energy * self.energy_growth**progress, energy_growth=1.0)


def energy_force_loss(
    predicted: EnergyForces | EnergyForcesStress,
    target: EnergyForces | EnergyForcesStress,
    scale: Tensor,
    weights: LossWeights,
    num_atoms: Tensor | None = None,
) -> dict[str, Tensor]:
    """Weighted squared errors in units of the scale (PONITA, rMD17 recipe). Labels that are NaN do not count.

    Args:
        predicted: of the potential.
        target: energies [G] eV (float64), forces [N, 3] eV/Å and, where it is predicted, stress [G, 3, 3] eV/Å³.
        scale: eV, eV/Å and eV/Å³ of one unit.
        weights: of the terms.
        num_atoms: [G], for energies per atom.

    Returns:
        "loss", and its parts "energy", "forces" and, where it is predicted, "stress" before weighting; scalars.

    Raises:
        ValueError: if energies per atom are asked for without `num_atoms`.
    """
    energies = (predicted.energy, target.energy)
    if weights.energy_per_atom:
        if num_atoms is None:
            raise ValueError("energy_per_atom=True needs num_atoms [G].")
        energies = tuple(energy / num_atoms for energy in energies)
    parts = {"energy": _mean_square(*energies, scale), "forces": _mean_square(predicted.forces, target.forces, scale)}
    loss = weights.energy * parts["energy"] + weights.forces * parts["forces"]
    if isinstance(predicted, EnergyForcesStress) and isinstance(target, EnergyForcesStress):
        parts["stress"] = _mean_square(predicted.stress, target.stress, scale)
        loss = loss + weights.stress * parts["stress"]
    return {"loss": loss, **parts}


def structure_losses(
    predicted: EnergyForces, target: EnergyForces, scale: Tensor, weights: LossWeights, batch: Tensor, num_atoms: Tensor
) -> Tensor:
    """The loss of each structure of a batch, for methods that weigh or draw them by it; every label must be known.

    Args:
        predicted: of the potential.
        target: energies [G] eV, forces [N, 3] eV/Å.
        scale: eV and eV/Å of one unit.
        weights: of the terms.
        batch: [N] structure of each atom.
        num_atoms: [G].

    Shape:
        [G]
    """
    energies = (predicted.energy - target.energy) / scale
    energies = energies / num_atoms if weights.energy_per_atom else energies
    squares = ((predicted.forces - target.forces) / scale).square().mean(1)
    forces = squares.new_zeros(len(num_atoms)).index_add(0, batch, squares) / num_atoms
    return weights.energy * energies.square() + weights.forces * forces


def _mean_square(predicted: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Mean over the labels that are known; zero if none is."""
    known = ~target.isnan()
    # Zeros in the place of unknown labels keep NaN out of the gradient.
    error = (predicted - torch.where(known, target, 0)) / scale
    return torch.where(known, error.square(), 0).sum() / known.sum().clamp(min=1)
