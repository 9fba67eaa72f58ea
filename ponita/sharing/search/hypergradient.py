"""How much a step of training on some architectures lowers a validation loss, without second derivatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ponita.sharing.search.space import Architecture
from ponita.sharing.search.supernet import find_supernet
from ponita.sharing.search.training import LossFunction

#: Length of the step along the gradient of a finite difference.
STEP = 0.01


def hypergradient(
    model: nn.Module, architectures: Sequence[Architecture], loss_fn: LossFunction, train_batch: Any, valid_batch: Any
) -> float:
    """<grad L_train, grad L_valid> of the mean losses of some architectures: how much a step on one lowers the other.

    By the finite difference [L_train(w + eps v) - L_train(w - eps v)] / (2 eps) with v = grad L_valid(w) and
    eps = 0.01 / ||v||. The weights are as before afterwards, bit for bit, and no gradient is left behind.

    Args:
        model: a supernet, or a model that holds one.
        architectures: in its space.
        loss_fn: the losses of a batch on the path that is active.
        train_batch: of the training set.
        valid_batch: of data that the weights are not trained on.

    Source:
        the one-step unroll of the bilevel problem of Zhang et al., arXiv:2307.08300.
    """
    direction = loss_gradient(model, architectures, loss_fn, valid_batch)
    norm = norm_of(direction)
    if norm == 0:
        return 0.0
    eps = STEP / norm
    ends = []
    for sign in (1, -1):
        with _moved(model, [sign * eps * part for part in direction]):
            ends.append(_mean_loss(model, architectures, loss_fn, train_batch))
    return float((ends[0] - ends[1]) / (2 * eps))


def loss_gradient(
    model: nn.Module, architectures: Sequence[Architecture], loss_fn: LossFunction, batch: Any
) -> list[Tensor]:
    """Gradient of the mean loss of some architectures by each parameter that is trained; `grad` is left alone."""
    parameters = _trained(model)
    total = [torch.zeros_like(p) for p in parameters]
    for architecture in architectures:
        with find_supernet(model).activate(architecture):
            loss = loss_fn(model, batch).mean / len(architectures)
        parts = torch.autograd.grad(loss, parameters, allow_unused=True)
        total = [old if new is None else old + new for old, new in zip(total, parts, strict=True)]
    return total


def _mean_loss(model: nn.Module, architectures: Sequence[Architecture], loss_fn: LossFunction, batch: Any) -> Tensor:
    losses = []
    for architecture in architectures:
        with find_supernet(model).activate(architecture):
            losses.append(loss_fn(model, batch).mean.detach())
    return torch.stack(losses).mean()


@contextmanager
def _moved(model: nn.Module, by: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the parameters that are trained are moved; afterwards they are the old ones, not moved back."""
    parameters = _trained(model)
    before = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for p, part in zip(parameters, by, strict=True):
                p.add_(part)
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(parameters, before, strict=True):
                p.copy_(old)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def norm_of(parts: Sequence[Tensor]) -> Tensor:
    """The norm of all parts together."""
    return torch.stack([part.square().sum() for part in parts]).sum().sqrt()
