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


def warmup_cosine(
    optimizer: torch.optim.Optimizer, warmup_steps: float, total_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Half a cosine from the full rate to zero, times a linear warm-up; stepped after every batch.

    Args:
        optimizer: whose rates to scale.
        warmup_steps: length of the warm-up. The first step is not at rate zero.
        total_steps: length of the training.
    """

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else 1.0
        return 0.5 * (1 + math.cos(math.pi * min(step / total_steps, 1.0))) * warm

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
