"""Paths and structures drawn by the size of their gradients."""

from __future__ import annotations

from torch import Tensor

from ponita.sharing.search import StepFeedback
from ponita.sharing.search.pada import DataImportance, ImportanceDataSampler, ImportanceSampler
from ponita.sharing.search.ponita_supernet import supernet_of
from ponita.tasks.search.methods.base import Method, Trained
from ponita.tasks.search.problem import PotentialProblem


class PaDa(Method):
    """Options of networks, and training structures, by gradient norms (PA&DA, arXiv:2302.14772).

    Args:
        reweight: weigh losses by the inverse of the probabilities, so that the gradient has no bias; not so as published.
        data: draw structures too.
        per_parameter: divide the norm of a path by the root of its number of weights, so that wide networks do not win by size.
        epochs, lr, warmup_epochs: as for `Method`.
    """

    def __init__(
        self,
        reweight: bool = False,
        data: bool = True,
        per_parameter: bool = True,
        epochs: int = 40,
        lr: float = 5e-3,
        warmup_epochs: float = 2.0,
    ) -> None:
        super().__init__(epochs, lr, warmup_epochs)
        self.reweight, self.data, self.per_parameter = reweight, data, per_parameter

    def train(self, problem: PotentialProblem, progress: bool = True) -> Trained:
        task = problem.new_task()
        size = supernet_of(task).num_parameters if self.per_parameter else None
        sampler = ImportanceSampler(problem.space, reweight=self.reweight, num_parameters=size, seed=problem.seed)
        number = len(problem.data.sets["train"])
        rows = ImportanceDataSampler(number, reweight=self.reweight, seed=problem.seed) if self.data else None
        callbacks = [DataImportance(rows, _force_norms)] if rows else []
        self.fit(problem, self.trainer(problem, task, sampler, callbacks), progress, rows)
        return Trained([(problem.space, task)], sampler)


def _force_norms(feedback: StepFeedback) -> Tensor:
    """[G] norm of the loss's gradient in the predicted forces of each structure, in arbitrary units."""
    batch, forces = feedback.target, feedback.output.forces.detach()
    squares = (forces - batch.forces).square().sum(1)
    return squares.new_zeros(batch.num_graphs).index_add(0, batch.batch, squares).sqrt() / batch.ptr.diff()
