"""Supernets of parts of the space that learn the features of a teacher, without labels."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from ponita.sharing.search import SandwichSampler, SearchSpace
from ponita.sharing.search.autodistil import DistillationTrainer, inherit
from ponita.sharing.search.hidden_states import spearman
from ponita.sharing.search.ponita_supernet import supernet_of
from ponita.sharing.search.relations import RelationDistillationLoss
from ponita.sharing.search.subspaces import partition_by_cost
from ponita.tasks.potential import EnergyForceTask
from ponita.tasks.search.methods.base import Epochs, Method, Trained
from ponita.tasks.search.problem import PotentialProblem

#: Networks of each part whose label-free loss is compared with their error.
RANKED = 20


class AutoDistil(Method):
    """The largest network teaches the relations of its features to a supernet for each part of the space (arXiv:2201.12507).

    Distillation sees no labels. Read-outs learn nothing by it, so a few epochs with labels follow, on all weights; the
    candidates are compared after those, and the report says how well the label-free loss had ranked them.

    Args:
        parts: K, of the space, by cost.
        teacher_epochs: of the largest network, with labels.
        distill_epochs: of each supernet, without labels.
        heads: relation heads; they divide the channels, a remainder is dropped.
        n_random: random networks in a step, beside the smallest and the largest.
        epochs, lr, warmup_epochs: with labels, at last.
    """

    def __init__(
        self,
        parts: int = 2,
        teacher_epochs: int = 20,
        distill_epochs: int = 10,
        heads: int = 4,
        n_random: int = 2,
        epochs: int = 10,
        lr: float = 5e-3,
        warmup_epochs: float = 1.0,
    ) -> None:
        super().__init__(epochs, lr, warmup_epochs)
        self.parts, self.teacher_epochs, self.distill_epochs = parts, teacher_epochs, distill_epochs
        self.heads, self.n_random = heads, n_random

    def train(self, problem: PotentialProblem, progress: bool = True) -> Trained:
        teacher = self.teacher(problem, progress)
        spaces = partition_by_cost(problem.space, self.parts, problem.flops)
        tasks = [problem.new_task(space) for space in spaces]
        alone = supernet_of(teacher).extract(problem.space.largest())
        for task in tasks:
            inherit(supernet_of(task), alone)
        trainer = DistillationTrainer(
            supernet_of(teacher),
            [supernet_of(task) for task in tasks],
            RelationDistillationLoss(self.heads),
            lambda parameters: torch.optim.Adam(parameters, lr=self.lr / 5),
            lambda space: SandwichSampler(space, self.n_random, problem.seed),
            grad_clip=1.0,
            progress=progress,
        )
        trainer.fit(_Unlabelled(problem, teacher), self.distill_epochs)
        relations = self._relation_losses(problem, trainer, list(zip(spaces, tasks, strict=True)))
        for space, task in zip(spaces, tasks, strict=True):
            self.fit(
                problem, self.trainer(problem, task, SandwichSampler(space, self.n_random, problem.seed)), progress
            )
        trained = Trained(list(zip(spaces, tasks, strict=True)))
        errors = torch.tensor([problem.error(trained.leaf_of(a), a) for a in relations])
        rank = spearman(torch.tensor(list(relations.values())), errors)
        trained.notes = [f"Part of {space}." for space in spaces]
        trained.notes.append(
            f"The label-free loss and the errors after the epochs with labels correlate by {rank:.2f} (Spearman, {len(errors)} networks)."
        )
        return trained

    def teacher(self, problem: PotentialProblem, progress: bool) -> EnergyForceTask:
        """The largest network alone, with labels."""
        options = zip(problem.space, problem.space.largest(), strict=True)
        space = problem.space.restrict(**{name: [option] for name, option in options})
        task, own = problem.new_task(space), copy.copy(self)
        own.epochs = self.teacher_epochs
        own.fit(problem, own.trainer(problem, task, SandwichSampler(space, 0, problem.seed)), progress)
        return task.requires_grad_(False)

    @staticmethod
    def _relation_losses(
        problem: PotentialProblem, trainer: DistillationTrainer, leaves: list[tuple[SearchSpace, EnergyForceTask]]
    ) -> dict[tuple[int, ...], float]:
        """Label-free losses of some networks of each part, on validation structures."""
        generator, found = torch.Generator().manual_seed(problem.seed), {}
        for space, task in leaves:
            supernet = supernet_of(task)
            batches = [problem.network_inputs(task, batch) for batch in problem.valid_batches()]
            for _ in range(RANKED):
                architecture = space.sample(generator)
                with torch.no_grad(), supernet.activate(architecture):
                    losses = [trainer.objective.samples(supernet, b, trainer.objective.target(b)) for b in batches]
                found[architecture] = float(torch.cat(losses).mean())
        return found


class _Unlabelled:
    """Epochs of the arguments of the networks."""

    def __init__(self, problem: PotentialProblem, task: EnergyForceTask) -> None:
        self.problem, self.task, self.epochs = problem, task, Epochs(problem)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.epochs:
            yield self.problem.network_inputs(self.task, batch)
