"""Losses that are not finite, found without waiting for the device."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from ponita.geometry.checks import can_look


class NonFiniteLossError(RuntimeError):
    """Training met a loss that is NaN or infinite."""


class LossWatch:
    """Looks at every loss: at once on the CPU; on a device, when its copy has arrived, which is a few steps later.

    Losses still on their way must be waited for before weights are kept: `settle`.

    Args:
        max_waiting: losses on their way before the oldest is waited for.
    """

    def __init__(self, max_waiting: int = 4) -> None:
        self.max_waiting = max_waiting
        self._waiting: deque[tuple[_Copy, Callable[[float], str]]] = deque()

    def look(self, loss: Tensor, message: Callable[[float], str]) -> None:
        """Look at a loss, now or later, and at those before it that have arrived.

        Args:
            loss: a scalar.
            message: what to say of the step, given the value of its loss; called where that is not finite.

        Raises:
            NonFiniteLossError: if this loss, or one of an earlier step, is not finite.
        """
        if can_look(loss):
            _check(float(loss.detach()), message)
            return
        self._waiting.append((_Copy(loss.detach()), message))
        while self._waiting and (self._waiting[0][0].has_arrived() or len(self._waiting) > self.max_waiting):
            self._check_oldest()

    def settle(self) -> None:
        """Wait for all losses.

        Raises:
            NonFiniteLossError: if one of them is not finite.
        """
        while self._waiting:
            self._check_oldest()

    def _check_oldest(self) -> None:
        copy, message = self._waiting.popleft()
        _check(copy.value(), message)


class _Copy:
    """A number on its way from a device."""

    def __init__(self, number: Tensor) -> None:
        self.event = None
        if number.device.type != "cuda":
            self.number = number
            return
        self.number = torch.empty_like(number, device="cpu", pin_memory=True).copy_(number, non_blocking=True)
        self.event = torch.cuda.Event()
        self.event.record()

    def has_arrived(self) -> bool:
        """Whether the number can be read without waiting."""
        return self.event is not None and self.event.query()

    def value(self) -> float:
        """The number; waits for it."""
        if self.event is not None:
            self.event.synchronize()
        return float(self.number)


def _check(value: float, message: Callable[[float], str]) -> None:
    if not math.isfinite(value):
        raise NonFiniteLossError(message(value))
