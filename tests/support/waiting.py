"""Which operations of a piece of work would make the host wait, were its tensors on a device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ponita.ops import reference

#: Their results, or the shapes of these, are numbers that the host must know.
WAITS = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount"),
    *("unique_dim", "unique_consecutive", "_unique", "_unique2"),
}


class Waits(TorchDispatchMode):
    """Collects their names; looks into the operators of this package, in plain torch, where `inside` is set."""

    def __init__(self, inside: bool = True) -> None:
        super().__init__()
        self.inside, self.names = inside, []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name, kwargs = func._opname, kwargs or {}
        if name in WAITS or _counts_a_mask(name, args) or _repeats_unknown_times(func, kwargs):
            self.names.append(name)
        if self.inside and func.namespace == "ponita" and hasattr(reference, name):
            with self:
                return getattr(reference, name)(*args[:-1])
        return func(*args, **kwargs)


def _counts_a_mask(name: str, args: tuple) -> bool:
    if name not in ("index", "index_put", "index_put_"):
        return False
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])


def _repeats_unknown_times(func: Any, kwargs: dict) -> bool:
    return func is torch.ops.aten.repeat_interleave.Tensor and kwargs.get("output_size") is None
