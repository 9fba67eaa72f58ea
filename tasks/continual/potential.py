"""Potentials of molecules that come one after another, by several methods at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch_geometric.data import Batch

from ponita.models import EnergyForces, Ponita, Potential, save
from ponita.nn import calibrate
from ponita.tasks.continual.learners import Recipe
from ponita.tasks.continual.masked_learner import METHODS, make_learner, plain_copy
from ponita.tasks.continual.measure import StreamErrors
from ponita.tasks.continual.report import Record, draw_errors, record, report_text
from ponita.tasks.continual.side_by_side import SideBySideTask
from ponita.tasks.continual.stream import RMD17StreamDataModule
from ponita.tasks.pictures import format_table
from ponita.tasks.potential.normalization import gather, normalize
from ponita.tasks.runs import folder_of
from ponita.training import LossWeights


class ContinualPotentialTask(SideBySideTask):
    """Learn molecules one after another; which molecule a structure is, is known when it is computed.

    All methods see the same batches, and begin with the same network:

    - separate: a network for each molecule;
    - sequential: one network that is trained on, and forgets;
    - supsup: a mask for each molecule over one network of fixed random weights (arXiv:2006.14769);
    - exssnet: a mask for each, then those of its weights are trained that no earlier mask has (arXiv:2210.10209);
    - ssnet: the same with all weights of the mask, which forgets.

    Energies of each molecule are measured from the mean of its training set, and in units of its root mean square force: total
    energies of molecules differ by thousands of eV, which is no matter of learning. Each phase of a stage (scores, then
    weights) begins with a new optimiser, Adam without decay, and its rate falls to zero by half a cosine.

    Args:
        network: arguments of `Ponita`.
        elements: atomic numbers of all molecules, in the order of the network's channels.
        methods: some of those above.
        density: share of each weight that a mask keeps.
        score_share: part of a molecule's epochs in which scores are trained, where weights are trained after them.
        lr: highest learning rate of separate and sequential networks.
        score_lr: of scores.
        weight_lr: of weights below a mask.
        gradient_clip: greatest norm of a gradient.
        loss_weights: of energies and forces.
        self_loops: give the network the edges i->i.
        augment: rotate every structure at random in training.
        seed: of first weights, first scores and rotations.

    Raises:
        ValueError: for methods, a density, a share or rates that cannot be.
    """

    validation_step = L.LightningModule.validation_step  # none: molecules are measured when their stage ends

    def __init__(
        self,
        network: dict[str, Any],
        elements: list[int],
        methods: list[str] = list(METHODS),  # noqa: B006  (not changed)
        density: float = 0.2,
        score_share: float = 0.25,
        lr: float = 2.5e-3,
        score_lr: float = 1e-2,
        weight_lr: float = 1e-2,
        gradient_clip: float = 0.5,
        loss_weights: LossWeights = LossWeights(),  # noqa: B008  (a dataclass default is how the CLI knows the keys)
        self_loops: bool = False,
        augment: bool = True,
        seed: int = 0,
    ) -> None:
        if not methods or set(methods) - set(METHODS) or len(set(methods)) != len(methods):
            raise ValueError(f"methods={methods}; expected different ones of {list(METHODS)}.")
        recipe = Recipe(density, score_share, lr, score_lr, weight_lr, seed)
        arguments = {"in_channels": len(elements), **network}

        def fresh() -> Potential:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return Potential(Ponita(**arguments), elements, self_loops)

        learners = {method: make_learner(method, fresh(), recipe) for method in methods}
        super().__init__(learners, gradient_clip, loss_weights, augment, seed)

    @property
    def num_learned(self) -> int:
        """Molecules whose stage is done."""
        return len(self.found[self.method].forces)

    def take_up(self, method: str, stage: int) -> Potential:
        """Put the potential of a method at hand, computing a molecule that was learned."""
        self.method = method
        potential = self.model[method].show(stage)
        potential.set_normalization(*self.normalization[stage].tolist())
        return potential

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule
        if not isinstance(data, RMD17StreamDataModule):
            raise ValueError(
                f"the data are a {type(data).__name__}; this task needs molecules that come one after another: "
                "ponita.tasks.continual.stream.RMD17StreamDataModule."
            )
        if len(self.normalization) != data.stages.number:
            self.normalization = self.normalization.new_zeros(data.stages.number, 2)
        for learner in self.model.values():
            learner.open(data.stages)
        super().setup(stage)

    def prepare(self, first_batch: Batch) -> None:
        """Normalise each molecule by its training set, and calibrate networks that are trained as a whole."""
        data = self.data
        for stage, molecule in enumerate(data.molecules):
            potential = self.potential
            normalize(potential, gather(data.sets[f"train/{molecule}"].parts(), potential), "mean")
            self.normalization[stage] = torch.stack([potential.shift, potential.scale])
        for method, learner in self.model.items():
            for stage in learner.calibrated_on(data.stages):
                potential = self.take_up(method, stage)
                calibrate(potential, self.model_inputs(data.first_batch_of(stage)))

    @rank_zero_only
    def on_fit_start(self) -> None:
        """Write what molecules are measured in to data.txt."""
        rows = [("molecule", "mean energy (eV)", "root mean square force (eV/Å)")]
        for molecule, (shift, scale) in zip(self.data.molecules, self.normalization.tolist(), strict=True):
            rows.append((molecule, f"{shift:.4f}", f"{scale:.4f}"))
        path = folder_of(self.trainer) / "data.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(format_table(rows) + "\n", encoding="utf-8")

    def on_train_epoch_end(self) -> None:
        """At the end of a stage, check and fix what was learned, and measure all molecules so far."""
        super().on_train_epoch_end()
        if self.data.stages.ends(self.current_epoch):
            for learner in self.model.values():
                learner.finish()
            self._measure_stage(self.place()[0])
        self.log("learned", float(self.num_learned), prog_bar=True)

    def _measure_stage(self, stage: int) -> None:
        data, measured = self.data, self._no_errors()
        for molecule in range(stage + 1):
            for batch in data.batches_of(molecule, "valid"):
                batch.edges = self.make_edges(batch)
                self._add(measured, data.transfer_batch_to_device(batch, self.device, 0), molecule)
        for method, found in self.found.items():
            found.forces.append(measured.means(method, "forces", stage + 1))
            found.energy.append(measured.means(method, "energy", stage + 1))
        self.log_dict(measured.by_name("valid", stage + 1))

    def on_test_epoch_start(self) -> None:
        self._measured = self._no_errors()

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if dataloader_idx < self.num_learned:
            self._add(self._measured, batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        for method, found in self.found.items():
            found.test_forces = self._measured.means(method, "forces", self.num_learned)
            found.test_energy = self._measured.means(method, "energy", self.num_learned)
        self.log_dict(self._measured.by_name("test", self.num_learned))

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, EnergyForces]:
        """By method, of the molecule of a loader."""
        return dict(self._predictions(batch, dataloader_idx))

    def results(self) -> Record:
        """All that was found, as plain values."""
        stored = {method: learner.stored_bytes() for method, learner in self.model.items()}
        return record(self.data.molecules, self.found, stored)

    def report(self) -> str:
        return report_text(self.results())

    def finish(self, folder: Path) -> None:
        """A potential of each method and molecule, for `ponita md` and the like; results.json and errors.png."""
        for stage, molecule in enumerate(self.data.molecules[: self.num_learned]):
            for method in self.model:
                save(plain_copy(self.take_up(method, stage)), folder / f"{method}-{molecule}.ckpt")
        results = self.results()
        (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        draw_errors(folder / "errors.png", results)

    def _no_errors(self) -> StreamErrors:
        return StreamErrors(list(self.model), self.data.molecules, self.potential.elements, self.device)

    def _predictions(self, batch: Batch, stage: int) -> Iterator[tuple[str, EnergyForces]]:
        """What every method says of a batch of a molecule."""
        for method in self.model:
            self.take_up(method, stage)
            yield method, self(batch)

    def _add(self, errors: StreamErrors, batch: Batch, stage: int) -> None:
        element = self.potential.element_of(batch.numbers)
        for method, predicted in self._predictions(batch, stage):
            errors.add(method, predicted, batch, element, stage)
