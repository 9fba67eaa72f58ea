"""torch.compile of what is measured: forward, energies with forces, and the whole loss with the derivative inside.

A compiled network cannot be differentiated twice, a compiled loss can: `torch.autograd.grad` is traced inside it
(docs/architecture.md). The graph of energies and forces is returned detached, since its own graph is used up.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ponita.ops import force_pass
from ponita.tasks.bench.measure import Calls, Inputs

BACKEND = "inductor"


@lru_cache
def unavailable() -> str:
    """Why nothing can be compiled here; empty if something can."""
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        return f"torch {torch.__version__} cannot trace torch.autograd.grad"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.compile(torch.neg, backend=BACKEND)(torch.zeros(2))
    except Exception as error:  # what is raised for a missing compiler differs from version to version
        return f"torch.compile does not work here: {str(error).strip().splitlines()[0]}"
    return ""


class Compiled:
    """The calls of a model as compiled functions, each compiled at its first call.

    Attributes:
        seconds: what the first calls took, by the name of the call: compiling, and one evaluation.

    Raises:
        ImportError: if nothing can be compiled here.
    """

    def __init__(self) -> None:
        if unavailable():
            raise ImportError(unavailable())
        self.seconds: dict[str, float] = {}
        self._compiled = {f: torch.compile(f, backend=BACKEND) for f in (_forward, _energy_forces, _loss)}

    @property
    def calls(self) -> Calls:
        """In the place of those of ordinary autograd."""
        return Calls(*(self._call(name, f) for name, f in zip(Calls.__dataclass_fields__, self._compiled, strict=True)))

    def _call(self, name: str, function: Callable) -> Callable[[nn.Module, Inputs], Any]:
        def call(model: nn.Module, inputs: Inputs) -> Any:
            if name not in self.seconds:
                start = time.perf_counter()
                result = self._evaluate(name, function, model, inputs)
                if name == "loss":  # its backward pass is compiled at its first call, too
                    result.backward()
                    model.zero_grad()
                self.seconds[name] = time.perf_counter() - start
            return self._evaluate(name, function, model, inputs)

        return call

    def _evaluate(self, name: str, function: Callable, model: nn.Module, inputs: Inputs) -> Any:
        rest = {k: v for k, v in inputs.items() if k != "pos"}
        pos = inputs["pos"].detach().requires_grad_(name != "forward")
        with torch._dynamo.config.patch(trace_autograd_ops=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what dynamo says of its own internals
            return self._compiled[function](model, pos, rest)


def _forward(model: nn.Module, pos: Tensor, rest: Inputs) -> Tensor:
    with torch.no_grad():
        return model(pos=pos, **rest).scalars


def _energy_forces(model: nn.Module, pos: Tensor, rest: Inputs) -> tuple[Tensor, Tensor]:
    energy = model(pos=pos, **rest).scalars
    with force_pass():
        (gradient,) = torch.autograd.grad(energy.sum(), pos)
    return energy.detach(), -gradient


def _loss(model: nn.Module, pos: Tensor, rest: Inputs) -> Tensor:
    energy = model(pos=pos, **rest).scalars
    with force_pass():
        (gradient,) = torch.autograd.grad(energy.sum(), pos, create_graph=True)
    return energy.square().mean() / 500 + gradient.square().mean()
