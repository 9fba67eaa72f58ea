"""How well scores from a supernet rank networks: Kendall's tau, regret, and what chance and size alone would reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ponita.sharing.search.space import Architecture


def kendall_tau(a: Sequence[float] | Tensor, b: Sequence[float] | Tensor) -> float:
    """Kendall's tau-b: (concordant - discordant) pairs over the geometric mean of the pairs that are not tied.

    Raises:
        ValueError: for sequences of different lengths, shorter than two, or constant ones.
    """
    first, second = (torch.as_tensor(values, dtype=torch.float64) for values in (a, b))
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"{len(first)} and {len(second)} scores; expected as many of both, at least two.")
    x, y = ((v[:, None] - v[None]).sign().triu(1) for v in (first, second))
    untied = (x.abs().sum() * y.abs().sum()).sqrt()
    if untied == 0:
        raise ValueError("all scores of one kind are equal, so they rank nothing.")
    return float((x * y).sum() / untied)


def regret(selected: Architecture, truth: Mapping[Architecture, float]) -> float:
    """By how much the truth (a loss) of what was selected lies above the best."""
    return truth[selected] - min(truth.values())


@dataclass
class RankReport:
    """How scores (losses; low is good) rank architectures of known truth.

    Attributes:
        tau: Kendall's, of scores and truth.
        tau_cost: of costs and truth; size alone may rank as well.
        regret: of the best score.
        random_regret: mean of all architectures, that of a random one.
    """

    tau: float
    tau_cost: float
    regret: float
    random_regret: float


def rank_report(
    scores: Mapping[Architecture, float], truth: Mapping[Architecture, float], cost: Mapping[Architecture, float]
) -> RankReport:
    """Compare scores with the truth of the same architectures, never without the baseline of their costs."""
    names = list(scores)
    ranked = [truth[a] for a in names]
    best = min(names, key=scores.get)
    return RankReport(
        kendall_tau([scores[a] for a in names], ranked),
        kendall_tau([cost[a] for a in names], ranked),
        regret(best, {a: truth[a] for a in names}),
        sum(ranked) / len(ranked) - min(ranked),
    )
