"""A trained potential, and machines that hold frames of another molecule."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftConfig
from torch import Tensor, nn
from torch.func import functional_call
from torch_geometric.data import Batch, Data

from ponita.models import EnergyForces, save
from ponita.sharing.adapters import save_adapter
from ponita.sharing.federated.one_byte import mix
from ponita.tasks.datamodule import GraphDataModule
from ponita.tasks.potential.finetune import ALL, FineTuneTask
from ponita.tasks.potential.metrics import PotentialErrors
from ponita.tasks.potential.normalization import check_labels, gather
from ponita.tasks.potential.outside import batch_losses, parts_by_energy, rotated_batches
from ponita.training import LossWeights, structure_losses


class BatchLoss(nn.Module):
    """The mean loss of the structures of a batch, as what a module computes.

    With a weight of 0 no forces are computed, so nothing is differentiated.

    Args:
        task: with the potential.
    """

    def __init__(self, task: FineTuneTask) -> None:
        super().__init__()
        self.task = task.eval()

    def forward(self, batch: Batch, create_graph: bool = False) -> Tensor:
        """The loss; with `create_graph` one that can be differentiated by the weights."""
        if self.task.loss_weights.forces > 0:
            return batch_losses(self.task, batch, create_graph)[0].mean()
        predicted = EnergyForces(self.task.model(**self.task.model_inputs(batch)), batch.forces)
        weights, scale = self.task.loss_weights, self.task.potential.scale
        labels = EnergyForces(batch.energy, batch.forces)
        return structure_losses(predicted, labels, scale, weights, batch.batch, batch.ptr.diff()).mean()

    def trained(self) -> dict[str, nn.Parameter]:
        """Parameters that train, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


class OneByteProblem:
    """A potential that was trained on other molecules, and machines with frames of a new one.

    The training set is sorted by energy and divided evenly: the first machine holds the calmest frames, the last one the most
    distorted. Reference energies are corrected once for all of them, by least squares over the whole set. All else that
    machines do follows from the seed, the number of the step and their own: batches, their rotations, and rounding.

    Args:
        checkpoint: of the potential.
        data: frames with energies and forces.
        adapter: configuration of an adapter; none where parameters of the potential train.
        train: without an adapter, a regular expression of the whole names of the parameters that train.
        machines: M.
        loss_weights: of energies and forces; without forces (0) an evaluation takes no more memory than inference.
        seed: of the batches and of the adapter's first weights.

    Raises:
        ValueError: for a number of machines below 1, weights that leave no loss, and as `FineTuneTask`.
    """

    def __init__(
        self,
        checkpoint: str,
        data: GraphDataModule,
        adapter: PeftConfig | None = None,
        train: str = ALL,
        machines: int = 3,
        loss_weights: LossWeights = LossWeights(),  # noqa: B008  (a dataclass default is how the CLI knows the keys)
        seed: int = 0,
    ) -> None:
        if machines < 1:
            raise ValueError(f"machines={machines}; expected at least 1.")
        if not min(loss_weights.energy, loss_weights.forces) >= 0 or not loss_weights.energy + loss_weights.forces > 0:
            raise ValueError(
                f"loss_weights.energy={loss_weights.energy}, loss_weights.forces={loss_weights.forces}; expected 0 or more, and "
                "not both 0."
            )
        self.checkpoint, self.adapter, self.train, self.data = checkpoint, adapter, train, data
        self.machines, self.loss_weights, self.seed = machines, loss_weights, seed
        self.batch_size = data.batch_size
        #: Of each machine.
        self.frames: dict[int, list[Data]] = {}
        self.references: Tensor | None = None

    def setup(self) -> None:
        """Read potential and data, deal the frames out, and correct the reference energies."""
        task = self.new_loss().task
        self.data.prepare_data()
        self.data.setup("fit")
        check_labels(gather(self.data.sets["train"].parts(), task.potential), self.loss_weights)
        dataset = self.data.sets["train"]
        parts = parts_by_energy(dataset, self.machines)
        self.frames = {machine: [dataset[int(row)] for row in rows] for machine, rows in enumerate(parts)}
        task.correct_references_on(self.data.batches("train"))
        self.references = task.potential.reference_energies.clone()

    def private(self, machine: int) -> OneByteProblem:
        """What a machine is given: its own frames, and no others."""
        part = copy.copy(self)
        part.data, part.frames = None, {machine: self.frames[machine]}
        return part

    def new_loss(self) -> BatchLoss:
        """The loss with the potential that all begin with."""
        task = FineTuneTask(self.checkpoint, self.adapter, self.train, self.loss_weights, seed=self.seed)
        if self.references is not None:
            task.potential.reference_energies.copy_(self.references)
        return BatchLoss(task)

    def batch(self, machine: int, step: int, sample: int = 0) -> Batch:
        """Frames of a machine for a sample of a step, each turned at random."""
        frames, size = self.frames[machine], self.batch_size
        generator = torch.Generator().manual_seed(mix(self.seed, machine, step, sample))
        rows = torch.randint(len(frames), (size,), generator=generator)
        return next(rotated_batches(frames, rows, size, generator))

    def closure(self, loss: BatchLoss, machine: int, step: int, sample: int) -> Callable[[dict[str, Tensor]], Tensor]:
        """From parameters by name to the loss of such frames."""
        batch = self.batch(machine, step, sample)
        return lambda params: functional_call(loss, params, (batch,))

    def errors(self, loss: BatchLoss) -> tuple[float, float]:
        """Mean absolute errors of the test frames: energies (meV), components of forces (meV/Å)."""
        potential = loss.task.potential
        errors = PotentialErrors(potential.elements)
        for batch in self.data.batches("test"):
            labels = EnergyForces(batch.energy, batch.forces)
            element, group = potential.element_of(batch.numbers), torch.zeros_like(batch.ptr[1:])
            errors.update(loss.task(batch), labels, batch.batch, element, group)
        values = errors.values()
        return float(values["energy_mae"]), float(values["forces_mae"])

    def save(self, loss: BatchLoss, folder: Path, name: str) -> Path:
        """Write the potential for `ponita md`: a checkpoint, or the folder of an adapter."""
        if self.adapter is None:
            path = folder / f"{name}.ckpt"
            save(loss.task.model, path)
        else:
            path = folder / f"{name}-adapter"
            save_adapter(loss.task.model, path, self.checkpoint)
        return path
