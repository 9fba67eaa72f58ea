"""Values that depend on weights alone are computed once in inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Memo:
    """Remembers a value until one of the tensors it was computed from is another, or was changed.

    A gradient that is wanted is never lost: while gradients are recorded and any of the tensors requires one, nothing is
    remembered. Without gradients (`torch.no_grad`) a value is remembered on the CPU, where the weights are compared with
    copies, so that a change through `tensor.data` is seen too. On other devices a comparison would wait for the device, and
    only frozen tensors count (`model.requires_grad_(False)`); changes in place of those are seen, through `.data` not.

    Modules stand for their parameters. One that was put there by other code, such as an adapter or a parametrisation,
    may depend on more than those, and nothing is remembered with it.
    """

    def __init__(self) -> None:
        self._tensors: Sequence[Tensor] = ()
        self._copies: Sequence[Tensor | None] = ()
        self._versions: Sequence[tuple] = ()
        self._value: Tensor | None = None

    def __call__(self, compute: Callable[[], Tensor], *sources: Tensor | nn.Module) -> Tensor:
        """The value of `compute`, which must depend on `sources` alone."""
        if not all(is_plain(source) for source in sources if isinstance(source, nn.Module)):
            return compute()
        tensors = tuple(tensor for source in sources for tensor in _tensors_of(source))
        if torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or not all(map(_can_watch, tensors)):
            return compute()
        if not self._unchanged(tensors):
            self._tensors, self._versions = tensors, [_version(t) for t in tensors]
            self._copies = [t.detach().clone() if _is_compared(t) else None for t in tensors]
            self._value = compute()
        return self._value

    def _unchanged(self, tensors: Sequence[Tensor]) -> bool:
        if len(tensors) != len(self._tensors) or any(a is not b for a, b in zip(tensors, self._tensors, strict=True)):
            return False
        if [_version(t) for t in tensors] != self._versions:
            return False
        return all(c is None or torch.equal(t, c) for t, c in zip(tensors, self._copies, strict=True))

    def __deepcopy__(self, memo: dict) -> Memo:
        return Memo()

    def __reduce__(self) -> tuple:
        return Memo, ()


def is_plain(module: nn.Module) -> bool:
    """Whether a module and all in it are torch's or of this package's layers, so that its weights are what it says."""
    return all(type(part).__module__.startswith(("torch.nn.modules.", "ponita.nn.")) for part in module.modules())


def _tensors_of(source: Tensor | nn.Module) -> tuple[Tensor, ...]:
    return (source,) if isinstance(source, Tensor) else tuple(source.parameters())


def _can_watch(tensor: Tensor) -> bool:
    if tensor.is_inference():
        return False
    return not tensor.requires_grad or (tensor.device.type == "cpu" and not torch.is_grad_enabled())


def _is_compared(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and isinstance(tensor, nn.Parameter)


def _version(tensor: Tensor) -> tuple:
    return tensor.data_ptr(), tensor._version, tensor.dtype
