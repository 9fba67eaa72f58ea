"""What methods of search have in common: how they train, what they leave, how candidates are found."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch_geometric.data import Batch

from ponita.models import Potential
from ponita.sharing.search import (
    Architecture,
    Callback,
    Limit,
    PathSampler,
    SearchSpace,
    SupernetTrainer,
    evolutionary_search,
    exhaustive_search,
    extract_potential,
    optuna_search,
    random_search,
)
from ponita.sharing.search.searchers import Evaluate, Found
from ponita.tasks.potential import EnergyForceTask
from ponita.tasks.search.problem import PotentialProblem, Rows
from ponita.training import warmup_cosine

SEARCHERS = ("evolution", "random", "exhaustive", "optuna")


@dataclass
class Trained:
    """Supernets with their weights.

    Attributes:
        leaves: parts of the space, each with the task that holds its supernet; most methods have one.
        sampler: of the paths, where it has learned something.
        notes: lines to report.
        pictures: by the name of the file, what draws it.
    """

    leaves: list[tuple[SearchSpace, EnergyForceTask]]
    sampler: PathSampler | None = None
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, Callable[[Path], None]] = field(default_factory=dict)

    def leaf_of(self, architecture: Architecture) -> EnergyForceTask:
        """The task whose supernet holds an architecture."""
        return next(task for space, task in self.leaves if architecture in space)

    def extract(self, architecture: Architecture) -> Potential:
        """A potential of its own, with the weights that were trained."""
        return extract_potential(self.leaf_of(architecture).model, architecture)


@dataclass
class Search:
    """How candidates are found once the weights are trained.

    Args:
        searcher: "evolution", "random", "exhaustive", or "optuna" (extra `search`).
        candidates: networks to evaluate.
        seed: of what is random.
    """

    searcher: str = "evolution"
    candidates: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.searcher not in SEARCHERS or self.candidates < 1:
            raise ValueError(
                f"searcher={self.searcher!r}, candidates={self.candidates}; expected one of {list(SEARCHERS)} and at least 1."
            )

    def run(self, space: SearchSpace, evaluate: Evaluate, limit: Limit | None, progress: bool = False) -> Found:
        """Candidates within a limit, with their errors."""
        random = torch.Generator().manual_seed(self.seed)
        if self.searcher == "exhaustive":
            return exhaustive_search(space, evaluate, limit, progress)
        if self.searcher == "optuna":
            return optuna_search(space, evaluate, self.candidates, limit, self.seed, progress)
        search = random_search if self.searcher == "random" else evolutionary_search
        return search(space, evaluate, self.candidates, limit, random, progress=progress)


class Method:
    """Base of the methods.

    Args:
        epochs: of the training set.
        lr: learning rate of the weights.
        warmup_epochs: over which it rises, before it falls as a cosine.
    """

    def __init__(self, epochs: int = 40, lr: float = 5e-3, warmup_epochs: float = 2.0) -> None:
        if epochs < 1 or not lr > 0:
            raise ValueError(f"epochs={epochs}, lr={lr}; expected at least 1 and a positive number.")
        self.epochs, self.lr, self.warmup_epochs = epochs, lr, warmup_epochs

    @abstractmethod
    def train(self, problem: PotentialProblem, progress: bool = True) -> Trained:
        """Train the weights, and whatever chooses paths."""

    def search(
        self, problem: PotentialProblem, trained: Trained, search: Search, limit: Limit | None, progress: bool = True
    ) -> Found:
        """Candidates with the errors that the shared weights give them."""
        return search.run(problem.space, self.error(problem, trained), limit, progress)

    @staticmethod
    def error(problem: PotentialProblem, trained: Trained) -> Evaluate:
        """Force error of an architecture with the weights that it shares, meV/Å."""
        return lambda architecture: problem.error(trained.leaf_of(architecture), architecture)

    def among(
        self,
        drawn: Iterable[Architecture],
        problem: PotentialProblem,
        trained: Trained,
        search: Search,
        limit: Limit | None,
        progress: bool,
    ) -> Found:
        """The first different ones of what a method proposes; where none is within the limit, what a search finds below it."""
        # Latencies are measured, so no more are asked for than candidates are wanted.
        allowed = (a for a in dict.fromkeys(drawn) if limit is None or limit.allows(a))
        kept = list(itertools.islice(allowed, search.candidates))
        if not kept:
            return Method.search(self, problem, trained, search, limit, progress)
        error = self.error(problem, trained)
        return Found({architecture: error(architecture) for architecture in kept})

    def trainer(
        self, problem: PotentialProblem, task: EnergyForceTask, sampler: PathSampler, callbacks: Sequence[Callback] = ()
    ) -> SupernetTrainer:
        """The usual trainer of a supernet's weights."""
        optimizer = torch.optim.Adam(task.parameters(), lr=self.lr)
        steps = max(1, self.steps_per_epoch(problem))
        schedule = warmup_cosine(optimizer, self.warmup_epochs * steps, self.epochs * steps)
        return SupernetTrainer(task, problem.losses, optimizer, sampler, callbacks, grad_clip=1.0, scheduler=schedule)

    def steps_per_epoch(self, problem: PotentialProblem) -> int:
        """Batches of the training set."""
        return -(-len(problem.data.sets["train"]) // problem.data.batch_size)

    def fit(
        self, problem: PotentialProblem, trainer: SupernetTrainer, progress: bool, rows: Rows | None = None
    ) -> None:
        """All epochs, each in an order of its own.

        Args:
            problem: that is solved.
            trainer: of the weights.
            progress: show a progress bar.
            rows: of the training set to take, or a sampler of them.
        """
        trainer.progress = progress
        trainer.fit(Epochs(problem, rows), self.epochs)


class Epochs:
    """An iterable that is another epoch each time.

    Args:
        problem: whose training set it is.
        rows: of it, or a sampler of them; all where None.
    """

    def __init__(self, problem: PotentialProblem, rows: Rows | None = None) -> None:
        self.problem, self.rows, self.done = problem, rows, 0

    def __iter__(self) -> Iterator[Batch]:
        self.done += 1
        return self.problem.epoch(self.done - 1, self.rows)
