"""Layers whose options share weights: of each ordered option the first rows and columns of the largest.

Every layer takes a path as its last argument: an `Architecture` (slices) or a `Relaxation` (one forward with mixed weights).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ponita.sharing.search.masks import Dim, choose
from ponita.sharing.search.space import Path, SearchSpace


def _largest(axis: Dim | int) -> int:
    return axis if isinstance(axis, int) else axis.max


class EntangledLinear(nn.Linear):
    """A linear layer of chosen width.

    Args:
        in_dim, out_dim: an axis that depends on choices, or a fixed size.
        bias: whether there is one.

    Shape:
        x [..., in], path -> [..., out], of the sizes of an architecture, or the largest ones under a relaxation
    """

    def __init__(self, in_dim: Dim | int, out_dim: Dim | int, bias: bool = True) -> None:
        super().__init__(_largest(in_dim), _largest(out_dim), bias)
        self.axes = (out_dim, in_dim)

    def forward(self, x: Tensor, path: Path) -> Tensor:
        bias = None if self.bias is None else choose(self.bias, self.axes[:1], path)
        return nn.functional.linear(x, choose(self.weight, self.axes, path), bias)


class EntangledLayerNorm(nn.LayerNorm):
    """Normalisation over the channels that are there.

    Under a relaxation mean and variance weigh channels by their survival, so that all weight on one option gives what
    the slice gives. The published code normalises over all channels, which does not (`stats="full"`).

    Args:
        dim: the axis.
        stats: "masked" or "full".
    """

    def __init__(self, dim: Dim | int, stats: str = "masked") -> None:
        super().__init__(_largest(dim))
        if stats not in ("masked", "full"):
            raise ValueError(f"stats={stats!r}; expected 'masked' or 'full'.")
        self.dim, self.stats = dim, stats

    def forward(self, x: Tensor, path: Path) -> Tensor:
        weight, bias = (choose(values, [self.dim], path) for values in (self.weight, self.bias))
        if isinstance(path, tuple) or self.stats == "full" or isinstance(self.dim, int):
            return nn.functional.layer_norm(x, weight.shape, weight, bias, self.eps)
        return masked_layer_norm(x, self.dim.mask(path).to(x), weight, bias, self.eps)


def masked_layer_norm(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer normalisation with the weighted mean and variance of the channels [C]."""
    share = mask / mask.sum()
    centred = x - (x * share).sum(-1, keepdim=True)
    variance = (centred.square() * share).sum(-1, keepdim=True)
    return centred * torch.rsqrt(variance + eps) * weight + bias


class EntangledScale(nn.Module):
    """A factor of each channel.

    Args:
        dim: the axis.
        value: at first.
    """

    def __init__(self, dim: Dim | int, value: float = 1.0) -> None:
        super().__init__()
        self.dim = dim
        self.weight = nn.Parameter(torch.full((_largest(dim),), float(value)))

    def forward(self, x: Tensor, path: Path) -> Tensor:
        return x * choose(self.weight, [self.dim], path)


class EntangledDepth(nn.ModuleList):
    """A stack of which some layers run; under a relaxation the outputs after each depth are mixed.

    Args:
        layers: each called as layer(x, path).
        space: that holds the choice.
        name: of the choice of depth.
        keep: "first" layers, or "alternate" ones, spread evenly over the stack (AutoDistil).
    """

    def __init__(self, layers: list[nn.Module], space: SearchSpace, name: str, keep: str = "first") -> None:
        super().__init__(layers)
        if keep not in ("first", "alternate"):
            raise ValueError(f"keep={keep!r}; expected 'first' or 'alternate'.")
        if len(layers) != space[name].values[-1]:
            raise ValueError(f"{len(layers)} layers, but {name} goes up to {space[name].values[-1]}; expected as many.")
        self.space, self.name, self.keep = space, name, keep

    def kept(self, depth: int) -> list[int]:
        """Which layers run."""
        if self.keep == "first":
            return list(range(depth))
        return [round(i * (len(self) - 1) / max(depth - 1, 1)) for i in range(depth)]

    def forward(self, x: Tensor, path: Path) -> Tensor:
        depths = self.space[self.name].values
        if isinstance(path, tuple):
            for i in self.kept(depths[path[list(self.space).index(self.name)]]):
                x = self[i](x, path)
            return x
        if self.keep != "first":
            raise ValueError("only the first layers can be mixed; keep='alternate' needs an architecture.")
        mixed, weights = 0, dict(zip(depths, path[self.name], strict=True))
        for i, layer in enumerate(self, start=1):
            x = layer(x, path)
            if i in weights:
                mixed = mixed + weights[i].to(x) * x
        return mixed


class MixedOp(nn.ModuleDict):
    """Operations without an order: one runs, or all are mixed.

    Args:
        operations: by option, in the order of the choice; each called as operation(x).
        space: that holds the choice.
        name: of the choice, unordered.
    """

    def __init__(self, operations: Mapping[str, nn.Module], space: SearchSpace, name: str) -> None:
        super().__init__(operations)
        if list(operations) != [str(value) for value in space[name].values]:
            raise ValueError(f"operations {list(operations)}; expected those of {name}, {list(space[name].values)}.")
        self.space, self.name = space, name

    def forward(self, x: Tensor, path: Path) -> Tensor:
        if isinstance(path, tuple):
            return list(self.values())[path[list(self.space).index(self.name)]](x)
        weights = path[self.name]
        return sum(w.to(x) * operation(x) for w, operation in zip(weights, self.values(), strict=True))
