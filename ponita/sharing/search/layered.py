"""Supernets that are built of entangled layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from ponita.sharing.search.layers import EntangledDepth, EntangledLayerNorm, EntangledLinear, EntangledScale
from ponita.sharing.search.space import Architecture
from ponita.sharing.search.supernet import Axes, Supernet


class LayeredSupernet(Supernet):
    """A supernet whose axes are those of its entangled layers; parameters of other layers are used whole.

    A subclass builds the layers, and computes `run(path, *inputs)` with them.
    """

    def axes(self) -> Mapping[str, Axes]:
        known = {name: tuple(parameter.shape) for name, parameter in self.named_parameters()}
        for prefix, module in self.named_modules():
            own = dict(_axes_of(module))
            known |= {f"{prefix}.{name}": axes for name, axes in own.items() if f"{prefix}.{name}" in known}
        return known

    def layer_of(self, name: str) -> int | None:
        for prefix, module in self.named_modules():
            if (
                isinstance(module, EntangledDepth)
                and module.name == self.depth_choice
                and name.startswith(f"{prefix}.")
            ):
                return int(name.removeprefix(f"{prefix}.").partition(".")[0])
        return None

    def extract(self, architecture: Architecture) -> PathNetwork:
        return PathNetwork(self, self.space.check(architecture))


class PathNetwork(nn.Module):
    """A copy of one network of a supernet, with no more weights than it uses.

    Args:
        supernet: to copy from.
        architecture: in its space.
    """

    def __init__(self, supernet: LayeredSupernet, architecture: Architecture) -> None:
        super().__init__()
        self.supernet, self.architecture = copy.deepcopy(supernet), architecture
        used = supernet.block(architecture)
        for prefix, module in self.supernet.named_modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                corner = used.get(f"{prefix}.{name}" if prefix else name)
                kept = None if corner is None else nn.Parameter(parameter.detach()[corner].clone())
                setattr(module, name, kept)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.supernet.run(self.architecture, *inputs, **options)


def _axes_of(module: nn.Module) -> Iterator[tuple[str, Axes]]:
    if isinstance(module, EntangledLinear):
        yield from (("weight", module.axes), ("bias", module.axes[:1]))
    elif isinstance(module, EntangledLayerNorm | EntangledScale):
        yield from (("weight", (module.dim,)), ("bias", (module.dim,)))
