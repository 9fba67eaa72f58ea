"""Searching a trained supernet: all, at random, by evolution, or with Optuna, under a limit of the cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from ponita.sharing.search.costs import Cost
from ponita.sharing.search.space import Architecture, SearchSpace

#: Error of an architecture with the shared weights; low is good.
Evaluate = Callable[[Architecture], float]
TRIES = 100


@dataclass
class Limit:
    """The most that an architecture may cost.

    Attributes:
        cost: of an architecture.
        most: in the unit of `cost`.
        unit: for messages.
    """

    cost: Cost
    most: float
    unit: str = "ms"

    def allows(self, architecture: Architecture) -> bool:
        return float(self.cost(architecture)) <= self.most


@dataclass
class Found:
    """What a search saw.

    Attributes:
        errors: by architecture.
        best: of the least error.
    """

    errors: dict[Architecture, float] = field(default_factory=dict)

    @property
    def best(self) -> Architecture:
        return min(self.errors, key=self.errors.get)


def exhaustive_search(
    space: SearchSpace, evaluate: Evaluate, limit: Limit | None = None, progress: bool = False
) -> Found:
    """Evaluate every architecture within the limit."""
    return _evaluate(_within(list(space.enumerate()), limit, space), evaluate, progress)


def random_search(
    space: SearchSpace,
    evaluate: Evaluate,
    number: int,
    limit: Limit | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Found:
    """Evaluate different random architectures within the limit; all, where there are no more."""
    drawn: dict[Architecture, None] = {}
    for _ in range(TRIES * number):
        candidate = space.sample(generator)
        if candidate not in drawn and (limit is None or limit.allows(candidate)):
            drawn[candidate] = None
        if len(drawn) == min(number, space.cardinality):
            break
    return _evaluate(_within(list(drawn), limit, space), evaluate, progress)


def evolutionary_search(
    space: SearchSpace,
    evaluate: Evaluate,
    number: int,
    limit: Limit | None = None,
    generator: torch.Generator | None = None,
    population: int = 20,
    parents: int = 5,
    mutation: float = 0.2,
    progress: bool = False,
) -> Found:
    """Children and mutants of the best, until `number` architectures were evaluated (Guo et al., arXiv:1904.00420)."""
    found = random_search(space, evaluate, min(population, number), limit, generator, progress)
    for _ in range(TRIES * number):
        if len(found.errors) >= min(number, space.cardinality):
            break
        best = sorted(found.errors, key=found.errors.get)[:parents]
        a, b = (best[int(torch.randint(len(best), (), generator=generator))] for _ in range(2))
        child = space.mutate(space.crossover(a, b, generator), mutation, generator)
        if child not in found.errors and (limit is None or limit.allows(child)):
            found.errors[child] = evaluate(child)
    return found


def optuna_search(
    space: SearchSpace,
    evaluate: Evaluate,
    number: int,
    limit: Limit | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Found:
    """Let Optuna's tree-structured Parzen estimator propose; what is over the limit is told to be so, not evaluated.

    Raises:
        ImportError: where Optuna is not installed.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = Found()

    def objective(trial: optuna.Trial) -> float:
        architecture = space.suggest(trial)
        if limit is not None and not limit.allows(architecture):
            raise optuna.TrialPruned
        if architecture not in found.errors:
            found.errors[architecture] = evaluate(architecture)
        return found.errors[architecture]

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=number, show_progress_bar=progress)
    if not found.errors:
        _within([], limit, space)
    return found


def front(errors: dict[Architecture, float], cost: Cost) -> list[Architecture]:
    """Architectures that no other beats in error and cost, from the cheapest to the best."""
    kept: list[Architecture] = []
    for architecture in sorted(errors, key=lambda a: (float(cost(a)), errors[a])):
        if not kept or errors[architecture] < errors[kept[-1]]:
            kept.append(architecture)
    return kept


def _within(candidates: list[Architecture], limit: Limit | None, space: SearchSpace) -> list[Architecture]:
    kept = [a for a in candidates if limit is None or limit.allows(a)]
    if not kept:
        least = float(limit.cost(space.smallest()))
        raise ValueError(
            f"no architecture that was tried costs at most {limit.most:g} {limit.unit}; the smallest one takes {least:.3g}. Raise the limit, "
            "or give the space smaller options."
        )
    return kept


def _evaluate(candidates: Iterable[Architecture], evaluate: Evaluate, progress: bool) -> Found:
    shown = tqdm(candidates, desc="search", unit="network", disable=not progress)
    return Found({architecture: evaluate(architecture) for architecture in shown})
