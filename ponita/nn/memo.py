"""Values that depend on frozen tensors alone are computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Memo:
    """Remembers a value until one of the tensors it was computed from is another, or was changed in place.

    While any of them requires a gradient nothing is remembered, so training and gradients in evaluation are as without
    it: freeze a model (`model.requires_grad_(False)`) to profit. Changes through `tensor.data` are not seen.
    """

    def __init__(self) -> None:
        self._tensors: Sequence[Tensor] = ()
        self._state: object = None
        self._value: Tensor | None = None

    def __call__(self, compute: Callable[[], Tensor], *tensors: Tensor) -> Tensor:
        """The value of `compute`, which must depend on `tensors` alone."""
        if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
            return compute()
        if any(t.requires_grad or t.is_inference() for t in tensors):
            return compute()
        state = [(t.data_ptr(), t._version, t.dtype) for t in tensors]
        same = len(tensors) == len(self._tensors) and all(a is b for a, b in zip(tensors, self._tensors, strict=True))
        if not same or state != self._state:
            self._tensors, self._state, self._value = tensors, state, compute()
        return self._value

    def __deepcopy__(self, memo: dict) -> Memo:
        return Memo()

    def __reduce__(self) -> tuple:
        return Memo, ()
