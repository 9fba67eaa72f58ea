"""Data of the potential task."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset
from torch_geometric.data import Data

from ponita.data.rmd17 import Frames, load_rmd17, load_split
from ponita.data.structures import Structures, make_structures
from ponita.tasks.datamodule import GraphDataModule


class FrameSet(Dataset):
    """Frames of one molecule as graphs; energies stay in float64.

    Args:
        frames: the trajectory.
        rows: which of its frames.
    """

    def __init__(self, frames: Frames, rows: np.ndarray) -> None:
        self.numbers = torch.from_numpy(frames.numbers)
        self.positions = torch.from_numpy(frames.positions[rows]).float()
        self.energies = torch.from_numpy(frames.energies[rows])
        self.forces = torch.from_numpy(frames.forces[rows]).float()

    def __len__(self) -> int:
        return self.positions.shape[0]

    def __getitem__(self, index: int) -> Data:
        return Data(
            pos=self.positions[index],
            numbers=self.numbers,
            energy=self.energies[index : index + 1],
            forces=self.forces[index],
            num_nodes=self.numbers.shape[0],
            sample=torch.tensor([index]),
        )

    def parts(self) -> Iterator[Structures]:
        """All frames as structures."""
        yield make_structures(
            self.positions.flatten(0, 1).numpy(),
            self.numbers.repeat(len(self)).numpy(),
            [len(self.numbers)] * len(self),
            "the training set",
            energy=self.energies.numpy(),
            forces=self.forces.flatten(0, 1).double().numpy(),
        )


class RMD17DataModule(GraphDataModule):
    """Energies and forces of one molecule of rMD17 (Christensen and von Lilienfeld 2020), an official split.

    The last `num_valid` of the 1000 training frames of the split are kept for validation; its 1000 test frames are
    the test set.

    Args:
        root: folder that holds npz_data/ and splits/ of the published archive.
        molecule: name, such as ethanol.
        split: number of the official split, 1 to 5.
        num_valid: training frames kept for validation.
        num_test: test frames used; all 1000 where None.
        download: fetch the archive (1 GB) when it is not in `root`.
        batch_size: molecules in a training batch.
        eval_batch_size: molecules in a batch of validation and test.
        num_workers: processes that prepare batches.
        seed: of the order of the training set.
    """

    def __init__(
        self,
        root: str = "data/rmd17",
        molecule: str = "ethanol",
        split: int = 1,
        num_valid: int = 50,
        num_test: int | None = None,
        download: bool = True,
        batch_size: int = 5,
        eval_batch_size: int = 50,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, seed)
        if not 1 <= num_valid < 1000:
            raise ValueError(f"num_valid={num_valid}; expected 1 to 999 of the split's 1000 training frames.")
        self.root, self.molecule, self.split = root, molecule, split
        self.num_valid, self.num_test, self.download = num_valid, num_test, download

    def prepare_data(self) -> None:
        load_rmd17(self.root, self.molecule, download=self.download)

    def setup(self, stage: str) -> None:
        if self.sets:
            return
        frames = load_rmd17(self.root, self.molecule, download=False)
        train, test = load_split(self.root, self.molecule, self.split, len(frames.energies))
        rows = {"train": train[: -self.num_valid], "valid": train[-self.num_valid :], "test": test[: self.num_test]}
        self.sets = {name: FrameSet(frames, chosen) for name, chosen in rows.items()}
