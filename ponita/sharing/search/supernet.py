"""A network that holds all networks of a space, whose options share weights."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ponita.sharing.search.masks import Dim, joint_mask, size_of
from ponita.sharing.search.space import Architecture, Path, Relaxation, SearchSpace

Axes = Sequence[Dim | int]


class Supernet(nn.Module):
    """Base of supernets: one set of weights, a path says which part of it a forward uses.

    A subclass computes `run(path, *inputs)`, and names the axes of its parameters.

    Args:
        space: of the paths.

    Attributes:
        path: that of a forward that is given none: the largest network, unless one is active.
    """

    #: Name of the choice of how many layers run, if there is one.
    depth_choice = "num_layers"

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        self.path: Path = space.largest()

    @abstractmethod
    def run(self, path: Path, *inputs: Any, **options: Any) -> Any:
        """The output of a path."""

    @abstractmethod
    def axes(self) -> Mapping[str, Axes]:
        """What the axes of every parameter depend on."""

    @abstractmethod
    def extract(self, architecture: Architecture) -> nn.Module:
        """A network of its own with copies of its weights: its outputs are those of the path."""

    def forward(self, *inputs: Any, path: Path | None = None, **options: Any) -> Any:
        path = self.path if path is None else path
        return self.run(self.space.check_path(path), *inputs, **options)

    @contextmanager
    def activate(self, path: Path) -> Iterator[Supernet]:
        """Inside, every forward that names no path takes this one: for trainers that know nothing of paths.

        Raises:
            ValueError: for an architecture that is not in the space.
        """
        before, self.path = self.path, self.space.check_path(path)
        try:
            yield self
        finally:
            self.path = before

    def layer_of(self, name: str) -> int | None:
        """Which layer of the stack a parameter belongs to; None where it does not depend on the depth."""
        return None

    def taps(self, *inputs: Any, path: Path, **options: Any) -> tuple[Any, list[dict[str, Tensor]]]:
        """The output, and the features of every block, [N, O, C] by name."""
        raise NotImplementedError(f"{type(self).__name__} shows no features of its blocks.")

    def num_parameters(self, path: Path) -> Tensor:
        """Of an architecture, or the expected number under a relaxation, with its gradient."""
        if isinstance(path, tuple):
            return torch.tensor(sum(math.prod(part.stop for part in corner) for corner in self.block(path).values()))
        return torch.stack(
            [joint_mask(axes, path).sum() * self._present(name, path) for name, axes in self.axes().items()]
        ).sum()

    def block(self, architecture: Architecture) -> dict[str, tuple[slice, ...]]:
        """Which corner of each parameter an architecture uses; parameters that it does not use are left out."""
        used = (
            name for name in self.axes() if not self.layer_of(name) or self.layer_of(name) < self._depth(architecture)
        )
        return {name: tuple(slice(size_of(axis, architecture)) for axis in self.axes()[name]) for name in used}

    def shared_parameters(self, exclude_choice: str | None = None) -> list[nn.Parameter]:
        """Parameters that every architecture uses; without those that a choice shapes, where one is named."""
        used = self.block(self.space.smallest())
        return [
            p for name, p in self.named_parameters() if name in used and exclude_choice not in self._choices_of(name)
        ]

    def choice_parameters(self, name: str, option: int) -> list[nn.Parameter]:
        """Parameters that a choice shapes and that this option of it uses, with all others at their largest."""
        chosen = dict(zip(self.space, self.space.largest(), strict=True)) | {name: option}
        used = self.block(tuple(chosen.values()))
        return [p for key, p in self.named_parameters() if key in used and name in self._choices_of(key)]

    def _depth(self, architecture: Architecture) -> float:
        if self.depth_choice not in self.space:
            return math.inf
        return self.space.decode(architecture)[self.depth_choice]

    def _present(self, name: str, relaxation: Relaxation) -> Tensor | float:
        """The probability that the layer of a parameter is there."""
        layer = self.layer_of(name)
        if layer is None or self.depth_choice not in self.space:
            return 1.0
        deeper = [depth > layer for depth in self.space[self.depth_choice].values]
        return relaxation[self.depth_choice][deeper].sum()

    def _choices_of(self, name: str) -> set[str]:
        names = {choice for axis in self.axes()[name] if isinstance(axis, Dim) for choice in axis.names}
        return names if self.layer_of(name) is None else names | {self.depth_choice}

    def restrict(self, space: SearchSpace) -> None:
        """Take paths from a part of the space from now on; the weights stay.

        Raises:
            ValueError: if the choices are others.
        """
        if dict(space) != dict(self.space):
            raise ValueError(
                f"the space has choices {dict(space)}; expected those of the supernet, {dict(self.space)}."
            )
        self.space, self.path = space, space.largest()


def find_supernet(model: nn.Module) -> Supernet:
    """The supernet that a model is or holds.

    Raises:
        ValueError: if there is none.
    """
    found = next((module for module in model.modules() if isinstance(module, Supernet)), None)
    if found is None:
        raise ValueError(f"{type(model).__name__} holds no supernet; its network must be one, such as PonitaSupernet.")
    return found
