"""What is measured of a model: three kinds of work, and their times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ponita.ops import force_pass

Work = Callable[[], object]
Inputs = Mapping[str, Any]


def forward(model: nn.Module, inputs: Inputs) -> Tensor:
    """[G, 1] energies, without a graph."""
    with torch.no_grad():
        return model(**inputs).scalars


def energy_forces(model: nn.Module, inputs: Inputs, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """[G, 1] energies, and forces [N, 3]."""
    pos = inputs["pos"].detach().requires_grad_()
    energy = model(**{**inputs, "pos": pos}).scalars
    with force_pass():
        (gradient,) = torch.autograd.grad(energy.sum(), pos, create_graph=create_graph)
    return energy, -gradient


def loss(model: nn.Module, inputs: Inputs) -> Tensor:
    """A loss on energies and forces, weighted as for rMD17; the targets are zero, which costs the same."""
    energy, forces = energy_forces(model, inputs, create_graph=True)
    return energy.square().mean() / 500 + forces.square().mean()


@dataclass(frozen=True)
class Calls:
    """How a model is called: in ordinary autograd, or by compiled functions.

    Attributes:
        forward, energy_forces, loss: as the functions of those names.
    """

    forward: Callable[[nn.Module, Inputs], object] = forward
    energy_forces: Callable[[nn.Module, Inputs], tuple[Tensor, Tensor]] = energy_forces
    loss: Callable[[nn.Module, Inputs], Tensor] = loss

    def training_step(self, model: nn.Module, inputs: Inputs) -> None:
        """The loss and its gradients in all parameters, through the forces. No optimiser."""
        self.loss(model, inputs).backward()
        model.zero_grad()

    def named(self) -> dict[str, Callable[[nn.Module, Inputs], object]]:
        """By what tables call them."""
        functions = (self.forward, self.energy_forces, self.training_step)
        return dict(zip(MEASURES, functions, strict=True))


MEASURES = ("forward", "energy and forces", "training step")
INFERENCE = MEASURES[:2]
FULL = "the memory of the device is full"
EAGER = Calls()


class Timing(NamedTuple):
    """Attributes:
    warm_up: seconds of the first call.
    seconds: of each call after it.
    """

    warm_up: float
    seconds: list[float]


def interleaved(works: Mapping[str, Work], repeats: int) -> dict[str, Timing]:
    """Seconds of each work, in turns (A B A B), so that a drift of the machine meets all of them alike.

    Args:
        works: by name; each is called once before all are timed.
        repeats: how often each is timed.

    Returns:
        What it took, by name; without those for which the memory of a GPU is too small.
    """
    timings = {}
    for name, work in works.items():
        try:
            timings[name] = Timing(timed(work), [])
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    for _ in range(repeats):
        for name, timing in timings.items():
            timing.seconds.append(timed(works[name]))
    return timings


def timed(work: Work) -> float:
    """Seconds of a call, with all that it started on a GPU."""
    _wait()
    start = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
