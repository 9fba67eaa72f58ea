"""Digits as graphs of superpixels, a few classes at a time, and a memory of some images of the classes before."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torch_geometric.data import Batch

from ponita.tasks.continual.stages import Stages, check_trainer
from ponita.tasks.superpixel import SuperpixelDataModule
from ponita.tasks.superpixel.data import SuperpixelSet

NUM_CLASSES = 10
PARTS = ("test", "valid")


class UnionBatch(dict[str, Batch]):
    """A batch for each method: the same new images, and exemplars of the method's own."""

    @property
    def num_graphs(self) -> int:
        """Of each of them."""
        return next(iter(self.values())).num_graphs


class Places(Dataset):
    """Places 0 ... n - 1 of an epoch; a batch is a tensor of them."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> int:
        return index

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        return torch.as_tensor(indices)


class IncrementalSuperpixelDataModule(SuperpixelDataModule):
    """MNIST as graphs of superpixels, a few classes at a time.

    Labels are places in the stream: class 0 is the digit that comes first. The training and the measured set are sorted by them, so
    the images of a stage, and those of all stages so far, are runs of rows.

    An epoch is the images of the stage's new classes and the exemplars of the old ones, each once, in an order of the seed and
    the epoch. Methods keep exemplars of their own, but equally many. The training loader therefore gives places: those below the
    number of new images are new images, and the others are places in a memory, which every method fills in from its own
    (`union`). All methods see the same new images, and exemplars of the same classes, in the same steps.

    Args:
        classes_per_stage: a divisor of 10.
        epochs_per_stage: the trainer's max_epochs must be so many times the number of stages.
        budget: exemplars of all old classes together; each class gets the same number, rounded down.
        num_train: training images of each class, the first in the order of `split_seed`.
        num_test: measured images of each class, the first ones; all where null.
        measured: "test": images that are measured after each stage. "valid": validation images in their place, to choose settings.
        order: digits in the order they come; drawn by `order_seed` where null.
        order_seed: of the order.
        data: arguments of `SuperpixelDataModule`.

    Raises:
        ValueError: for a number of classes that does not divide 10, an order that is no permutation, a budget below the number of
            classes, or numbers below 1.
    """

    def __init__(
        self,
        classes_per_stage: int = 2,
        epochs_per_stage: int = 5,
        budget: int = 200,
        num_train: int = 1000,
        num_test: int | None = None,
        measured: str = "test",
        order: list[int] | None = None,
        order_seed: int = 0,
        **data: Any,
    ) -> None:
        super().__init__(**data)
        _check_numbers(classes_per_stage, budget, num_train, num_test)
        if measured not in PARTS:
            raise ValueError(f"measured={measured!r}; expected one of {PARTS}.")
        if order is None:
            order = torch.randperm(NUM_CLASSES, generator=torch.Generator().manual_seed(order_seed)).tolist()
        if sorted(order) != list(range(NUM_CLASSES)):
            raise ValueError(f"order={order}; expected the digits 0 to 9, each once.")
        self.order = order
        self.classes_per_stage, self.budget = classes_per_stage, budget
        self.num_train, self.num_test, self.measured = num_train, num_test, measured
        self.stages = Stages(NUM_CLASSES // classes_per_stage, epochs_per_stage)

    def num_classes(self, stage: int) -> int:
        """Classes that have come by the end of a stage."""
        return (stage + 1) * self.classes_per_stage

    def num_exemplars(self, stage: int) -> int:
        """Images in the memory of a method while it learns a stage."""
        old = stage * self.classes_per_stage
        return old * min(self.budget // old, self.num_train) if old else 0

    def num_new(self) -> int:
        """Images of the new classes of a stage."""
        return self.classes_per_stage * self.num_train

    def rows(self, stage: int) -> Tensor:
        """Rows of the training set that are new in a stage."""
        return stage * self.num_new() + torch.arange(self.num_new())

    def union(self, stage: int, places: Tensor, exemplars: Sequence[int]) -> Batch:
        """The images at places of an epoch.

        Args:
            stage: that is learned.
            places: [G], as the training loader gives them.
            exemplars: rows of the training set in the memory of a method.
        """
        rows = torch.cat([self.rows(stage), torch.as_tensor(exemplars, dtype=torch.long)])
        return self.sets["train"].__getitems__(rows[places])

    def first_batch(self) -> Batch:
        """Images of the first stage, spread over its classes: for calibration."""
        count = min(self.batch_size, self.num_new())
        return self.sets["train"].__getitems__(torch.arange(count) * self.num_new() // count)

    def show(self, stage: int) -> None:
        """Measure images of the classes that have come by the end of a stage."""
        self.sets["measured"] = chosen = copy.copy(self.sets["all measured"])
        chosen.rows = chosen.rows[chosen.labels[chosen.rows] < self.num_classes(stage)]

    def measured_batches(self, stage: int) -> Iterator[Batch]:
        """The measured images of the classes that have come by the end of a stage."""
        self.show(stage)
        return self.batches("measured")

    def stream(self) -> dict[str, Any]:
        """What a training that goes on must find again."""
        names = ("order", "classes_per_stage", "budget", "num_train", "split_seed")
        return {name: getattr(self, name) for name in names}

    def summary(self) -> str:
        """The stream in words."""
        return (
            f"Digits {', '.join(map(str, self.order))}, {self.classes_per_stage} at a time: {self.num_train} training images of each, "
            f"{self.budget} exemplars.\nMeasured: {len(self.sets['all measured'])} {self.measured} images, {self.described}."
        )

    def prepare_data(self) -> None:
        if self.trainer is not None and self.trainer.state.fn == "fit":
            check_trainer(self.trainer, self.stages)
            _check_no_validation(self.trainer.limit_val_batches)
        super().prepare_data()

    def setup(self, stage: str) -> None:
        if self.sets:
            return
        super().setup(stage)
        places = torch.tensor(self.order).argsort()
        for chosen in self.sets.values():
            chosen.labels = places[chosen.labels]
        self.sets["all measured"] = self.sets[self.measured]
        for name, number in (("train", self.num_train), ("all measured", self.num_test)):
            _sort(self.sets[name], number, name, self.order)

    def train_dataloader(self) -> DataLoader:
        stage = self.stages.at(self.trainer.current_epoch)
        self.sets["places"] = places = Places(self.num_new() + self.num_exemplars(stage))
        sampler = DistributedSampler(places, num_replicas=1, rank=0, seed=self.seed)
        return self._loader("places", batch_size=self.batch_size, sampler=sampler)

    def test_dataloader(self) -> DataLoader:
        self.show(self.trainer.lightning_module.stage)
        return self._loader("measured", batch_size=self.eval_batch_size)

    def transfer_batch_to_device(
        self, batch: Batch | UnionBatch, device: torch.device, dataloader_idx: int
    ) -> Batch | UnionBatch:
        move = super().transfer_batch_to_device
        if isinstance(batch, UnionBatch):
            return UnionBatch({name: move(part, device, dataloader_idx) for name, part in batch.items()})
        return move(batch, device, dataloader_idx)


def _check_no_validation(limit: float) -> None:
    if limit:
        raise ValueError(
            f"trainer.limit_val_batches={limit}; expected 0: images are measured at the end of a stage, after alignment, and not in "
            "between."
        )


def _check_numbers(classes_per_stage: int, budget: int, num_train: int, num_test: int | None) -> None:
    if classes_per_stage < 1 or NUM_CLASSES % classes_per_stage:
        raise ValueError(f"classes_per_stage={classes_per_stage}; expected a divisor of {NUM_CLASSES}.")
    if budget < NUM_CLASSES:
        raise ValueError(f"budget={budget}; expected at least {NUM_CLASSES}, an exemplar of each class.")
    if num_train < 1 or (num_test is not None and num_test < 1):
        raise ValueError(f"num_train={num_train}, num_test={num_test}; expected at least 1 image of each class.")


def _sort(chosen: SuperpixelSet, number: int | None, name: str, order: Sequence[int]) -> None:
    """Keep the first rows of each class, sorted by class.

    Raises:
        ValueError: where a class has fewer, or none.
    """
    labels, kept = chosen.labels[chosen.rows], []
    for place, digit in enumerate(order):
        rows = chosen.rows[labels == place]
        if len(rows) < (number or 1):
            raise ValueError(f"{len(rows)} images of the digit {digit} ({name}); expected at least {number or 1}.")
        kept.append(rows[:number])
    chosen.rows = torch.cat(kept)
