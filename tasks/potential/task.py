"""Training of interatomic potentials on energies and forces (PONITA, section 4, rMD17)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch_geometric.data import Batch
from torchmetrics import MeanAbsoluteError

from ponita.geometry import random_rotations, rotate
from ponita.models import EnergyForces, Ponita, Potential
from ponita.tasks.base import Task
from ponita.tasks.pictures import draw_parity, figure, format_table
from ponita.tasks.runs import folder_of
from ponita.training import LossWeights, OptimizerConfig, energy_force_loss

MILLI = 1000.0  # metrics are in meV and meV/Å


class EnergyForceTask(Task):
    """Fit a potential: energies are its output, forces its negative gradient.

    The energy of a typical molecule and the root mean square force of the training set normalise the network.

    Args:
        model: network with as many in_channels as elements, one scalar output, pooling="sum".
        elements: atomic numbers of the data, in the order of the network's channels.
        loss_weights: of energies and forces.
        optimizer: learning rate, weight decay and warm-up.
        self_loops: give the network the edges i->i, as the published one has.
        augment: rotate every molecule at random in training.
        calibrate_kernels: rescale the convolutions on the first batch before training.
        test_rotations: average predictions of the test over so many random rotations; 1 leaves molecules as they are.
        seed: of the rotations.
    """

    metric_units: ClassVar[dict[str, str]] = {"valid/energy_mae": "meV", "valid/forces_mae": "meV/Å"}

    def __init__(
        self,
        model: Ponita,
        elements: list[int],
        loss_weights: LossWeights = LossWeights(),  # noqa: B008  (a dataclass default is how the CLI knows the keys)
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008
        self_loops: bool = True,
        augment: bool = True,
        calibrate_kernels: bool = True,
        test_rotations: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(Potential(model, elements, self_loops), optimizer, augment, calibrate_kernels, seed)
        if test_rotations < 1:
            raise ValueError(f"test_rotations={test_rotations}; expected at least 1.")
        self.loss_weights, self.test_rotations = loss_weights, test_rotations
        names = ("valid_energy", "valid_forces", "test_energy", "test_forces")
        self.errors = torch.nn.ModuleDict({name: MeanAbsoluteError() for name in names})
        self.tested: list[tuple[EnergyForces, EnergyForces]] = []

    def model_inputs(self, batch: Batch) -> dict[str, Any]:
        return {"pos": batch.pos, "numbers": batch.numbers, "batch": batch.batch, "num_graphs": batch.num_graphs}

    def forward(self, batch: Batch, create_graph: bool = False) -> EnergyForces:
        """Energies [G] eV and forces [N, 3] eV/Å."""
        return self.model.energy_forces(**self.model_inputs(batch), create_graph=create_graph)

    def prepare(self, first_batch: Batch) -> None:
        self.model.set_normalization(*self.trainer.datamodule.sets["train"].normalization())

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        predicted = self(batch, create_graph=True)
        return energy_force_loss(predicted, _target(batch), self.model.scale, self.loss_weights)

    def rotate_batch(self, batch: Batch, rotations: Tensor) -> Batch:
        batch = batch.clone()
        for name in ("pos", "forces"):
            batch[name] = rotate(batch[name], rotations, batch.batch)
        return batch

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._measure("valid", self(batch), batch)

    def on_test_epoch_start(self) -> None:
        self.tested = []
        self._generator = torch.Generator().manual_seed(self.seed)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        predicted = self(batch) if self.test_rotations == 1 else self._averaged(batch)
        self._measure("test", predicted, batch)
        self.tested.append((predicted, _target(batch)))

    def on_test_end(self) -> None:
        if self.trainer.is_global_zero:
            self._draw()

    def predict_step(self, batch: Batch, batch_idx: int) -> EnergyForces:
        return self(batch)

    def report(self) -> str:
        metrics = self.trainer.callback_metrics
        energy, forces = (f"{float(metrics[f'test/{name}_mae']):.2f}" for name in ("energy", "forces"))
        averaged = f"mean of {self.test_rotations} rotations" if self.test_rotations > 1 else "as given"
        return format_table(
            [
                (f"test set, {averaged}", "energy MAE (meV)", "force MAE (meV/Å)"),
                (f"PONITA, {self.trainer.datamodule.molecule}", energy, forces),
            ]
        )

    def _measure(self, stage: str, predicted: EnergyForces, batch: Batch) -> None:
        for name, weight in (("energy", batch.num_graphs), ("forces", batch.num_nodes)):
            metric = self.errors[f"{stage}_{name}"]
            # Differences first: total energies do not fit float32 to a meV.
            error = MILLI * (getattr(predicted, name) - getattr(batch, name))
            metric(error, torch.zeros_like(error))
            shown = stage == "valid"
            self.log(f"{stage}/{name}_mae", metric, prog_bar=shown, batch_size=weight, on_step=False, on_epoch=True)

    def _averaged(self, batch: Batch) -> EnergyForces:
        """Mean over rotated copies, forces rotated back."""
        energies, forces = [], []
        for _ in range(self.test_rotations):
            turns = random_rotations(batch.num_graphs, generator=self._generator, dtype=batch.pos.dtype).to(batch.pos)
            predicted = self(self.rotate_batch(batch, turns))
            energies.append(predicted.energy)
            forces.append(rotate(predicted.forces, turns.mT, batch.batch))
        return EnergyForces(torch.stack(energies).mean(0), torch.stack(forces).mean(0))

    def _draw(self) -> None:
        predicted, true = zip(*self.tested, strict=True)
        with figure(folder_of(self.trainer) / "parity.png", columns=2) as axes:
            true_energy, energy = (torch.cat([part.energy for part in parts]).cpu() for parts in (true, predicted))
            offset = true_energy.mean()
            draw_parity(axes[0], MILLI * (true_energy - offset), MILLI * (energy - offset), "energy", "meV")
            true_forces, forces = (
                torch.cat([part.forces for part in parts]).flatten().cpu() for parts in (true, predicted)
            )
            draw_parity(axes[1], true_forces, forces, "forces", "eV/Å")


def _target(batch: Batch) -> EnergyForces:
    return EnergyForces(batch.energy, batch.forces)
