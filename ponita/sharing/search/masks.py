"""One primitive for slicing and for mixing: which part of the largest weight each option owns.

An ordered option of size v owns the first v entries of an axis. With weights w on the options, entry j survives by
m[j] = sum_i w_i [j < v_i]: zero or one for a single option (slicing), in between for a mixture, which is the weight
superposition of TangleNAS (arXiv:2312.10440): sum_i w_i PAD(W[:v_i]) = W * m.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ponita.sharing.search.space import Architecture, Path, Relaxation, SearchSpace


def survival_mask(values: Sequence[int], weights: Tensor, size: int) -> Tensor:
    """m[j] = sum_i w_i [j < v_i].

    Args:
        values: [n] sizes of the options.
        weights: [n]; may carry a gradient.
        size: entries of the axis.

    Shape:
        [size], in the dtype of `weights`
    """
    if len(values) != len(weights):
        raise ValueError(f"{len(values)} sizes and {len(weights)} weights; expected one weight for each size.")
    inside = torch.arange(size, device=weights.device)[:, None] < torch.tensor(values, device=weights.device)
    return inside.to(weights.dtype) @ weights


class Dim:
    """An axis whose size depends on choices.

    Args:
        space: that holds them.
        *names: choices.
        size_of: from their values to the size; the product where None.

    Raises:
        ValueError: for a name that is no choice, and for options whose sizes do not nest: ordered options may not make the
            axis smaller.
    """

    def __init__(self, space: SearchSpace, *names: str, size_of: Callable[..., int] | None = None) -> None:
        unknown = [name for name in names if name not in space]
        if unknown or not names:
            raise ValueError(f"an axis depends on {unknown or 'nothing'}; expected choices of {list(space)}.")
        self.space, self.names = space, names
        self._size_of = size_of or (lambda *values: math.prod(values))
        self.max = self._size_of(*(space[name].values[-1] for name in names))
        options = [range(len(space[name])) for name in names]
        sizes = {option: self._of(option) for option in itertools.product(*options)}
        if max(sizes.values()) > self.max or min(sizes.values()) < 1:
            raise ValueError(
                f"sizes of {names} are {sorted(set(sizes.values()))}, the last options give {self.max}: they do not nest. Order the "
                "options so that the last is the largest."
            )

    def _of(self, options: Sequence[int]) -> int:
        return int(self._size_of(*(self.space[n].values[i] for n, i in zip(self.names, options, strict=True))))

    def size(self, architecture: Architecture) -> int:
        """Entries that an architecture has."""
        position = list(self.space).index
        return self._of([architecture[position(name)] for name in self.names])

    def mask(self, relaxation: Relaxation) -> Tensor:
        """[max] survival of each entry under a mixture."""
        return joint_mask([self], relaxation)


def joint_mask(axes: Sequence[Dim | int], relaxation: Relaxation) -> Tensor:
    """Survival of each entry of a weight: sum over the joint options of all its choices (combi-superposition).

    Axes that share a choice are taken together, as they must be: (hidden, widening x hidden) is not a product of masks.

    Args:
        axes: a `Dim`, or the fixed size, of each axis.
        relaxation: weights of the options.

    Shape:
        the largest size of every axis
    """
    shape = [axis if isinstance(axis, int) else axis.max for axis in axes]
    some = next(iter(relaxation.values()))
    names = sorted({name for axis in axes if isinstance(axis, Dim) for name in axis.names})
    if not names:
        return torch.ones(shape, dtype=some.dtype, device=some.device)
    space = next(axis.space for axis in axes if isinstance(axis, Dim))
    total = torch.zeros(shape, dtype=some.dtype, device=some.device)
    for options in itertools.product(*(range(len(space[name])) for name in names)):
        chosen = dict(zip(names, options, strict=True))
        weight = math.prod(relaxation[name][option] for name, option in chosen.items())
        total = total + weight * _block(axes, shape, chosen, total)
    return total


def _block(axes: Sequence[Dim | int], shape: Sequence[int], chosen: dict[str, int], like: Tensor) -> Tensor:
    block = torch.zeros(shape, dtype=like.dtype, device=like.device)
    sizes = [axis if isinstance(axis, int) else axis._of([chosen[name] for name in axis.names]) for axis in axes]
    block[tuple(slice(size) for size in sizes)] = 1
    return block


def size_of(axis: Dim | int, architecture: Architecture) -> int:
    """Of a fixed axis, or of one that depends on choices."""
    return axis if isinstance(axis, int) else axis.size(architecture)


def choose(weight: Tensor, axes: Sequence[Dim | int], path: Path) -> Tensor:
    """A weight of the largest network as a path sees it: sliced for an architecture, masked for a relaxation."""
    if isinstance(path, tuple):
        return weight[tuple(slice(size_of(axis, path)) for axis in axes)]
    return weight * joint_mask(axes, path).to(weight)
