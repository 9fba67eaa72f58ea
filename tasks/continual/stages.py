"""Which part of a stream of data an epoch belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import lightning as L


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

    def progress(self, epoch: int) -> float:
        """What is done of the stage of an epoch when the epoch begins, from 0 to 1."""
        return (epoch % self.epochs) / self.epochs


def check_trainer(trainer: L.Trainer, stages: Stages) -> None:
    """Raise ValueError unless a training goes through all stages, with loaders of its own in each, on one device."""
    if trainer.world_size > 1:
        raise ValueError(
            f"{trainer.world_size} devices; learning one thing after another runs on one: --trainer.devices 1."
        )
    if trainer.reload_dataloaders_every_n_epochs != 1:
        raise ValueError(
            f"trainer.reload_dataloaders_every_n_epochs={trainer.reload_dataloaders_every_n_epochs}; expected 1, or all epochs have the "
            "data of the first stage."
        )
    if not trainer.fast_dev_run and (trainer.max_epochs != stages.total or trainer.max_steps != -1):
        raise ValueError(
            f"trainer.max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}; expected {stages.number} stages of {stages.epochs} epochs, "
            f"so --trainer.max_epochs {stages.total} and no max_steps."
        )
