"""What every data module does the same way: batches whose order depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torch_geometric.data import Batch

from ponita.data import collate
from ponita.tasks.graphs import place


class GraphDataModule(L.LightningDataModule):
    """Base of the data modules; `setup` of a subclass fills `sets`.

    A set that has `__getitems__` joins graphs to batches itself; others are collated.

    Args:
        batch_size: graphs in a training batch.
        eval_batch_size: graphs in a batch of validation and test.
        num_workers: processes that prepare batches.
        seed: of the order of the training set.
    """

    def __init__(self, batch_size: int, eval_batch_size: int, num_workers: int, seed: int) -> None:
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            raise ValueError(f"batch_size={batch_size}, eval_batch_size={eval_batch_size}; expected at least 1.")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.seed = num_workers, seed
        self.sets: dict[str, Dataset] = {}

    def first_batch(self) -> Batch:
        """The first graphs of the training set, the same on every rank: for calibration."""
        return _join(self.sets["train"], range(min(self.batch_size, len(self.sets["train"]))))

    def batches(self, name: str) -> Iterator[Batch]:
        """All of a set in its order, in batches of the size for evaluation."""
        chosen, size = self.sets[name], self.eval_batch_size
        for first in range(0, len(chosen), size):
            yield _join(chosen, range(first, min(first + size, len(chosen))))

    def train_dataloader(self) -> DataLoader:
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        # Its order is a function of (seed, epoch) and of nothing else, also in a single process.
        sampler = DistributedSampler(self.sets["train"], num_replicas=world, rank=rank, seed=self.seed)
        return self._loader("train", batch_size=self.batch_size, sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        return self._loader("valid", batch_size=self.eval_batch_size)

    def test_dataloader(self) -> DataLoader:
        return self._loader("test", batch_size=self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader:
        return self.test_dataloader()

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """What the task does to a batch while it is on the CPU."""
        return self.trainer.lightning_module.prepare_batch(batch)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch, without waiting for what a CUDA device still has to do."""
        if device.type == "cpu":
            return batch
        edges = batch.edges if "edges" in batch else None
        batch = (batch.pin_memory() if device.type == "cuda" else batch).to(device, non_blocking=True)
        if edges is not None:
            batch.edges = place(edges, device)
        return batch

    def _loader(self, name: str, **options: object) -> DataLoader:
        return DataLoader(
            self.sets[name],
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=_as_it_is if _joins(self.sets[name]) else collate,
            **options,
        )


def _join(dataset: Dataset, rows: Sequence[int]) -> Batch:
    return dataset.__getitems__(rows) if _joins(dataset) else collate([dataset[i] for i in rows])


def _joins(dataset: Dataset) -> bool:
    """Whether a set makes batches itself, from flat arrays: then `__getitems__` returns a `Batch`."""
    return hasattr(dataset, "__getitems__")


def _as_it_is(batch: Batch) -> Batch:
    return batch
