"""Costs that need training are drawn more often, and a generator answers with a network of a cost."""

from __future__ import annotations

import torch

from ponita.sharing.search import Limit
from ponita.sharing.search.complexity import ArchitectureGenerator, ComplexityBins
from ponita.sharing.search.searchers import Found
from ponita.sharing.search.shift import ComplexityShiftSampler, ShiftUpdate
from ponita.tasks.search.methods.base import Epochs, Method, Search, Trained
from ponita.tasks.search.problem import PotentialProblem

#: Costs that the generator is asked for, evenly in their logarithm.
REQUESTS = 200


class Shift(Method):
    """Bins of the cost by how much training they need, and a generator of networks (ShiftNAS, arXiv:2307.08300).

    Costs are multiply-adds. Candidates are the generator's answers for costs over the whole range, then its draws for every bin.

    Args:
        bins: of the cost.
        update_every: steps between shifts of the probability.
        generator_lr: of the generator.
        epochs, lr, warmup_epochs: as for `Method`.
    """

    def __init__(
        self,
        bins: int = 5,
        update_every: int = 100,
        generator_lr: float = 3e-3,
        epochs: int = 40,
        lr: float = 5e-3,
        warmup_epochs: float = 2.0,
    ) -> None:
        super().__init__(epochs, lr, warmup_epochs)
        self.bins, self.update_every, self.generator_lr = bins, update_every, generator_lr

    def train(self, problem: PotentialProblem, progress: bool = True) -> Trained:
        task = problem.new_task()
        bins = ComplexityBins(problem.space, problem.flops, self.bins)
        torch.manual_seed(problem.seed)
        sampler = ComplexityShiftSampler(
            bins,
            ArchitectureGenerator(problem.space),
            self.update_every,
            warmup=self.steps_per_epoch(problem),
            lr=self.generator_lr,
            seed=problem.seed,
        )
        update = ShiftUpdate(sampler, Epochs(problem), problem.valid_batches())
        self.fit(problem, self.trainer(problem, task, sampler, [update]), progress)
        shares = ", ".join(f"{share:.2f}" for share in sampler.probabilities.tolist())
        return Trained([(problem.space, task)], sampler, [f"Probabilities of the costs, cheapest first: {shares}."])

    def search(
        self, problem: PotentialProblem, trained: Trained, search: Search, limit: Limit | None, progress: bool = True
    ) -> Found:
        sampler: ComplexityShiftSampler = trained.sampler
        low, high = sampler.bins.edges[0], sampler.bins.edges[-1]
        asked = torch.linspace(0, 1, REQUESTS, dtype=torch.float64).tolist()
        answers = (sampler.query(min(high, max(low, low * (high / low) ** share))) for share in asked)
        further = (a for k in range(len(sampler.bins)) for a in sampler.members(k, search.candidates))
        return self.among((*answers, *further), problem, trained, search, limit, progress)
