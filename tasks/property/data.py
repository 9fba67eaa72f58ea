"""Data of the property task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Batch, Data

from ponita.data.molecules import Molecules
from ponita.data.qm9 import load_qm9
from ponita.data.qm9_labels import Labelled, LabelSplit, split_labels
from ponita.data.structures import runs
from ponita.tasks.datamodule import GraphDataModule
from ponita.tasks.property.bonds import Bonds, load_bonds


class PropertySet(Dataset):
    """Molecules with labels, joined to batches straight from flat arrays, without an object for each molecule.

    Args:
        molecules: of the part.
        labels: of these.
        bonds: of these; None where the network does not read them.
    """

    def __init__(self, molecules: Molecules, labels: Labelled, bonds: Bonds | None = None) -> None:
        self.molecules, self.labels, self.bonds = molecules, labels, bonds
        self.scalars = torch.from_numpy(labels.scalars)
        self.vectors = torch.from_numpy(labels.vectors).float()

    def __len__(self) -> int:
        return len(self.molecules)

    def __getitem__(self, index: int) -> Data:
        batch = self.__getitems__([index])
        return Data(**{name: batch[name] for name in batch.keys() if name not in ("batch", "ptr")})  # noqa: SIM118

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The molecules of a batch at once; the loader calls this in place of `__getitem__`.

        Args:
            indices: places in this set.

        Returns:
            `pos` [N, 3] Å, `numbers` [N], `scalars` [G, S] float64 and `vectors` [G, V, 3] labels, `sample` [G] indices, and
            `bond_index` [2, E] of both directions where they are known.
        """
        rows = np.asarray(indices)
        atoms, counts = runs(self.molecules.ptr, rows)
        sizes = torch.from_numpy(counts)
        ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        batch = Batch(
            pos=torch.from_numpy(self.molecules.positions[atoms]).float(),
            numbers=torch.from_numpy(self.molecules.numbers[atoms]),
            scalars=self.scalars[rows],
            vectors=self.vectors[rows],
            sample=torch.from_numpy(rows),
            batch=torch.repeat_interleave(sizes),
            ptr=ptr,
        )
        if self.bonds is not None:
            batch.bond_index = self._bonds(rows, ptr)
        return batch

    def _bonds(self, rows: np.ndarray, ptr: Tensor) -> Tensor:
        places, counts = runs(self.bonds.ptr, rows)
        first = torch.repeat_interleave(ptr[:-1], torch.from_numpy(counts))
        ends = torch.from_numpy(self.bonds.pairs[places]).long().T + first
        return torch.cat([ends, ends.flip(0)], dim=1)


class QM9DataModule(GraphDataModule):
    """QM9 with the labels that the task's targets need.

    Args:
        root: folder of `qm9.npz`, or of PyTorch Geometric's QM9.
        source: "npz", "pyg", or "auto": the first that is there, in this order.
        split: which molecules train, validate and test.
        batch_size: molecules in a training batch.
        eval_batch_size: molecules in a batch of validation and test.
        num_workers: processes that prepare batches.
        seed: of the order of the training set.
    """

    def __init__(
        self,
        root: str = "data/qm9",
        source: str = "auto",
        split: LabelSplit = LabelSplit(),  # noqa: B008  (a dataclass default is how the CLI knows the keys)
        batch_size: int = 96,
        eval_batch_size: int = 250,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, seed)
        self.root, self.source, self.split = root, source, split
        #: Where the molecules are from, and how many there are of each part, in words.
        self.described = ""

    def setup(self, stage: str) -> None:
        task = self.trainer.lightning_module
        self.load(task.targets, bonds=task.model.graph == "bonds")

    def load(self, targets: Sequence[str], bonds: bool = False) -> None:
        """Fill the sets, once.

        Args:
            targets: names of the labels.
            bonds: whether to find covalent bonds.

        Raises:
            FileNotFoundError: if there are no data.
            ImportError: for bonds without RDKit.
            ValueError: for targets that are unknown or have no labels, or parts that leave nothing.
        """
        if self.sets:
            return
        data = load_qm9(self.root, self.source)
        parts = split_labels(data, targets, self.split, self.root)
        for name, part in parts.items():
            molecules = data.molecules.take(part.rows)
            found = load_bonds(molecules, Path(self.root).expanduser()) if bonds else None
            self.sets[name] = PropertySet(molecules, part, found)
        sizes = ", ".join(f"{len(part.rows)} {name}" for name, part in parts.items())
        self.described = f"{Path(data.source).name}: {sizes}"
