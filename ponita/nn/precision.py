"""Buffers whose digits matter more than their speed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class KeepsFloat64(nn.Module):
    """A module some of whose buffers stay float64 when it is converted: `module.float()` moves them, no more.

    A grid rounded to float32 is no longer closed under its rotations to more than seven digits, and energies of
    thousands of eV have differences of thousandths.
    """

    #: Names of the buffers.
    float64_buffers: tuple[str, ...] = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        kept = {name: getattr(self, name) for name in self.float64_buffers}
        super()._apply(fn, recurse)
        for name, value in kept.items():
            setattr(self, name, value.to(getattr(self, name).device))
        return self
