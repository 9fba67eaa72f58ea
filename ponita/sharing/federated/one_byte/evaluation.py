"""Losses at weights moved along a direction, after which the weights are the same to the last bit.

Adding a direction and subtracting it again would not give them back. Three ways that do differ in what they hold beside the
P parameters that train.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

#: From the name of a parameter to its part of a direction; made anew whenever it is asked for.
Direction = Callable[[str], Tensor]
MODES = ("functional", "snapshot", "lazy")


class Evaluation(Protocol):
    """Moves weights for as long as a context lasts."""

    def along(self, direction: Direction, radius: float) -> AbstractContextManager[dict[str, Tensor]]:
        """A context that gives what to call a closure with: moved weights by name, or nothing where the model has them."""


class Functional:
    """Moved copies of all weights, for `torch.func.functional_call`: P more numbers during an evaluation."""

    def __init__(self, named: Mapping[str, nn.Parameter]) -> None:
        self.named = named

    @contextmanager
    def along(self, direction: Direction, radius: float) -> Iterator[dict[str, Tensor]]:
        yield {name: moved(p, radius, direction(name)) for name, p in self.named.items()}


class Snapshot:
    """Weights are moved in place, and restored from a copy: P more numbers, always, where the copies are.

    Args:
        named: parameters by name.
        device: of the copies; that of each parameter where None.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], device: torch.device | str | None = None) -> None:
        self.named = named
        self.saved = {name: torch.empty_like(p, requires_grad=False, device=device) for name, p in named.items()}

    @contextmanager
    @torch.no_grad()
    def along(self, direction: Direction, radius: float) -> Iterator[dict[str, Tensor]]:
        wanted = {name: p.requires_grad for name, p in self.named.items()}
        for name, p in self.named.items():
            self.saved[name].copy_(p)
        try:
            for name, p in self.named.items():
                p.requires_grad_(False).copy_(moved(p, radius, direction(name)))
            yield {}
        finally:
            for name, p in self.named.items():
                p.copy_(self.saved[name]).requires_grad_(wanted[name])


class Lazy:
    """Modules that hold weights give moved ones whenever these are read: as much more as the largest tensor takes.

    Reading goes through an attribute of the module, as `layer.weight` does. A loss that differentiates inside, as forces
    need, keeps what was read in its graph, and then this saves nothing.

    Args:
        named: parameters by name.
        model: that holds them, under whatever names.

    Raises:
        ValueError: without a model, for parameters that it does not hold, and for recurrent layers of torch, which keep
            their weights in a list of their own.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], model: nn.Module | None) -> None:
        if model is None:
            raise ValueError("mode='lazy' needs the model whose weights are read; pass model=...")
        names = {id(p): name for name, p in named.items()}
        self._swaps: list[tuple[nn.Module, type, type]] = []
        self._now: tuple[Direction, float] | None = None
        found: set[str] = set()
        for module in model.modules():
            own = {key: names[id(p)] for key, p in module._parameters.items() if id(p) in names}
            if own and isinstance(module, nn.RNNBase):
                raise ValueError(f"mode='lazy' cannot move the weights of {type(module).__name__}; use 'snapshot'.")
            if own:
                self._swaps.append((module, type(module), self._reading(type(module), own)))
                found.update(own.values())
        missing = [name for name in named if name not in found]
        if missing:
            raise ValueError(f"parameters {missing[:3]} are not in the model given; pass the one that holds them.")

    @contextmanager
    def along(self, direction: Direction, radius: float) -> Iterator[dict[str, Tensor]]:
        self._now = direction, radius
        try:
            for module, _, reading in self._swaps:
                module.__class__ = reading
            yield {}
        finally:
            for module, plain, _ in self._swaps:
                module.__class__ = plain
            self._now = None

    def _reading(self, kind: type, own: Mapping[str, str]) -> type:
        """A class like `kind` whose parameters `own` are moved when they are read.

        It is of this file and not of torch's, so nothing that is remembered by the weights (`ponita.nn.memo`) is used.
        """
        properties = {key: property(self._reader(key, name)) for key, name in own.items()}
        return type(f"Moved{kind.__name__}", (kind,), {**properties, "__module__": __name__})

    def _reader(self, key: str, name: str) -> Callable[[nn.Module], Tensor]:
        def read(module: nn.Module) -> Tensor:
            direction, radius = self._now
            with torch.no_grad():
                return moved(module._parameters[key], radius, direction(name))

        return read


def moved(weight: Tensor, radius: float, direction: Tensor) -> Tensor:
    """weight + radius * direction, rounded alike in every mode."""
    return (radius * direction).add_(weight)


def make_evaluation(
    mode: str,
    named: Mapping[str, nn.Parameter],
    model: nn.Module | None = None,
    saved_on: torch.device | str | None = None,
) -> Evaluation:
    """An evaluation by its name.

    Args:
        mode: one of `MODES`.
        named: parameters by name.
        model: as of `Lazy`.
        saved_on: device of the copies of `Snapshot`.

    Raises:
        ValueError: for another mode, and as `Lazy`.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}; expected one of {list(MODES)}.")
    if mode == "lazy":
        return Lazy(named, model)
    return Snapshot(named, saved_on) if mode == "snapshot" else Functional(named)
