"""Which part of a stream of data an epoch belongs to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stages:
    """Parts of a stream that are learned one after another, with the same number of epochs each.

    Args:
        number: of stages.
        epochs: of each.

    Raises:
        ValueError: unless both are at least 1.
    """

    number: int
    epochs: int

    def __post_init__(self) -> None:
        if self.number < 1 or self.epochs < 1:
            raise ValueError(f"{self.number} stages of {self.epochs} epochs; expected at least 1 of both.")

    @property
    def total(self) -> int:
        """Epochs of all stages."""
        return self.number * self.epochs

    def at(self, epoch: int) -> int:
        """The stage of an epoch; after the end, the last one."""
        return min(epoch // self.epochs, self.number - 1)

    def begins(self, epoch: int) -> bool:
        """Whether an epoch is the first of its stage."""
        return epoch < self.total and epoch % self.epochs == 0

    def ends(self, epoch: int) -> bool:
        """Whether an epoch is the last of its stage."""
        return epoch < self.total and (epoch + 1) % self.epochs == 0

    def progress(self, epoch: int, part: float = 0.0) -> float:
        """What is done of the stage of an epoch, from 0 to 1, with a part of the epoch itself."""
        return min(1.0, (epoch % self.epochs + part) / self.epochs)
