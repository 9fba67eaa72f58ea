"""Few supernets of a part of the space each, trained without labels on the relations of a teacher (AutoDistil, arXiv:2201.12507)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ponita.models import Ponita
from ponita.sharing.search.ponita_supernet import PonitaSupernet
from ponita.sharing.search.relations import Graphs, RelationDistillationLoss, Relations
from ponita.sharing.search.sampling import PathSampler, SandwichSampler
from ponita.sharing.search.searchers import Limit, exhaustive_search
from ponita.sharing.search.space import Architecture, SearchSpace
from ponita.sharing.search.supernet import Supernet, find_supernet
from ponita.sharing.search.taps import recorded
from ponita.sharing.search.training import History, Losses, SupernetTrainer

#: Arguments of `Ponita` that say what its weights mean; a supernet inherits only where they agree.
MEANING = ("space", "mode", "in_channels", "in_vector_channels", "invariants", "separable", "conditioning_channels")


class DistillationObjective:
    """Losses of the active path of a supernet against a teacher: a loss function for `SupernetTrainer`.

    Batches are mappings of the arguments of the networks; nothing in them is a label.

    Args:
        teacher: a trained network, or a supernet, whose largest network teaches. It gets no gradient, must not change
            while it teaches, and is put in evaluation mode.
        loss: between the last blocks.
    """

    def __init__(self, teacher: Ponita | Supernet, loss: RelationDistillationLoss) -> None:
        self.teacher, self.loss = teacher.eval(), loss
        self._latest: tuple[Any, Relations] | None = None

    @torch.no_grad()
    def target(self, batch: Mapping[str, Any]) -> Relations:
        """Relations of the teacher's last block."""
        graphs = Graphs.of(batch)
        if isinstance(self.teacher, Supernet):
            _, blocks = self.teacher.taps(**batch, path=self.teacher.space.largest())
        else:
            with recorded(self.teacher) as blocks:
                self.teacher(**batch)
        return self.loss.relations(blocks[-1], graphs)

    def samples(self, supernet: Supernet, batch: Mapping[str, Any], target: Relations) -> Tensor:
        """[G] loss of each graph, on the path that is active."""
        graphs = Graphs.of(batch)
        _, blocks = supernet.taps(**batch, path=supernet.path)
        return self.loss.compare(self.loss.relations(blocks[-1], graphs), target, graphs)

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> Losses:
        # the paths of one step share a batch, of which the teacher needs to be asked once
        if self._latest is None or self._latest[0] is not batch:
            self._latest = batch, self.target(batch)
        target = self._latest[1]
        return Losses(self.samples(find_supernet(model), batch, target), target=target)

    def forget(self) -> None:
        """Ask the teacher again, also about the latest batch."""
        self._latest = None


class DistillationTrainer:
    """Trains supernets of different spaces, one after the other, on the relations of one teacher.

    Args:
        teacher: as in `DistillationObjective`.
        supernets: such as those of `compact` parts of a space.
        loss: between the last blocks.
        optimizer: makes the optimiser of the parameters of a supernet.
        sampler: makes the sampler of its space; the smallest, the largest and two others in every step, as in the paper.
        grad_clip: as in `SupernetTrainer`.
        progress: show progress bars.

    Attributes:
        trainers: of each supernet; callbacks may be added to them.

    Raises:
        ValueError: without supernets, if the teacher is one of them, and as `SupernetTrainer`.
    """

    def __init__(
        self,
        teacher: Ponita | Supernet,
        supernets: Sequence[Supernet],
        loss: RelationDistillationLoss,
        optimizer: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer],
        sampler: Callable[[SearchSpace], PathSampler] = SandwichSampler,
        grad_clip: float | None = 5.0,
        progress: bool = False,
    ) -> None:
        taught = {id(parameter) for supernet in supernets for parameter in supernet.parameters()}
        if not taught or any(id(parameter) in taught for parameter in teacher.parameters()):
            raise ValueError(
                f"{len(supernets)} supernets, which must have weights of their own: expected at least one, and a teacher that "
                "shares no parameter with them. Teach with a copy of the network."
            )
        self.objective = DistillationObjective(teacher, loss)
        self.supernets = list(supernets)
        self.trainers = [
            SupernetTrainer(
                s, self.objective, optimizer(s.parameters()), sampler(s.space), grad_clip=grad_clip, progress=progress
            )
            for s in supernets
        ]

    def fit(self, loader: Iterable[Mapping[str, Any]], epochs: int) -> list[History]:
        """Train every supernet for as many epochs.

        Args:
            loader: batches of an epoch; iterated anew in each.
            epochs: of each supernet.
        """
        self.objective.forget()
        return [trainer.fit(loader, epochs) for trainer in self.trainers]


