"""Samplers that learn nothing: the controls of all other methods."""

from __future__ import annotations

from ponita.sharing.search import SandwichSampler, UniformSampler
from ponita.tasks.search.methods.base import Method, Trained
from ponita.tasks.search.problem import PotentialProblem


class Uniform(Method):
    """One random network a step (single path one-shot, arXiv:1904.00420); the control of all others."""

    def train(self, problem: PotentialProblem, progress: bool = True) -> Trained:
        task, sampler = problem.new_task(), UniformSampler(problem.space, problem.seed)
        self.fit(problem, self.trainer(problem, task, sampler), progress)
        return Trained([(problem.space, task)])


class Sandwich(Method):
    """The smallest, the largest and some random networks a step (arXiv:1903.05134).

    Args:
        n_random: how many random ones.
        epochs, lr, warmup_epochs: as for `Method`.
    """

    def __init__(self, n_random: int = 2, epochs: int = 40, lr: float = 5e-3, warmup_epochs: float = 2.0) -> None:
        super().__init__(epochs, lr, warmup_epochs)
        self.n_random = n_random

    def train(self, problem: PotentialProblem, progress: bool = True) -> Trained:
        task, sampler = problem.new_task(), SandwichSampler(problem.space, self.n_random, problem.seed)
        self.fit(problem, self.trainer(problem, task, sampler), progress)
        return Trained([(problem.space, task)])
