"""How many atoms a molecule has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class SizeHistogram:
    """The numbers of atoms of the training set, to draw from.

    Attributes:
        counts: number of molecules of each size.

    Raises:
        ValueError: if it is empty.
    """

    counts: Mapping[int, int]

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 1 or min(self.counts.values()) < 1:
            raise ValueError(f"sizes of molecules {dict(self.counts)}; expected at least one, of at least one atom.")

    @classmethod
    def of(cls, sizes: Sequence[int] | np.ndarray) -> SizeHistogram:
        """Count sizes.

        Args:
            sizes: [M] atoms of each molecule.
        """
        values, counts = np.unique(np.asarray(sizes), return_counts=True)
        return cls({int(n): int(c) for n, c in zip(values, counts, strict=True)})

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Sizes as often as they are in the training set.

        Args:
            count: how many.
            generator: source of randomness, on the CPU.

        Shape:
            [count], int64
        """
        sizes = torch.tensor(list(self.counts))
        weights = torch.tensor(list(self.counts.values()), dtype=torch.float64)
        return sizes[torch.multinomial(weights, count, replacement=True, generator=generator)]
