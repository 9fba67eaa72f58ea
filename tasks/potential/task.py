"""Training of interatomic potentials on energies and forces (PONITA, section 4, rMD17)."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import Tensor
from torch_geometric.data import Batch

from ponita.data.references import References
from ponita.geometry import EdgeSet, random_rotations, rotate
from ponita.models import EnergyForces, EnergyForcesStress, Ponita, Potential
from ponita.tasks.base import Task
from ponita.tasks.graphs import complete_graph, joined_graph, matched_graph
from ponita.tasks.potential.metrics import PotentialErrors
from ponita.tasks.potential.normalization import CHOICES, normalize_from
from ponita.tasks.potential.report import (
    Tested,
    described_references,
    draw_parities,
    error_report,
    molecule_report,
)
from ponita.tasks.runs import folder_of
from ponita.training import LossWeights, OptimizerConfig, energy_force_loss


class PotentialTask(Task):
    """Base of the tasks that fit a potential: energies are its output, forces its negative gradient, the stress its
    derivative in the strain.

    Labels that structures do not have are left out of losses and errors.

    Args:
        model: `Potential`, or what wraps one.
        loss_weights: of energies, forces and stress.
        optimizer: learning rate, weight decay and warm-up.
        augment: rotate every structure at random in training.
        calibrate_kernels: rescale the convolutions on the first batch before training.
        test_rotations: average predictions of the test over so many random rotations; 1 leaves structures as they are.
        seed: of the rotations.
    """

    averages_samples = True
    metric_units: ClassVar[dict[str, str]] = {
        "valid/energy_mae": "meV",
        "valid/energy_per_atom_mae": "meV/atom",
        "valid/forces_mae": "meV/Å",
        "valid/stress_mae": "GPa",
    }

    def __init__(
        self,
        model: torch.nn.Module,
        loss_weights: LossWeights,
        optimizer: OptimizerConfig,
        augment: bool,
        calibrate_kernels: bool,
        test_rotations: int,
        seed: int,
    ) -> None:
        super().__init__(model, optimizer, augment, calibrate_kernels, seed)
        if test_rotations < 1:
            raise ValueError(f"test_rotations={test_rotations}; expected at least 1.")
        self.loss_weights, self.test_rotations = loss_weights, test_rotations
        #: Reference energies that were chosen, by head, after the start of a training.
        self.references: dict[str, References] = {}
        elements = self.potential.elements
        self.errors = torch.nn.ModuleDict({"valid": PotentialErrors(elements), "test": PotentialErrors(elements)})
        self.tested: list[Tested] = []

    @property
    def potential(self) -> Potential:
        """The potential itself, where the model wraps one."""
        return self.model

    @property
    def network(self) -> Ponita:
        """Of the potential."""
        return self.potential.network

    def make_edges(self, batch: Batch) -> EdgeSet | Tensor:
        self._complete(batch)
        network = self.potential.network
        if network.config["cutoff"] is None:
            return complete_graph(network, batch.ptr.diff(), self.potential.self_loops)
        if "reverse" in batch:
            return joined_graph(network, batch.neighbors, batch.num_nodes, batch.reverse)
        shift = batch.offsets.to(batch.pos.dtype) if "offsets" in batch else None
        return matched_graph(network, batch.neighbors, batch.num_nodes, shift)

    def model_inputs(self, batch: Batch) -> dict[str, Any]:
        if "edges" not in batch:
            batch = self._complete(copy.copy(batch))
        inputs = {
            "pos": batch.pos,
            "numbers": batch.numbers,
            "edge_index": self.edges(batch),
            "batch": batch.batch,
            "num_graphs": batch.num_graphs,
        }
        return inputs | {name: batch[name] for name in ("cell", "pbc", "offsets", "head") if name in batch}

    def forward(self, batch: Batch, create_graph: bool = False) -> EnergyForces | EnergyForcesStress:
        """Energies [G] eV, forces [N, 3] eV/Å and, where the batch has a stress, the stress [G, 3, 3] eV/Å³."""
        inputs = self.model_inputs(batch)
        return self.potential.energy_forces(**inputs, create_graph=create_graph, stress="stress" in batch)

    @rank_zero_only
    def on_fit_start(self) -> None:
        """Say what was read, and the reference energies, and write it to data.txt."""
        lines = [
            *getattr(self.trainer.datamodule, "described", []),
            *described_references(self.potential, self.references),
        ]
        path = folder_of(self.trainer) / "data.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        rank_zero_info("\n".join(lines))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        predicted = self(batch, create_graph=True)
        weights = self.loss_weights.at(self.progress)
        losses = [
            energy_force_loss(sample, _target(batch), self.potential.scale, weights, batch.ptr.diff())
            for sample in self._samples(predicted, batch)
        ]
        return {name: torch.stack([of_sample[name] for of_sample in losses]).mean(0) for name in losses[0]}

    def rotate_batch(self, batch: Batch, rotations: Tensor) -> Batch:
        return rotate_structures(batch, rotations)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._measure("valid", self(batch), batch)

    def on_validation_epoch_end(self) -> None:
        values = self.errors["valid"].values()
        shown = {name: values[name] for name in ("energy_mae", "forces_mae") if name in values}
        more = {name: values[name] for name in ("energy_per_atom_mae", "stress_mae") if name in values}
        self.log_dict({f"valid/{name}": value for name, value in shown.items()}, prog_bar=True, sync_dist=True)
        self.log_dict({f"valid/{name}": value for name, value in more.items()}, sync_dist=True)
        self.errors["valid"].reset()

    def on_test_epoch_start(self) -> None:
        self.tested = []
        groups = getattr(self.trainer.datamodule.sets["test"], "labels", ("",))
        self.errors["test"] = PotentialErrors(self.potential.elements, groups).to(self.device)
        self._generator = torch.Generator().manual_seed(self.seed)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        predicted = self(batch) if self.test_rotations == 1 else self._averaged(batch)
        self._measure("test", predicted, batch)
        self.tested.append(Tested(predicted, _target(batch), batch.ptr.diff(), self._references(batch)))

    def on_test_epoch_end(self) -> None:
        values = self.errors["test"].values()
        self.log_dict({f"test/{name}": value for name, value in values.items()}, sync_dist=True)
        self.error_tables = self.errors["test"].tables()

    def on_test_end(self) -> None:
        if self.trainer.is_global_zero and self.tested:
            draw_parities(folder_of(self.trainer) / "parity.png", self.tested)

    def predict_step(self, batch: Batch, batch_idx: int) -> EnergyForces | EnergyForcesStress:
        return self(batch)

    def report(self) -> str:
        averaged = f"mean of {self.test_rotations} rotations" if self.test_rotations > 1 else "as given"
        molecule = getattr(self.trainer.datamodule, "molecule", None)
        if molecule is not None:
            return molecule_report(molecule, f"test set, {averaged}", self.trainer.callback_metrics)
        name = getattr(self.trainer.datamodule, "tested_on", "test set")
        return error_report(self.errors["test"], self.error_tables, f"{name}, {averaged}")

    def _samples(self, predicted: EnergyForces, batch: Batch) -> list[EnergyForces]:
        """The energies of each sample of multi-sample dropout, with the forces of their mean."""
        if self.sampler is None:
            return [predicted]
        added = self.sampler.deviations().scalars  # [M, G, heads]
        if "head" in batch:
            added = added.gather(2, batch.head.expand(len(added), -1)[..., None])
        return [predicted._replace(energy=predicted.energy + self.potential.scale * one) for one in added[..., 0]]

    def _measure(self, stage: str, predicted: EnergyForces, batch: Batch) -> None:
        group = batch.label if stage == "test" and "label" in batch else torch.zeros_like(batch.ptr[1:])
        element = self.potential.element_of(batch.numbers)
        self.errors[stage].update(predicted, _target(batch), batch.batch, element, group)

    def _averaged(self, batch: Batch) -> EnergyForces | EnergyForcesStress:
        """Mean over rotated copies, forces and stresses rotated back."""
        copies = []
        for _ in range(self.test_rotations):
            turns = random_rotations(batch.num_graphs, generator=self._generator, dtype=batch.pos.dtype).to(batch.pos)
            predicted = self(self.rotate_batch(batch, turns))
            forces = rotate(predicted.forces, turns.mT, batch.batch)
            stress = (turns.mT @ predicted.stress @ turns,) if isinstance(predicted, EnergyForcesStress) else ()
            copies.append(type(predicted)(predicted.energy, forces, *stress))
        return type(copies[0])(*(torch.stack(values).mean(0) for values in zip(*copies, strict=True)))

    def _complete(self, batch: Batch) -> Batch:
        """The batch with neighbour lists where it came without, and with numbers in the place of the heads' names."""
        if "neighbors" not in batch and (self.potential.network.config["cutoff"] is not None or "cell" in batch):
            periodic = [batch.cell, batch.pbc] if "cell" in batch else []
            batch.neighbors, offsets = self.potential.neighbors(batch.pos, batch.batch, *periodic)
            if offsets is not None:
                batch.offsets = offsets
        if "head" in batch and isinstance(batch.head, list):
            if len(self.potential.heads) == 1:
                del batch["head"]
            else:
                numbers = [self.potential.heads.index(name) for name in batch.head]
                batch.head = torch.tensor(numbers, device=batch.pos.device)
        return batch

    def _references(self, batch: Batch) -> Tensor:
        """[G] sum of the reference energies of each structure's atoms, eV."""
        head = batch.head.index_select(0, batch.batch) if "head" in batch else 0
        energies = self.potential.reference_energies[head, self.potential.element_of(batch.numbers)]
        return energies.new_zeros(batch.num_graphs).index_add_(0, batch.batch, energies)


