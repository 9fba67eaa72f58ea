"""Training of the logits of a relaxation and of the shared weights in turn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ponita.sharing.search.tangle import RelaxationSampler
from ponita.sharing.search.training import LossFunction, SupernetTrainer, endless


class BilevelTrainer(SupernetTrainer):
    """Before each step of the weights, a step of the logits on validation data; first order, with a fresh draw for each.

    Source: TangleNAS (arXiv:2312.10440), algorithms 1 and 2.

    Args:
        model: a `Supernet`, or a model that holds one.
        loss_fn: the losses of a batch on the path that is active.
        optimizer: of the weights.
        sampler: whose logits are learned.
        val_loader: batches for the logits, from other data than those of `fit`; iterated again and again.
        arch_optimizer: of the logits; Adam(lr=3e-4, betas=(0.5, 0.999)) where None, with weight decay 1e-3 unless
            `kl_weight` is given.
        warmup_epochs: in which the logits are frozen.
        kl_weight: factor of `RelaxationSampler.regularizer`; 1e-3 in DrNAS.
        **options: other arguments of `SupernetTrainer`.

    Raises:
        ValueError: for a sampler without logits, a negative `warmup_epochs` or `kl_weight`, a `kl_weight` with relaxations
            other than "drnas", and as `SupernetTrainer`.
    """

    sampler: RelaxationSampler

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        optimizer: torch.optim.Optimizer,
        sampler: RelaxationSampler,
        val_loader: Iterable,
        arch_optimizer: torch.optim.Optimizer | None = None,
        warmup_epochs: int = 0,
        kl_weight: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(model, loss_fn, optimizer, sampler, **options)
        if not isinstance(sampler, RelaxationSampler):
            raise ValueError(f"{type(sampler).__name__} has no logits to learn; expected a RelaxationSampler.")
        if warmup_epochs < 0 or kl_weight < 0:
            raise ValueError(f"warmup_epochs={warmup_epochs}, kl_weight={kl_weight}; expected neither to be negative.")
        if kl_weight:
            sampler.regularizer()
        decay = 0.0 if kl_weight else 1e-3
        self.arch_optimizer = arch_optimizer or torch.optim.Adam(
            sampler.parameters(), lr=3e-4, betas=(0.5, 0.999), weight_decay=decay
        )
        self.warmup_epochs, self.kl_weight = warmup_epochs, kl_weight
        self._validation = endless(val_loader, "val_loader")

    def train_step(self, batch: Any) -> float:
        """A step of the logits, unless they are frozen, and one of the weights; the loss of the latter."""
        if self.epoch >= self.warmup_epochs:
            self.architecture_step(next(self._validation))
        return super().train_step(batch)

    def architecture_step(self, batch: Any) -> float:
        """One step of the logits, with the weights as they are; the loss of the batch."""
        draw = self.sampler.sample()
        with self.supernet.activate(draw.path):
            loss = self.loss_fn(self.model, batch).mean
        objective: Tensor = loss + self.sampler.score_loss(draw, loss) + self.sampler.extra_loss(draw, self.supernet)
        if self.kl_weight:
            objective = objective + self.kl_weight * self.sampler.regularizer()
        logits = list(self.sampler.parameters())
        # Not backward(), which would also add to the gradients of the weights.
        for parameter, gradient in zip(logits, torch.autograd.grad(objective, logits, allow_unused=True), strict=True):
            parameter.grad = gradient
        self.arch_optimizer.step()
        return float(loss.detach())
