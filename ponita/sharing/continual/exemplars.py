"""A small memory of earlier classes: the samples whose mean is nearest to that of their class, best first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SELECTORS = ("herding", "random")


def herd(features: Tensor, number: int) -> list[int]:
    """Rows whose mean is nearest to the mean of all, chosen one after the other; any first part is the choice of its size.

    Args:
        features: [G, d] invariant features of a class; they are normalised.
        number: m.

    Source: Rebuffi et al., iCaRL, arXiv:1611.07725, algorithm 4.
    """
    unit = torch.nn.functional.normalize(features.detach().double(), dim=1)
    mean, total, chosen = unit.mean(0), torch.zeros_like(unit[0]), []
    free = torch.ones(len(unit), dtype=torch.bool, device=unit.device)
    for k in range(1, min(number, len(unit)) + 1):
        distance = (mean - (total + unit) / k).norm(dim=1).masked_fill(~free, float("inf"))
        best = int(distance.argmin())
        chosen.append(best)
        free[best] = False
        total = total + unit[best]
    return chosen


class ExemplarMemory:
    """Samples of all classes so far, as rows of a data set: an equal number of each, within a budget.

    Args:
        budget: of all classes together.
        selector: "herding" or "random".
        seed: of the random choice.

    Attributes:
        rows: of each class, best first.

    Raises:
        ValueError: for another selector, or no budget.
    """

    def __init__(self, budget: int, selector: str = "herding", seed: int = 0) -> None:
        if selector not in SELECTORS or budget < 1:
            raise ValueError(f"budget={budget}, selector={selector!r}; expected at least 1 and one of {SELECTORS}.")
        self.budget, self.selector = budget, selector
        self.generator = torch.Generator().manual_seed(seed)
        self.rows: dict[int, list[int]] = {}

    def update(self, rows: Sequence[int], features: Tensor, labels: Tensor) -> None:
        """Add new classes, and shorten the lists of the old ones.

        Args:
            rows: [G] of the data set.
            features: [G, d] of these.
            labels: [G] classes.

        Raises:
            ValueError: for a class that is there already, or more classes than the budget holds.
        """
        new = sorted(set(labels.tolist()))
        again = [c for c in new if c in self.rows]
        each = self.budget // (len(self.rows) + len(new))
        if again or each < 1:
            raise ValueError(
                f"classes {new}: {again} are in the memory already, and {self.budget} samples leave {each} for each of all classes; "
                "expected new ones, and at least 1."
            )
        self.rows = {c: kept[:each] for c, kept in self.rows.items()}
        for c in new:
            members = (labels == c).nonzero()[:, 0]
            self.rows[c] = [int(rows[int(members[i])]) for i in self._chosen(features[members], each)]

    def indices(self) -> list[int]:
        """Rows of all classes."""
        return [row for c in sorted(self.rows) for row in self.rows[c]]

    def state_dict(self) -> dict[int, list[int]]:
        """Rows of each class."""
        return {c: list(kept) for c, kept in self.rows.items()}

    def load_state_dict(self, state: dict[int, list[int]]) -> None:
        """Go on with these."""
        self.rows = {int(c): list(kept) for c, kept in state.items()}

    def _chosen(self, features: Tensor, number: int) -> list[int]:
        if self.selector == "herding":
            return herd(features, number)
        return torch.randperm(len(features), generator=self.generator)[:number].tolist()
