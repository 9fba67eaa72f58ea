"""From scalars and vectors at points to features on position-orientation space."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Lift(nn.Module):
    """Scalars are repeated over the orientations, a vector v becomes the function o -> v.o; then a linear embedding.

    Args:
        in_channels: number of scalars at a point.
        in_vector_channels: number of vectors at a point.
        out_channels: C.
        vector_components: k, how many components of a vector an orientation sees: 1 along a direction, 3 in a frame.

    Shape:
        x [N, in_channels], vec [N, in_vector_channels, d], axes [O, d, k] of a grid (or the grid
        [O, d] of directions), or [N, O, d, k] where every point
        has orientations of its own (see `Space.axes`) -> [N, O, C]
    """

    def __init__(
        self, in_channels: int, in_vector_channels: int, out_channels: int, vector_components: int = 1
    ) -> None:
        super().__init__()
        self.embedding = nn.Linear(in_channels + vector_components * in_vector_channels, out_channels, bias=False)

    def forward(self, x: Tensor | None, vec: Tensor | None, axes: Tensor) -> Tensor:
        axes = as_axes(axes)
        parts = []
        if x is not None:
            parts.append(x[:, None, :].expand(-1, axes.shape[-3], -1))
        if vec is not None:
            parts.append(torch.matmul(vec[:, None], axes).flatten(2))
        return self.embedding(torch.cat(parts, dim=-1))


def as_axes(axes: Tensor) -> Tensor:
    """A grid of directions [O, d] as axes [O, d, 1]; axes as they are."""
    return axes[..., None] if axes.dim() == 2 else axes
