"""Losses, optimiser groups and schedules."""

from ponita.training.finite import LossWatch, NonFiniteLossError
from ponita.training.losses import LossWeights, energy_force_loss, structure_losses
from ponita.training.optim import OptimizerConfig, cosine_factor, parameter_groups, warmup_cosine

__all__ = [
    "LossWatch",
    "LossWeights",
    "NonFiniteLossError",
    "OptimizerConfig",
    "cosine_factor",
    "energy_force_loss",
    "parameter_groups",
    "structure_losses",
    "warmup_cosine",
]
