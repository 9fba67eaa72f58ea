"""The two kinds of adapted layers: a weight with an update, and an output with an update."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.nn import functional

from ponita.sharing.adapters.source import Source


class SiteLayer(nn.Module, BaseTunerLayer):
    """A module and the sources of its adapters, which belong to the tuner and are no part of this module's state.

    Args:
        base_layer: the module.
        site: its name.
        sources: of all adapters, by name of the adapter.
    """

    adapter_layer_names = ("sources",)

    def __init__(self, base_layer: nn.Module, site: str, sources: nn.ModuleDict) -> None:
        super().__init__()
        self.base_layer, self.site = base_layer, site
        self.__dict__["_sources"] = sources  # not registered here: each source is stored once, by the tuner
        self._disable_adapters, self.merged_adapters = False, []

    def __getattr__(self, name: str) -> Any:
        """What it does not have itself is that of the module it stands for."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)

    @property
    def sources(self) -> nn.ModuleDict:
        return self.__dict__["_sources"]

    def active_sources(self) -> Iterator[Source]:
        """Sources of the active adapters that are put here."""
        for name in self.active_adapters:
            if name in self.sources and self.sources[name].has(self.site):
                yield self.sources[name]


class DeltaLayer(SiteLayer):
    """A linear layer with y = (W + sum of updates) x + b. Updates are of weights: no activation is kept for them.

    Args:
        base_layer: linear.
        site: its name.
        sources: as for `SiteLayer`.
        dropout: probability that the update ignores a channel of the input, in training. One mask for a call, shared
            by points and orientations, so that equivariance holds in training too.
    """

    def __init__(self, base_layer: nn.Module, site: str, sources: nn.ModuleDict, dropout: float = 0.0) -> None:
        super().__init__(base_layer, site, sources)
        if not isinstance(base_layer, nn.Linear):
            raise ValueError(
                f"{site} is a {type(base_layer).__name__}; updates of weights are for nn.Linear. Narrow target_modules."
            )
        self.dropout = dropout
        self._base_weight: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or self.merged:
            return self.base_layer(x)
        weight = self.base_layer.weight
        update = self._update(list(self.active_sources()), weight)
        return functional.linear(x, weight if update is None else weight + update, self.base_layer.bias)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates to the base weight, which is remembered for `unmerge`."""
        names = [n for n in check_adapters_to_merge(self, adapter_names) if self.sources[n].has(self.site)]
        if not names:
            return
        weight = self.base_layer.weight
        before = weight.detach().clone() if self._base_weight is None else self._base_weight
        with torch.no_grad():
            merged = weight + sum(self.sources[name].delta(self.site, before) for name in names)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(
                    f"merging {names} into {self.site} gives weights that are not finite; nothing was merged."
                )
            weight.copy_(merged)
        self._base_weight = before
        self.merged_adapters = [*self.merged_adapters, *names]

    def unmerge(self) -> None:
        """Put the base weight back, bit for bit."""
        if self._base_weight is not None:
            with torch.no_grad():
                self.base_layer.weight.copy_(self._base_weight)
        self._base_weight, self.merged_adapters = None, []

    def _update(self, sources: list[Source], weight: Tensor) -> Tensor | None:
        if not sources:
            return None
        update = sum(source.delta(self.site, weight) for source in sources)
        if self.training and self.dropout:
            update = functional.dropout(torch.ones_like(weight[:1]), self.dropout) * update
        return update


class OutputLayer(SiteLayer):
    """A module of any arguments with an update of its output, h + update(h)."""

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        h = self.base_layer(*args, **kwargs)
        if self.disable_adapters:
            return h
        for source in self.active_sources():
            h = h + source.update(self.site, h)
        return h

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises ValueError: the update is not linear."""
        raise ValueError(NOT_MERGEABLE)

    def unmerge(self) -> None:
        """Nothing was merged."""


NOT_MERGEABLE = (
    "bottlenecks are not linear, so they cannot be merged into weights. Keep them in the model (ponita md runs it as it "
    "is), call unload() for the model without them, or train an adapter of weights instead, such as MoSConfig."
)
