"""From atomic numbers to the input channels of a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ponita.geometry.checks import can_look

MAX_ATOMIC_NUMBER = 118


class ElementIndex(nn.Module):
    """The place of each atom's element among those that a model knows.

    Args:
        elements: distinct atomic numbers from 1 to 118.
        model: what knows them, for messages.

    Raises:
        ValueError: for others.
    """

    def __init__(self, elements: Sequence[int], model: str = "model") -> None:
        super().__init__()
        self.model = model
        self.elements = tuple(int(z) for z in elements)
        if len(set(self.elements)) != len(self.elements) or not all(0 < z <= MAX_ATOMIC_NUMBER for z in self.elements):
            raise ValueError(
                f"elements={list(elements)}; expected distinct atomic numbers from 1 to {MAX_ATOMIC_NUMBER}."
            )
        index = torch.full((MAX_ATOMIC_NUMBER + 1,), -1)
        index[list(self.elements)] = torch.arange(len(self.elements))
        self.register_buffer("index", index, persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        """[N] int64 atomic numbers -> [N] places.

        Raises:
            ValueError: for another shape or dtype, and on the CPU also for an element that is not known.
        """
        if numbers.dim() != 1 or numbers.dtype != torch.int64:
            raise ValueError(
                f"numbers has shape {list(numbers.shape)} and dtype {numbers.dtype}; expected [N] torch.int64."
            )
        place = self._place(numbers)
        # On a GPU the check would wait for it; an unknown element then fails in the device's own index check.
        if can_look(numbers):
            self._check(numbers, place)
        return place

    def check(self, numbers: Tensor) -> None:
        """Raise ValueError for atomic numbers [N] that are not among the elements, wherever the numbers are."""
        self._check(numbers, self._place(numbers))

    def _place(self, numbers: Tensor) -> Tensor:
        known = (numbers >= 0) & (numbers <= MAX_ATOMIC_NUMBER)
        return self.index[torch.where(known, numbers, 0)]

    def _check(self, numbers: Tensor, place: Tensor) -> None:
        if bool((place < 0).any()):
            unknown = numbers[place < 0].unique().tolist()
            raise ValueError(
                f"atomic numbers {unknown} are unknown to this {self.model}, which was made for {list(self.elements)}; "
                "train one whose `elements` include them."
            )
