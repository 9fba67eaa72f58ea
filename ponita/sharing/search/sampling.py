"""Which paths a step of training takes, and what the sampler learns from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ponita.sharing.search.space import Path, SearchSpace


@dataclass
class Draw:
    """A path of a step.

    Attributes:
        path: to train.
        weight: factor of its loss.
        log_prob: of the draw, where the sampler has a gradient.
        info: whatever the sampler wants back.
    """

    path: Path
    weight: float | Tensor = 1.0
    log_prob: Tensor | None = None
    info: dict[str, Any] = field(default_factory=dict)


@dataclass
class StepFeedback:
    """What a path did in a step.

    Attributes:
        loss: of the batch.
        sample_losses: [G] of each graph or sample.
        output: of the supernet.
        target: what it was compared with.
        index: [G] rows of the training set, where the loader says so.
        grad_norm: of the step, before clipping.
    """

    loss: Tensor
    sample_losses: Tensor
    output: Any = None
    target: Any = None
    index: Tensor | None = None
    grad_norm: float | None = None


class PathSampler(nn.Module):
    """Base of the samplers. Those that learn override `observe` and `epoch_end`.

    Args:
        space: of the paths.
        seed: of the draws.
    """

    def __init__(self, space: SearchSpace, seed: int = 0) -> None:
        super().__init__()
        self.space = space
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, step: int) -> list[Draw]:
        """Paths of a step; gradients of several are added up before one step of the optimiser."""
        raise NotImplementedError

    def observe(self, draw: Draw, feedback: StepFeedback) -> None:
        """See what a path did."""

    def epoch_end(self, epoch: int, num_epochs: int) -> None:
        """Change the distribution."""

    def extra_loss(self, draw: Draw, supernet: nn.Module) -> Tensor | float:
        """Added to the loss of a path, such as the cost of what it asks for."""
        return 0.0


class UniformSampler(PathSampler):
    """One architecture a step, all alike (single path one-shot, SPOS, arXiv:1904.00420)."""

    def draw(self, step: int) -> list[Draw]:
        return [Draw(self.space.sample(self.generator))]


class SandwichSampler(PathSampler):
    """The smallest, the largest and some random architectures in every step (Yu and Huang, arXiv:1903.05134).

    Args:
        space: of the paths.
        n_random: how many of the last.
        seed: of the draws.
    """

    def __init__(self, space: SearchSpace, n_random: int = 2, seed: int = 0) -> None:
        super().__init__(space, seed)
        if n_random < 0:
            raise ValueError(f"n_random={n_random}; expected at least 0.")
        self.n_random = n_random

    def draw(self, step: int) -> list[Draw]:
        between = [self.space.sample(self.generator) for _ in range(self.n_random)]
        paths = [self.space.smallest(), self.space.largest(), *between]
        return [Draw(path, weight=1 / len(paths)) for path in paths]
