"""Data of the diffusion task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset
from torch_geometric.data import Batch, Data

from ponita.data.molecules import Molecules
from ponita.data.qm9 import QM9, load_qm9, split_qm9
from ponita.data.structures import runs
from ponita.tasks.datamodule import GraphDataModule


class MoleculeSet(Dataset):
    """Molecules as point clouds around their centroid, joined to batches straight from flat arrays.

    Args:
        molecules: all of a part.
        values: [M] of a property, NaN where unknown; None where there is none.
    """

    def __init__(self, molecules: Molecules, values: np.ndarray | None = None) -> None:
        self.molecules = molecules
        self.values = None if values is None else torch.from_numpy(np.ascontiguousarray(values)).double()

    def __len__(self) -> int:
        return len(self.molecules)

    def __getitem__(self, index: int) -> Data:
        batch = self.__getitems__([index])
        return Data(**{name: value for name, value in batch if name not in ("batch", "ptr")})

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The molecules of a batch at once; the loader calls this in place of `__getitem__`.

        Args:
            indices: places in this set.

        Returns:
            `pos` [N, 3] Å, `z` [N] atomic numbers, `charge` [N] where charges are known, `y` [G] where there is a property,
            `sample` [G] indices.
        """
        rows = np.asarray(indices)
        atoms, counts = runs(self.molecules.ptr, rows)
        sizes = torch.from_numpy(counts)
        values = {
            "pos": torch.from_numpy(self.molecules.positions[atoms]).float(),
            "z": torch.from_numpy(self.molecules.numbers[atoms]),
            "sample": torch.from_numpy(rows),
            "batch": torch.repeat_interleave(sizes),
            "ptr": torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]),
        }
        if self.molecules.charges is not None:
            values["charge"] = torch.from_numpy(self.molecules.charges[atoms])
        if self.values is not None:
            values["y"] = self.values[values["sample"]]
        return Batch(**values)


class MoleculeDataModule(GraphDataModule):
    """QM9, whole or up to a size.

    Args:
        root: folder of `qm9.npz`, or of PyTorch Geometric's QM9.
        max_atoms: of a molecule, hydrogen included; all where null.
        max_heavy: atoms other than hydrogen; all where null.
        split: "published": 110,000 train and 10,000 validate, by the permutation of the paper; "random": by `split_seed`.
        sizes: molecules of validation and test, for a random split.
        split_seed: of a random split.
        condition: label that generation can be conditioned on, such as gap, by its name in the file; none where null.
        eval_limit: molecules that validate at most.
        batch_size: molecules in a training batch.
        eval_batch_size: molecules in a batch of validation and test.
        num_workers: processes that prepare batches.
        seed: of the order of the training set.
    """

    def __init__(
        self,
        root: str = "data/qm9",
        max_atoms: int | None = None,
        max_heavy: int | None = None,
        split: str = "random",
        sizes: tuple[int, int] = (2000, 5000),
        split_seed: int = 0,
        condition: str | None = None,
        eval_limit: int | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 250,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, seed)
        if split not in ("published", "random"):
            raise ValueError(f"split={split!r}; expected 'published' or 'random'.")
        self.root, self.max_atoms, self.max_heavy = root, max_atoms, max_heavy
        self.split, self.sizes, self.split_seed = split, tuple(sizes), split_seed
        self.condition, self.eval_limit = condition, eval_limit

    def setup(self, stage: str) -> None:
        if self.sets:
            return
        data = load_qm9(self.root).select(self.max_atoms, self.max_heavy)
        published = self.split == "published"
        parts = split_qm9(data, published=published, sizes=self.sizes, seed=self.split_seed, root=self.root)
        for name in ("valid", "test"):
            parts[name] = parts[name][: self.eval_limit]
        values = self._values(data)
        self.sets = {
            name: MoleculeSet(data.molecules.take(rows), None if values is None else values[rows])
            for name, rows in parts.items()
        }

    def _values(self, data: QM9) -> np.ndarray | None:
        if self.condition is None:
            return None
        columns = {name: values for name, values in data.labels.items() if values.ndim == 1}
        if self.condition not in columns:
            raise ValueError(f"condition={self.condition!r}; {data.source} has {', '.join(columns) or 'no labels'}.")
        return columns[self.condition]
