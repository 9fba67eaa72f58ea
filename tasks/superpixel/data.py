"""Data of the superpixel task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Batch, Data

from ponita.data.superpixel_graphs import SuperpixelGraphs
from ponita.data.superpixels import load_superpixels
from ponita.tasks.datamodule import GraphDataModule


class SuperpixelSet(Dataset):
    """Graphs of superpixels, joined to batches straight from flat arrays, without an object for each graph.

    Args:
        graphs: all of a part.
        rows: which of them; all where None.
        unit: pixels of one unit of the positions.
    """

    def __init__(self, graphs: SuperpixelGraphs, rows: Tensor | None = None, unit: float = 1.0) -> None:
        self.positions, self.grey = torch.from_numpy(graphs.positions) / unit, torch.from_numpy(graphs.grey)
        self.pairs, self.labels = torch.from_numpy(graphs.pairs), torch.from_numpy(graphs.labels)
        self.offsets, self.pair_offsets = torch.from_numpy(graphs.offsets), torch.from_numpy(graphs.pair_offsets)
        self.rows = torch.arange(len(graphs)) if rows is None else rows

    def __len__(self) -> int:
        return self.rows.shape[0]

    def __getitem__(self, index: int) -> Data:
        batch = self.__getitems__([index])
        return Data(**{name: batch[name] for name in ("pos", "x", "edge_index", "y", "sample")})

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The graphs of a batch at once; the loader calls this in place of `__getitem__`.

        Args:
            indices: places in this set.

        Returns:
            `pos` [N, 2] in the set's unit, `x` [N, 1] grey, symmetric `edge_index` [2, E], `y` [G] digits, `sample` [G] indices.
        """
        sample = torch.as_tensor(indices)
        rows = self.rows[sample]
        nodes, counts = _runs(self.offsets, rows)
        pairs, pair_counts = _runs(self.pair_offsets, rows)
        ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        ends = self.pairs[pairs].long().T + torch.repeat_interleave(ptr[:-1], pair_counts)
        return Batch(
            pos=self.positions[nodes],
            x=self.grey[nodes][:, None],
            edge_index=torch.cat([ends, ends.flip(0)], dim=1),
            y=self.labels[rows],
            sample=sample,
            batch=torch.repeat_interleave(counts),
            ptr=ptr,
        )


class SuperpixelDataModule(GraphDataModule):
    """MNIST as graphs of superpixels; 6,000 of the 60,000 training images validate, drawn by `split_seed`.

    Args:
        root: folder of the published file and of the cache files.
        mnist_folder: folder of the idx files of MNIST, from which superpixels are made; `root` where null.
        source: "published", "slic", or "auto": what is there (see `ponita.data.load_superpixels`).
        radius: pixels; superpixels that SLIC made are linked where they are closer.
        unit: pixels of one unit of the positions. The published recipe has pixels; with kernels that are polynomials of
            distances, training is several times faster where neighbours are about one unit apart.
        num_valid: training images kept for validation.
        split_seed: of the choice of these.
        download: fetch the published file where it is needed and missing.
        batch_size: graphs in a training batch.
        eval_batch_size: graphs in a batch of validation and test.
        num_workers: processes that prepare batches.
        seed: of the order of the training set.
    """

    def __init__(
        self,
        root: str = "data/mnist",
        mnist_folder: str | None = None,
        source: str = "auto",
        radius: float = 9.0,
        unit: float = 1.0,
        num_valid: int = 6000,
        split_seed: int = 0,
        download: bool = True,
        batch_size: int = 96,
        eval_batch_size: int = 200,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, seed)
        if num_valid < 1:
            raise ValueError(f"num_valid={num_valid}; expected at least 1 of the training images.")
        if not unit > 0:
            raise ValueError(f"unit={unit}; expected a positive number of pixels.")
        self.unit, self.num_valid, self.split_seed = unit, num_valid, split_seed
        self.options = {"root": root, "mnist_folder": mnist_folder, "source": source, "radius": radius}
        self.download = download
        #: Where the graphs are from, in words.
        self.described = ""

    def prepare_data(self) -> None:
        load_superpixels(**self.options, download=self.download)

    def setup(self, stage: str) -> None:
        if self.sets:
            return
        parts = load_superpixels(**self.options, download=False)
        train, test = parts["train"], parts["test"]
        if self.num_valid >= len(train):
            raise ValueError(f"num_valid={self.num_valid} of {len(train)} training images leaves none to train on.")
        rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.split_seed))
        chosen = {"train": rows[self.num_valid :], "valid": rows[: self.num_valid]}
        self.sets = {name: SuperpixelSet(train, rows, self.unit) for name, rows in chosen.items()}
        self.sets["test"] = SuperpixelSet(test, unit=self.unit)
        self.described = train.source


def _runs(offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Places offsets[r]:offsets[r + 1] of all rows r, one run after another, and the lengths of the runs."""
    starts = offsets[rows]
    counts = offsets[rows + 1] - starts
    before = counts.cumsum(0) - counts
    total = int(counts.sum())
    return torch.arange(total) + torch.repeat_interleave(starts - before, counts, output_size=total), counts