@dataclass
class Student:
    """A network that was selected.

    Attributes:
        supernet: that holds it.
        architecture: in the space of that.
        loss: of distillation.
        cost: in the unit of the limit.
        losses: of all networks within the limit, for each supernet.
    """

    supernet: Supernet
    architecture: Architecture
    loss: float
    cost: float
    losses: list[dict[Architecture, float]]


def select_student(
    supernets: Sequence[Supernet],
    objective: DistillationObjective,
    batches: Iterable[Mapping[str, Any]],
    cost: Callable[[Supernet, Architecture], float],
    max_cost: float,
) -> Student:
    """The network of least loss among those of all supernets within a limit (arXiv:2201.12507); nothing is trained.

    Args:
        supernets: trained; they are put in evaluation mode.
        objective: with the teacher, such as that of the trainer.
        batches: to validate on; the loss is the mean over all of their graphs.
        cost: of an architecture of a supernet.
        max_cost: the most that it may be.

    Raises:
        ValueError: without batches, or if no network is within the limit.
    """
    batches = list(batches)
    if not batches:
        raise ValueError("there are no batches to validate on; expected at least one.")
    costs = [{a: float(cost(supernet, a)) for a in supernet.space.enumerate()} for supernet in supernets]
    least = min((value for of_one in costs for value in of_one.values()), default=float("nan"))
    if not least <= max_cost:
        raise ValueError(
            f"no network of the {len(supernets)} supernets costs at most {max_cost:g}; the cheapest takes {least:g}. Raise the limit, "
            "or give the spaces smaller options."
        )
    targets = [objective.target(batch) for batch in batches]
    losses = []
    for supernet, known in zip(supernets, costs, strict=True):
        evaluate = partial(_validate, supernet.eval(), objective, batches, targets)
        fits = min(known.values()) <= max_cost
        limit = Limit(known.get, max_cost)
        losses.append(exhaustive_search(supernet.space, evaluate, limit).errors if fits else {})
    loss, k, best = min((loss, k, a) for k, of_one in enumerate(losses) for a, loss in of_one.items())
    return Student(supernets[k], best, loss, costs[k][best], losses)


@torch.no_grad()
def _validate(
    supernet: Supernet,
    objective: DistillationObjective,
    batches: Sequence[Mapping[str, Any]],
    targets: Sequence[Relations],
    architecture: Architecture,
) -> float:
    """The mean loss of all graphs."""
    with supernet.activate(architecture):
        samples = [objective.samples(supernet, b, t) for b, t in zip(batches, targets, strict=True)]
    return float(torch.cat(samples).mean())


@torch.no_grad()
def inherit(supernet: PonitaSupernet, teacher: Ponita) -> list[str]:
    """Copy into every parameter of a supernet the corner of the teacher's, where that is at least as large.

    Where all kernels and their basis functions are as wide as the teacher's, the supernet counts as calibrated. Else
    calibrate it afterwards: a part of the basis functions makes kernels of another scale.

    Args:
        supernet: to start from the teacher.
        teacher: trained.

    Returns:
        Names of the parameters of `supernet.network` that were copied.

    Raises:
        ValueError: if inputs or invariants are others, or the teacher is narrower.
    """
    ours, theirs = supernet.network.config, teacher.config
    other = {name: (ours[name], theirs[name]) for name in MEANING if ours[name] != theirs[name]}
    if other or theirs["hidden_channels"] < ours["hidden_channels"]:
        seen = other or {"hidden_channels": (ours["hidden_channels"], theirs["hidden_channels"])}
        raise ValueError(
            f"the supernet and the teacher have {seen}; expected the same inputs and invariants, and a teacher that is at least as "
            "wide. Make the options of the supernet smaller, or use another teacher."
        )
    given = dict(teacher.named_parameters())
    own = dict(supernet.network.named_parameters())
    fitting = [name for name in own if name in given and _fits(name, own[name], given[name])]
    for name in fitting:
        own[name].copy_(given[name][tuple(map(slice, own[name].shape))])
    kernels = [name for name in own if "basis." in name or "kernel." in name]
    if all(name in fitting and own[name].shape == given[name].shape for name in kernels):
        supernet.calibrated.fill_(True)
    return fitting


def _fits(name: str, own: Tensor, given: Tensor) -> bool:
    """Whether the corner of a parameter means the same: rows of outputs, and of keys and queries, do not nest."""
    rows_nest = not name.startswith("readouts.") and ".attention." not in name
    return all(a <= b for a, b in zip(own.shape, given.shape, strict=True)) and (rows_nest or len(own) == len(given))
