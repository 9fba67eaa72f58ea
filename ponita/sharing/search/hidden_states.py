"""Does a controller's state know what it decided? Distances of states against distances of architectures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ponita.sharing.search.controller import Controller
from ponita.sharing.search.space import Architecture

#: Dissimilarity of two architectures.
Distance = Callable[[Architecture, Architecture], float]


@dataclass
class Correlation:
    """Of two quantities over all pairs; nan where one of them is the same for all.

    Attributes:
        spearman: correlation of the ranks.
        pearson: linear correlation.
    """

    spearman: float
    pearson: float


@dataclass
class HiddenStateAnalysis:
    """All P = n (n - 1) / 2 pairs of n architectures, equal ones included.

    Attributes:
        architectures: n of them.
        hidden: [n, H] states after the last decision was read.
        l2: [P] Euclidean distance of the states.
        cosine: [P] one minus the cosine of their angle.
        distance: [P] of the architectures.
        score_difference: [P] absolute difference of the scores, if there are scores.
    """

    architectures: list[Architecture]
    hidden: Tensor
    l2: Tensor
    cosine: Tensor
    distance: Tensor
    score_difference: Tensor | None = None

    @property
    def num_different(self) -> int:
        """How many architectures are different; few show a policy that is nearly certain."""
        return len(set(self.architectures))

    @property
    def correlations(self) -> dict[tuple[str, str], Correlation]:
        """By the names of the pair: ("l2" or "cosine", "distance" or "score_difference")."""
        targets = {"distance": self.distance, "score_difference": self.score_difference}
        return {
            (name, target): Correlation(spearman(states, values), pearson(states, values))
            for target, values in targets.items()
            if values is not None
            for name, states in (("l2", self.l2), ("cosine", self.cosine))
        }


@torch.no_grad()
def hidden_state_correlation(
    controller: Controller,
    n: int = 100,
    distance: Distance | None = None,
    generator: torch.Generator | None = None,
    score: Callable[[Architecture], float] | None = None,
    architectures: Sequence[Architecture] | None = None,
) -> HiddenStateAnalysis:
    """Compare the states of a controller after the architectures that it draws, or after given ones.

    Args:
        controller: the policy.
        n: draws; the published study has 100.
        distance: of architectures; `space.distance` where None, in how many choices they differ.
        generator: of the draws.
        score: of an architecture, such as its error with the shared weights; called once for each that is different.
        architectures: to read in place of n draws. Draws of a policy that is nearly certain repeat each other, which is a
            correlation by itself; architectures drawn uniformly do not.

    Raises:
        ValueError: for fewer than three architectures, whose pairs correlate with anything, or one that is not in the space.

    Source: Adam and Lorraine, arXiv:1904.00438.
    """
    n = n if architectures is None else len(architectures)
    if n < 3:
        raise ValueError(f"{n} architectures; expected at least 3, whose pairs can correlate.")
    sample = controller.sample(n, generator) if architectures is None else controller.score(architectures)
    names, hidden = sample.architectures, sample.hidden.double().cpu()
    first, second = torch.triu_indices(n, n, offset=1)
    between = distance or controller.space.distance
    apart = [float(between(names[i], names[j])) for i, j in zip(first.tolist(), second.tolist(), strict=True)]
    return HiddenStateAnalysis(
        names,
        hidden,
        l2=(hidden[first] - hidden[second]).norm(dim=1),
        cosine=1 - torch.cosine_similarity(hidden[first], hidden[second], dim=1),
        distance=torch.tensor(apart, dtype=torch.float64),
        score_difference=None if score is None else _differences(names, score, first, second),
    )


def _differences(
    names: Sequence[Architecture], score: Callable[[Architecture], float], first: Tensor, second: Tensor
) -> Tensor:
    known = {name: float(score(name)) for name in dict.fromkeys(names)}
    scores = torch.tensor([known[name] for name in names], dtype=torch.float64)
    return (scores[first] - scores[second]).abs()


def pearson(a: Tensor, b: Tensor) -> float:
    """Linear correlation of two series [P]; nan where one is constant."""
    if bool((a == a[0]).all()) or bool((b == b[0]).all()):
        return float("nan")
    x, y = (values.double() - values.double().mean() for values in (a, b))
    return float(x @ y / (x.norm() * y.norm()))


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of two series [P], ties sharing the mean of their ranks; nan where one is constant."""
    return pearson(_ranks(a), _ranks(b))


def _ranks(values: Tensor) -> Tensor:
    _, group, sizes = values.unique(return_inverse=True, return_counts=True)
    last = sizes.cumsum(0).double()
    return (last - (sizes - 1) / 2)[group]
