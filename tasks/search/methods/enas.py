"""A controller that learns which networks to train and to keep."""

from __future__ import annotations

import itertools
import math
from functools import partial

import torch

from ponita.sharing.search import Architecture, Limit
from ponita.sharing.search.controller import Controller
from ponita.sharing.search.enas import ControllerSampler, ReinforceTrainer
from ponita.sharing.search.hidden_states import hidden_state_correlation
from ponita.sharing.search.memory import ArchitectureMemory, MemoryRegularizer
from ponita.sharing.search.ponita_supernet import supernet_of
from ponita.sharing.search.searchers import Found
from ponita.tasks.potential import EnergyForceTask
from ponita.tasks.search.methods.base import Method, Search, Trained
from ponita.tasks.search.pictures import draw_hidden_states
from ponita.tasks.search.problem import PotentialProblem


class Enas(Method):
    """Weights and a controller in turn (ENAS, arXiv:1802.03268), with a memory of earlier networks (arXiv:1904.00438).

    The reward of a network is exp(-loss) of a validation batch. Candidates are draws from the trained policy.

    Args:
        controller_steps: of the policy, after each epoch of the weights.
        controller_lr: of the policy.
        samples: networks in a step of the policy.
        entropy_weight: in the reward.
        memory: "recon", "prev" or "next" decisions from the state, or "none".
        epochs, lr, warmup_epochs: as for `Method`.
    """

    def __init__(
        self,
        controller_steps: int = 20,
        controller_lr: float = 3.5e-3,
        samples: int = 2,
        entropy_weight: float = 1e-3,
        memory: str = "recon",
        epochs: int = 40,
        lr: float = 5e-3,
        warmup_epochs: float = 2.0,
    ) -> None:
        super().__init__(epochs, lr, warmup_epochs)
        self.controller_steps, self.controller_lr, self.samples = controller_steps, controller_lr, samples
        self.entropy_weight, self.memory = entropy_weight, memory

    def train(self, problem: PotentialProblem, progress: bool = True) -> Trained:
        task = problem.new_task()
        torch.manual_seed(problem.seed)
        controller = Controller(problem.space)
        batches = itertools.cycle(problem.valid_batches())
        reinforce = ReinforceTrainer(
            controller,
            partial(self._reward, problem, task, batches),
            entropy_weight=self.entropy_weight,
            lr=self.controller_lr,
            samples=self.samples,
            steps=self.controller_steps,
            regularizer=self._regularizer(controller),
            seed=problem.seed,
        )
        sampler = ControllerSampler(controller, problem.seed)
        self.fit(problem, self.trainer(problem, task, sampler, [reinforce]), progress)
        trained = Trained([(problem.space, task)], sampler)
        self._analyse(trained, controller, problem)
        return trained

    def search(
        self, problem: PotentialProblem, trained: Trained, search: Search, limit: Limit | None, progress: bool = True
    ) -> Found:
        generator = torch.Generator().manual_seed(search.seed)
        controller = trained.sampler.controller
        drawn = (a for _ in range(10) for a in controller.sample(search.candidates, generator).architectures)
        return self.among(drawn, problem, trained, search, limit, progress)

    def _regularizer(self, controller: Controller) -> MemoryRegularizer | None:
        if self.memory == "none":
            return None
        memory = ArchitectureMemory(n_store=200, n_replace=50)
        start = max(1, self.epochs // 8)
        return MemoryRegularizer(controller, memory, self.memory, store_from=start, train_from=2 * start)

    @staticmethod
    @torch.no_grad()
    def _reward(problem: PotentialProblem, task: EnergyForceTask, batches: itertools.cycle, a: Architecture) -> float:
        with supernet_of(task).activate(a):
            return math.exp(-float(problem.losses(task, next(batches)).mean))

    @staticmethod
    def _analyse(trained: Trained, controller: Controller, problem: PotentialProblem) -> None:
        """Whether the state of the controller knows what it decided, on draws that do not repeat each other."""
        generator = torch.Generator().manual_seed(problem.seed)
        drawn = [problem.space.sample(generator) for _ in range(100)]
        found = hidden_state_correlation(controller, architectures=drawn)
        rank = found.correlations["l2", "distance"].spearman
        trained.notes.append(
            f"Distances of the controller's states and of the networks correlate by {rank:.2f} (Spearman)."
        )
        trained.pictures["hidden_states.png"] = partial(draw_hidden_states, analyses={"controller": found})
