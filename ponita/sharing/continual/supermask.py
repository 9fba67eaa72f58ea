"""Masks over a weight, one for each task, as a parametrisation of linear layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class TopKMask(torch.autograd.Function):
    """1 for the `keep` entries of largest |score|, else 0; the gradient of a score is that of the mask times its sign.

    Straight-through: the gradient reaches entries that are not selected too, so that they can be (Wortsman et al.,
    arXiv:2006.14769, supermasks in superposition).
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, keep: int) -> Tensor:
        ctx.save_for_backward(scores)
        return largest(scores, keep)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (scores,) = ctx.saved_tensors
        return gradient * scores.sign(), None


def largest(scores: Tensor, keep: int) -> Tensor:
    """A mask of the entries of largest size."""
    mask = torch.zeros_like(scores).flatten()
    mask[scores.detach().abs().flatten().topk(keep).indices] = 1
    return mask.view_as(scores)


def num_kept(number: int, density: float) -> int:
    """How many of n weights a mask of a density keeps: n - floor((1 - density) n)."""
    # The product may lie a rounding error below a whole number.
    return number - math.floor((1 - density) * number + 1e-9)


class Supermask(nn.Module):
    """The parametrisation of one weight: w times the mask of the task at hand.

    Args:
        weight: that is masked.
        density: share of it that a mask keeps.

    Attributes:
        scores: of the task that is being learned.
        packed: [T, ceil(n / 8)] bits of the masks of all tasks whose scores are finished.
    """

    def __init__(self, weight: Tensor, density: float) -> None:
        super().__init__()
        self.keep = num_kept(weight.numel(), density)
        self.shape = weight.shape
        self.scores = nn.Parameter(torch.zeros_like(weight))
        self.register_buffer("packed", torch.zeros(0, -(-weight.numel() // 8), dtype=torch.uint8, device=weight.device))
        self.register_buffer("mask", torch.ones_like(weight), persistent=False)
        self.register_buffer("edit", torch.ones_like(weight, dtype=torch.bool), persistent=False)
        self.phase = "eval"

    def forward(self, weight: Tensor) -> Tensor:
        if self.phase == "score":
            return weight.detach() * TopKMask.apply(self.scores, self.keep)
        if self.phase == "weight":
            # Exactly no gradient outside of what may be edited, not a small one.
            return torch.where(self.edit, weight, weight.detach()) * self.mask
        return weight * self.mask

    def begin(self, generator: torch.Generator | None) -> None:
        """New scores, uniform up to 1 / sqrt(fan-in)."""
        bound = 1 / math.sqrt(self.shape[-1])
        with torch.no_grad():
            drawn = torch.rand(self.shape, generator=generator, dtype=self.scores.dtype)
            self.scores.copy_((2 * drawn - 1) * bound)

    def finish(self) -> None:
        """Keep the mask of the scores as that of a new task."""
        self.mask = largest(self.scores, self.keep)
        self.packed = torch.cat([self.packed, pack(self.mask)[None]])

    def of_task(self, task: int) -> Tensor:
        """The mask of a task, [weight shape] bool."""
        return unpack(self.packed[task], self.shape)

    def claimed(self, before: int) -> Tensor:
        """Weights that the mask of any task before this one selects."""
        total = torch.zeros(self.shape, dtype=torch.bool, device=self.mask.device)
        for task in range(before):
            total |= self.of_task(task)
        return total

    def make_room(self, number: int) -> None:
        """Hold the masks of so many tasks, which a state dict is going to give."""
        self.packed = self.packed.new_zeros(number, self.packed.shape[1])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """The number of tasks is that of the state."""
        stored = state_dict.get(prefix + "packed")
        if stored is not None:
            self.make_room(len(stored))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def pack(mask: Tensor) -> Tensor:
    """Bits of a mask, eight to a byte."""
    bits = mask.flatten().bool()
    bits = nn.functional.pad(bits, (0, -len(bits) % 8)).view(-1, 8)
    return (bits.to(torch.uint8) << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(1).to(torch.uint8)


def unpack(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """The mask of bits."""
    bits = (packed[:, None] >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    return bits.flatten()[: math.prod(shape)].view(*shape).bool()
