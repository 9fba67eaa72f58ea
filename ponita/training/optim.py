"""Optimiser groups and learning-rate schedule of the published recipes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class OptimizerConfig:
    """Adam with a cosine schedule.

    Attributes:
        lr: highest learning rate.
        weight_decay: L2 penalty inside Adam, on the weights of linear layers and kernels only.
        warmup_epochs: epochs over which the rate grows linearly from zero.
    """

    lr: float = 5e-4
    weight_decay: float = 0.0
    warmup_epochs: float = 0.0


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Decay matrices; leave biases, norms and layer scales alone.

    Args:
        module: whose parameters to split.
        weight_decay: for the first group.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]


def cosine_factor(step: float, total_steps: float, warmup_steps: float = 0.0) -> float:
    """Half a cosine from 1 to 0, times a linear warm-up. The first step of a warm-up is not at zero.

    Args:
        step: from 0.
        total_steps: length of the training.
        warmup_steps: length of the warm-up.
    """
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else 1.0
    return 0.5 * (1 + math.cos(math.pi * min(step / total_steps, 1.0))) * warm


def warmup_cosine(
    optimizer: torch.optim.Optimizer, warmup_steps: float, total_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The schedule of `cosine_factor`, stepped after every batch.

    Args:
        optimizer: whose rates to scale.
        warmup_steps: length of the warm-up.
        total_steps: length of the training.
    """
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine_factor(step, total_steps, warmup_steps))
