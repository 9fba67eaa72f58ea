"""Losses."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ponita.models import EnergyForces


@dataclass
class LossWeights:
    """Weights of the terms of an energy and force loss, both in units of the potential's scale.

    Attributes:
        energy: of the mean squared error of a molecule's energy. The published recipe has 1/500.
        forces: of the mean squared error of a force component.
    """

    energy: float = 0.002
    forces: float = 1.0


def energy_force_loss(
    predicted: EnergyForces, target: EnergyForces, scale: Tensor, weights: LossWeights
) -> dict[str, Tensor]:
    """Weighted squared errors in units of the scale (PONITA, rMD17 recipe).

    Args:
        predicted: of the potential.
        target: energies [G] eV (float64) and forces [N, 3] eV/Å.
        scale: eV and eV/Å of one unit.
        weights: of the two terms.

    Returns:
        "loss", and its parts "energy" and "forces" before weighting; scalars.
    """
    energy = ((predicted.energy - target.energy) / scale).square().mean()
    forces = ((predicted.forces - target.forces) / scale).square().mean()
    return {"loss": weights.energy * energy + weights.forces * forces, "energy": energy, "forces": forces}
