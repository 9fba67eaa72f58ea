"""Frames of several molecules of rMD17 at once, and as few of each as are wanted."""

from __future__ import annotations

import numpy as np

from ponita.data.rmd17 import MOLECULES, load_rmd17, load_split
from ponita.data.structures import Structures, concatenate, make_structures
from ponita.models import Potential
from ponita.tasks.datamodule import GraphDataModule
from ponita.tasks.potential.structure_set import StructureSet

PARTS = ("train", "valid", "test")


class RMD17MixtureDataModule(GraphDataModule):
    """Energies and forces of several molecules of rMD17, to train one potential of all of them, or to adapt one to another.

    Training and validation frames are the first and the last of an official split's 1000 training frames, test frames
    the first of its test frames. Errors of the test are shown for each molecule.

    Args:
        root: folder that holds npz_data/ and splits/ of the published archive.
        molecules: names, such as ethanol.
        split: number of the official split, 1 to 5.
        num_train: training frames of each molecule.
        num_valid: validation frames of each.
        num_test: test frames of each.
        download: fetch the archive (1 GB) when a molecule is not in `root`.
        batch_size: molecules in a training batch.
        eval_batch_size: molecules in a batch of validation and test.
        num_workers: processes that prepare batches.
        seed: of the order of the training set.

    Raises:
        ValueError: for an unknown molecule, or more frames than a split has.
    """

    def __init__(
        self,
        molecules: list[str],
        root: str = "data/rmd17",
        split: int = 1,
        num_train: int = 950,
        num_valid: int = 50,
        num_test: int = 1000,
        download: bool = True,
        batch_size: int = 5,
        eval_batch_size: int = 50,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, seed)
        unknown = sorted(set(molecules) - set(MOLECULES))
        if unknown or not molecules or len(set(molecules)) != len(molecules):
            raise ValueError(f"molecules={molecules}; expected different ones of {sorted(MOLECULES)}.")
        if min(num_train, num_valid, num_test) < 1 or num_train + num_valid > 1000 or num_test > 1000:
            raise ValueError(
                f"num_train={num_train}, num_valid={num_valid}, num_test={num_test}; expected at least 1 of each, and of a "
                "split's 1000 training and 1000 test frames no more than there are."
            )
        self.molecules, self.root, self.split, self.download = molecules, root, split, download
        self.num_train, self.num_valid, self.num_test = num_train, num_valid, num_test
        self.tested_on = "test frames"

    def prepare_data(self) -> None:
        for molecule in self.molecules:
            load_rmd17(self.root, molecule, download=self.download)

    def setup(self, stage: str) -> None:
        if not self.sets:
            parts = [self._frames(molecule) for molecule in self.molecules]
            for name, of_molecules in zip(PARTS, zip(*parts, strict=True), strict=True):
                self.sets[name] = StructureSet(
                    concatenate(of_molecules), report_by="group" if name == "test" else "none"
                )
        potential = getattr(getattr(self.trainer, "lightning_module", None), "potential", None)
        if isinstance(potential, Potential) and potential.network.config["cutoff"] is not None:
            for chosen in self.sets.values():
                chosen.list_neighbors(potential.network.config["cutoff"], potential.self_loops)

    def _frames(self, molecule: str) -> list[Structures]:
        """Training, validation and test frames of a molecule."""
        frames = load_rmd17(self.root, molecule, download=False)
        train, test = load_split(self.root, molecule, self.split, len(frames.energies))
        rows = (train[: self.num_train], train[-self.num_valid :], test[: self.num_test])
        return [
            make_structures(
                frames.positions[chosen].reshape(-1, 3),
                np.tile(frames.numbers, len(chosen)),
                [len(frames.numbers)] * len(chosen),
                molecule,
                energy=frames.energies[chosen],
                forces=frames.forces[chosen].reshape(-1, 3),
                group=np.full(len(chosen), molecule),
            )
            for chosen in rows
        ]
