"""Which earlier task a new one should start from: nearest neighbours in the features of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ponita.sharing.continual.bank import SupermaskBank

#: From inputs to the features [G, d] in front of the last layer, on the task that is set.
Features = Callable[[Tensor], Tensor]


@dataclass
class Choice:
    """What was found.

    Attributes:
        task: to start from; none where no earlier task is good enough.
        scores: of each earlier task: accuracy, or the coefficient of determination.
    """

    task: int | None
    scores: list[float] = field(default_factory=list)


@dataclass
class KnnTransfer:
    """Copies the scores of the mask whose features tell the new task's labels best, if they do better than chance (KKT).

    Args:
        k: neighbours. The published code has 200, for large data sets.
        reference_fraction: of the sample, to look neighbours up in; the rest is predicted.
        margin: above chance (1 / classes, or 0 for numbers). 0 as published, which accepts nearly every donor; donors of
            unrelated tasks then claim weights and teach nothing. 0.35 was better on repeated classes.

    Source: Yadav and Bansal, arXiv:2210.10209, section 3.3.
    """

    k: int = 10
    reference_fraction: float = 2 / 3
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.k < 1 or not 0 < self.reference_fraction < 1:
            raise ValueError(
                f"k={self.k}, reference_fraction={self.reference_fraction}; expected at least 1 and a share between 0 and 1."
            )

    @torch.no_grad()
    def choose(self, bank: SupermaskBank, features: Features, x: Tensor, y: Tensor, num_classes: int | None) -> Choice:
        """The task to start from, of those that were learned; the task at hand is left as it was.

        Args:
            bank: of the masks.
            features: of inputs.
            x: [G, ...] a sample of the new task, the same for every earlier one.
            y: [G] its labels: classes, or numbers.
            num_classes: none for numbers.

        Raises:
            ValueError: for fewer references than neighbours.
        """
        border = int(self.reference_fraction * len(y))
        if border < self.k or border >= len(y):
            raise ValueError(
                f"{len(y)} samples leave {border} references for k={self.k} neighbours; give more, or lower k."
            )
        before = bank.task
        scores = []
        for task in range(bank.num_tasks):
            bank.set_task(task)
            found = features(x).flatten(1)
            near = torch.cdist(found[border:], found[:border]).topk(self.k, largest=False).indices
            scores.append(self._score(y[:border][near], y[border:], num_classes))
        if before is not None and before < bank.num_tasks:
            bank.set_task(before)
        chance = 0.0 if num_classes is None else 1 / num_classes
        best = max(range(len(scores)), key=scores.__getitem__, default=None)
        accepted = best is not None and scores[best] > chance + self.margin
        return Choice(best if accepted else None, scores)

    @staticmethod
    def _score(neighbours: Tensor, y: Tensor, num_classes: int | None) -> float:
        if num_classes is not None:
            votes = torch.nn.functional.one_hot(neighbours, num_classes).sum(1)
            return float((votes.argmax(1) == y).double().mean())
        left = (neighbours.double().mean(1) - y.double()).square().mean()
        return float(1 - left / y.double().var(correction=0).clamp(min=1e-12))


def start_from(bank: SupermaskBank, task: int) -> None:
    """Give the new task the mask of an earlier one as its scores, after `begin_task`: kept entries first, in a random order.

    Only the bits of earlier masks are stored. Entries of the donor's mask get the larger half of the sizes of the fresh
    scores, and so the same mask, from which training may depart.
    """
    with torch.no_grad():
        for mask in bank.masks.values():
            donor = mask.of_task(task)
            sizes = mask.scores.abs().flatten().sort(descending=True).values
            placed = torch.empty_like(sizes)
            flat = donor.flatten()
            order = torch.randperm(len(sizes), generator=torch.Generator().manual_seed(task)).to(sizes.device)
            placed[flat[order].argsort(descending=True, stable=True)] = sizes
            restored = torch.empty_like(sizes)
            restored[order] = placed
            signs = torch.where(mask.scores < 0, -1.0, 1.0)
            mask.scores.copy_(restored.view_as(mask.scores) * signs)
