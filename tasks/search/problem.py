"""The search of a potential: its data, its loss, the error of a network, and the time that one takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Batch

from ponita.data import collate
from ponita.models import EnergyForces, Potential
from ponita.sharing.search import (
    Architecture,
    Choice,
    Latency,
    Losses,
    PonitaSupernet,
    SearchSpace,
    calibrate_supernet,
    message_passing_flops,
)
from ponita.sharing.search.pada import ImportanceDataSampler
from ponita.sharing.search.ponita_supernet import supernet_of
from ponita.tasks.datamodule import GraphDataModule
from ponita.tasks.potential import EnergyForceTask
from ponita.tasks.potential.normalization import normalize_from
from ponita.tasks.potential.outside import batch_losses, force_error, rotated_batches
from ponita.training import LossWeights

#: Rows of a training set, or what draws them.
Rows = Sequence[int] | ImportanceDataSampler


class PotentialProblem:
    """Which potential of a space of networks is best on a data set.

    Args:
        space: options of arguments of `Ponita`, by name; see `PonitaSupernet`.
        network: its other arguments.
        elements: atomic numbers of the data, in the order of the network's channels.
        data: with energies and forces of every structure.
        loss_weights: of energies and forces.
        reference_energies: as in `EnergyForceTask`.
        self_loops: give the network the edges i->i.
        timed_structures: whose energies and forces are timed together, as the latency of a network.
        seed: of weights, order and rotations.

    Raises:
        ValueError: for options that do not nest.
    """

    def __init__(
        self,
        space: dict[str, list[Any]],
        network: dict[str, Any],
        elements: list[int],
        data: GraphDataModule,
        loss_weights: LossWeights = LossWeights(),  # noqa: B008  (a dataclass default is how the CLI knows the keys)
        reference_energies: str | dict[str, float] | None = None,
        self_loops: bool = False,
        timed_structures: int = 20,
        seed: int = 0,
    ) -> None:
        self.space = SearchSpace(*(Choice(name, tuple(values)) for name, values in space.items()))
        self.network, self.elements, self.data = {"in_channels": len(elements), **network}, elements, data
        self.loss_weights, self.reference_energies, self.self_loops = loss_weights, reference_energies, self_loops
        self.timed_structures, self.seed = timed_structures, seed
        self._config = PonitaSupernet(self.space, **self.network).config  # its mistakes before any data are read

    def setup(self) -> None:
        """Read the data."""
        self.data.prepare_data()
        self.data.setup("fit")

    def new_task(self, space: SearchSpace | None = None, **fixed: Any) -> EnergyForceTask:
        """A task whose potential is a new supernet, normalised and calibrated on the training set.

        Args:
            space: of the supernet; the problem's where None.
            **fixed: arguments of `Ponita` in place of the problem's.
        """
        torch.manual_seed(self.seed)
        return self._ready(PonitaSupernet(space or self.space, **{**self.network, **fixed}))

    def _ready(self, network: PonitaSupernet) -> EnergyForceTask:
        task = EnergyForceTask(network, self.elements, self.loss_weights, self_loops=self.self_loops, seed=self.seed)
        normalize_from(task.potential, self.data, self.loss_weights, self.reference_energies)
        calibrate_supernet(task.model, task.model_inputs(self.data.first_batch()))
        return task

    def losses(self, task: EnergyForceTask, batch: Batch) -> Losses:
        """Of each structure, on the path that is active."""
        samples, predicted = batch_losses(task, batch)
        weights = batch.sample_weight if "sample_weight" in batch else None
        return Losses(samples, predicted, batch, batch.sample, weights)

    def epoch(self, number: int, rows: Rows | None = None) -> Iterator[Batch]:
        """The training set in a random order, rotated at random.

        Args:
            number: of the epoch.
            rows: of the training set to take; a sampler of them says the order, and the weights of their losses, itself.
        """
        generator = torch.Generator().manual_seed(self.seed + 7919 * number)
        chosen, size = self.data.sets["train"], self.data.batch_size
        if isinstance(rows, ImportanceDataSampler):
            order = torch.tensor(list(rows))
        else:
            given = torch.arange(len(chosen)) if rows is None else torch.tensor(rows)
            order = given[torch.randperm(len(given), generator=generator)]
        for batch in rotated_batches(chosen, order, size, generator):
            if isinstance(rows, ImportanceDataSampler):
                batch.sample_weight = rows.weights(batch.sample)
            yield batch

    def network_inputs(self, task: EnergyForceTask, batch: Batch) -> dict[str, Any]:
        """Arguments of the network of a potential, for what compares features and needs no labels."""
        given = task.model_inputs(batch)
        element = task.potential.element_of(given.pop("numbers"))
        return {**given, "x": torch.nn.functional.one_hot(element, len(self.elements)).to(batch.pos.dtype)}

    def valid_batches(self) -> list[Batch]:
        """The validation set."""
        return list(self.data.batches("valid"))

    def error(self, task: EnergyForceTask, architecture: Architecture | None = None, part: str = "valid") -> float:
        """Mean absolute error of force components, meV/Å.

        Args:
            task: whose potential holds a supernet, or is one network.
            architecture: the path; none for one network.
            part: of the data.
        """
        batches = self.data.batches(part)
        if architecture is None:
            return force_error(task, batches)
        with supernet_of(task).activate(architecture):
            return force_error(task, batches)

    def latency(self, extract: Callable[[Architecture], Potential]) -> Latency:
        """Milliseconds of the energies and forces of `timed_structures` validation structures, neighbour lists given.

        Args:
            extract: the potential of an architecture.
        """
        rows = range(min(self.timed_structures, len(self.data.sets["valid"])))
        batch = collate([self.data.sets["valid"][row] for row in rows])
        inputs: dict[float | None, Mapping[str, Any]] = {}

        def run(alone: nn.Module) -> EnergyForces:
            cutoff = alone.network.config["cutoff"]
            if cutoff not in inputs:
                inputs[cutoff] = self.task_of(alone).model_inputs(batch)
            return alone.energy_forces(**inputs[cutoff])

        return Latency(extract, run)

    def flops(self, architecture: Architecture) -> float:
        """Multiply-adds of the network on a training batch, from its sizes."""
        batch = self.data.first_batch()
        nodes, pairs = batch.num_nodes, int((batch.ptr.diff().square() - batch.ptr.diff()).sum())
        config = {**self._config, **self.space.decode(architecture)}
        return message_passing_flops(config, nodes, pairs)

    def task_of(self, potential: Potential) -> EnergyForceTask:
        """A task around a potential that is trained already."""
        network = potential.network
        task = EnergyForceTask(network, self.elements, self.loss_weights, self_loops=self.self_loops, seed=self.seed)
        task.model = potential
        return task