class EnergyForceTask(PotentialTask):
    """Fit a new potential.

    Reference energies and the root mean square force of the training set normalise the network. Labels that structures
    do not have are left out of losses and errors.

    Args:
        model: network with as many in_channels as elements, one scalar output for each head, pooling="sum".
        elements: atomic numbers of the data, in the order of the network's channels.
        loss_weights: of energies, forces and stress.
        optimizer: learning rate, weight decay and warm-up.
        reference_energies: what total energies are measured from. "isolated": structures of single atoms, in the training
            set or in the data's `isolated_atoms`; "least_squares" over compositions; energies of atoms in eV by
            element, such as {H: -13.6}, under the name of each head where there are several; "mean": the mean energy, for
            structures of one composition. null: "mean" where there is one composition, an error where there are more.
        heads: levels of theory, each with an output and reference energies of its own.
        self_loops: give the network the edges i->i, as the published one has.
        augment: rotate every structure at random in training.
        calibrate_kernels: rescale the convolutions on the first batch before training.
        test_rotations: average predictions of the test over so many random rotations; 1 leaves structures as they are.
        seed: of the rotations.
    """

    def __init__(
        self,
        model: Ponita,
        elements: list[int],
        loss_weights: LossWeights = LossWeights(),  # noqa: B008  (a dataclass default is how the CLI knows the keys)
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008
        reference_energies: str | dict[str, float] | dict[str, dict[str, float]] | None = None,
        heads: list[str] = ["default"],  # noqa: B006  (not changed; a tuple would be another type in configurations)
        self_loops: bool = True,
        augment: bool = True,
        calibrate_kernels: bool = True,
        test_rotations: int = 1,
        seed: int = 0,
    ) -> None:
        if isinstance(reference_energies, str) and reference_energies not in CHOICES:
            raise ValueError(
                f"reference_energies={reference_energies!r}; expected one of {list(CHOICES)}, or energies."
            )
        potential = Potential(model, elements, self_loops, heads)
        super().__init__(potential, loss_weights, optimizer, augment, calibrate_kernels, test_rotations, seed)
        self.reference_choice = reference_energies

    def prepare(self, first_batch: Batch) -> None:
        data = self.trainer.datamodule
        self.references = normalize_from(self.model, data, self.loss_weights, self.reference_choice)


def _target(batch: Batch) -> EnergyForces | EnergyForcesStress:
    labels = (batch.energy, batch.forces)
    return EnergyForcesStress(*labels, batch.stress) if "stress" in batch else EnergyForces(*labels)


def rotate_structures(batch: Batch, rotations: Tensor) -> Batch:
    """A batch with structure g turned by rotations[g] ([G, 3, 3]): positions and forces [N, 3], cells and stresses [G, 3, 3]."""
    batch = batch.clone()
    for name in ("pos", "forces"):
        batch[name] = rotate(batch[name], rotations, batch.batch)
    if "cell" in batch:
        batch.cell = batch.cell @ rotations.mT
    if "stress" in batch:
        batch.stress = rotations @ batch.stress @ rotations.mT
    return batch
