"""Atoms as numbers that noise can be added to, and back (Hoogeboom et al. 2022, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ponita.data.elements import SYMBOLS, atomic_number


@dataclass(frozen=True)
class AtomCode:
    """One-hot elements / 4 and, where asked for, formal charges / 8.

    Features are made small beside positions, so that noise hides them longer: positions are settled first.

    Attributes:
        elements: symbols, in the order of the columns.
        charges: whether there is a column of formal charges.
        type_scale: what the one-hot columns are divided by.
        charge_scale: what charges are divided by.

    Raises:
        ValueError: for an element that does not exist or is named twice, none at all, or a scale that is not positive.
    """

    elements: tuple[str, ...] = ("H", "C", "N", "O", "F")
    charges: bool = False
    type_scale: float = 4.0
    charge_scale: float = 8.0

    def __post_init__(self) -> None:
        numbers = [atomic_number(name) for name in self.elements]
        if not numbers or len(set(numbers)) < len(numbers):
            raise ValueError(f"elements={list(self.elements)}; expected different elements, at least one.")
        if not (self.type_scale > 0 and self.charge_scale > 0):
            raise ValueError(
                f"type_scale={self.type_scale}, charge_scale={self.charge_scale}; expected positive numbers."
            )

    @property
    def width(self) -> int:
        """K, number of columns."""
        return len(self.elements) + self.charges

    @property
    def numbers(self) -> np.ndarray:
        """[K] atomic numbers of the one-hot columns."""
        return np.array([atomic_number(name) for name in self.elements])

    def encode(self, numbers: np.ndarray, charges: np.ndarray | None = None) -> Tensor:
        """Atoms as numbers.

        Args:
            numbers: [N] atomic numbers.
            charges: [N] formal charges; needed where there is a column of them.

        Shape:
            [N, K], float32

        Raises:
            ValueError: for an element without a column, or charges that are missing.
        """
        hot = numbers[:, None] == self.numbers
        unknown = sorted({SYMBOLS[int(z)] for z in numbers[~hot.any(1)]})
        if unknown:
            raise ValueError(f"{', '.join(unknown)} among the atoms; this generator knows {', '.join(self.elements)}.")
        columns = [torch.from_numpy(hot).float() / self.type_scale]
        if self.charges:
            if charges is None:
                raise ValueError("the formal charges of the atoms are unknown; set charges=False, or read them too.")
            columns.append(torch.from_numpy(np.asarray(charges)).float()[:, None] / self.charge_scale)
        return torch.cat(columns, dim=1)

    def decode(self, features: Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        """The nearest atoms.

        Args:
            features: [N, K].

        Returns:
            Atomic numbers [N], and formal charges [N], or None where there is no column of them.
        """
        features = features.detach().cpu()
        types = features[:, : len(self.elements)].argmax(1)
        charges = (features[:, -1] * self.charge_scale).round().long().numpy() if self.charges else None
        return self.numbers[types.numpy()], charges
