"""Molecules of rMD17 that come one after another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
from torch.utils.data import DataLoader
from torch_geometric.data import Batch

from ponita.models import Potential
from ponita.tasks.continual.stages import Stages, check_trainer
from ponita.tasks.potential.rmd17_mixture import PARTS, RMD17MixtureDataModule
from ponita.tasks.potential.structure_set import StructureSet


class RMD17StreamDataModule(RMD17MixtureDataModule):
    """Energies and forces of molecules of rMD17, of which each is there for some epochs and then no more.

    The training set of an epoch is that of one molecule; validation and test sets of all molecules stay. Loaders must be made
    anew in each epoch: `trainer.reload_dataloaders_every_n_epochs: 1`.

    Args:
        molecules: names, such as ethanol, in the order in which they come.
        epochs_per_molecule: how long each stays.
        options: of the parent: `root`, `split`, `num_train`, `num_valid`, `num_test`, `download`, `batch_size`,
            `eval_batch_size`, `num_workers`, `seed`.

    Raises:
        ValueError: for an unknown molecule or one that comes twice, more frames than a split has, or no epochs.
    """

    val_dataloader = L.LightningDataModule.val_dataloader  # none: the task measures when a stage ends

    def __init__(self, molecules: list[str], epochs_per_molecule: int = 8, **options: Any) -> None:
        super().__init__(molecules=molecules, **options)
        self.stages = Stages(len(molecules), epochs_per_molecule)

    def setup(self, stage: str) -> None:
        """Read all molecules.

        Raises:
            ValueError: for a training whose length does not fit, or with several devices.
        """
        if stage == "fit" and self.trainer is not None:
            check_trainer(self.trainer, self.stages)
        if self.sets:
            return
        potential = getattr(getattr(self.trainer, "lightning_module", None), "potential", None)
        for molecule in self.molecules:
            for part, frames in zip(PARTS, self._frames(molecule), strict=True):
                chosen = self.sets[f"{part}/{molecule}"] = StructureSet(frames)
                if isinstance(potential, Potential) and potential.network.config["cutoff"] is not None:
                    chosen.list_neighbors(potential.network.config["cutoff"], potential.self_loops)
        self.sets["train"] = self.sets[f"train/{self.molecules[0]}"]

    def train_dataloader(self) -> DataLoader:
        """Frames of the molecule of the epoch."""
        stage = self.stages.at(self.trainer.current_epoch if self.trainer else 0)
        self.sets["train"] = self.sets[f"train/{self.molecules[stage]}"]
        return super().train_dataloader()

    def test_dataloader(self) -> list[DataLoader]:
        """One of each molecule."""
        size = self.eval_batch_size
        return [self._loader(f"test/{molecule}", batch_size=size) for molecule in self.molecules]

    def first_batch_of(self, stage: int) -> Batch:
        """The first training frames of a molecule."""
        chosen = self.sets[f"train/{self.molecules[stage]}"]
        return chosen.__getitems__(range(min(self.batch_size, len(chosen))))

    def batches_of(self, stage: int, part: str) -> Iterator[Batch]:
        """All frames of a molecule in their order.

        Args:
            stage: of the molecule.
            part: "train", "valid" or "test".
        """
        return self.batches(f"{part}/{self.molecules[stage]}")
