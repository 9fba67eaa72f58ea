"""What an adapted model trains, and what it costs to store."""

from __future__ import annotations

from typing import NamedTuple

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ponita.sharing.adapters.layers import OutputLayer


class AdapterReport(NamedTuple):
    """What `adapter_report` counts.

    Attributes:
        sites: rows of name, kind of layer, and whether it can be merged.
        trainable: numbers that train, each counted once however many sites share it.
        total: numbers of the model without adapters.
        stored_bytes: of what trains, and of tables that are stored with it.
    """

    sites: list[tuple[str, str, bool]]
    trainable: int
    total: int
    stored_bytes: int

    def __str__(self) -> str:
        rows = [f"{name:<40} {kind:<14} {'mergeable' if mergeable else '-'}" for name, kind, mergeable in self.sites]
        percent = 100 * self.trainable / self.total
        return "\n".join(
            [*rows, f"{self.trainable} trainable of {self.total} ({percent:.2f} %), {self.stored_bytes} bytes"]
        )


def adapter_report(model: nn.Module) -> AdapterReport:
    """Count what an adapted model trains.

    Args:
        model: from `get_peft_model`.

    Raises:
        ValueError: if it holds no adapters.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    if not layers:
        raise ValueError(
            f"{type(model).__name__} holds no adapters; adapt it with get_peft_model(model, config) first."
        )
    sites = [
        (name.removeprefix("base_model.model."), type(layer).__name__, not isinstance(layer, OutputLayer))
        for name, layer in layers.items()
    ]
    added = _added(model)
    trained = list({id(p): p for p in model.parameters() if p.requires_grad}.values())
    total = sum(p.numel() for p in {id(p): p for p in model.parameters()}.values() if id(p) not in added)
    tables = [buffer for name, buffer in model.named_buffers() if ".sources." in name]
    stored = sum(tensor.numel() * tensor.element_size() for tensor in [*trained, *tables])
    return AdapterReport(sites, sum(p.numel() for p in trained), total, stored)


def _added(model: nn.Module) -> set[int]:
    """Ids of the parameters that are not the model's own: of adapters, and copies of modules that are stored."""
    added = {id(p) for name, p in model.named_parameters() if ".sources." in name or ".modules_to_save." in name}
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            own = {id(p) for p in layer.get_base_layer().parameters()}
            added |= {id(p) for p in layer.parameters()} - own
    return added
