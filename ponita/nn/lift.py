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

    Shape:
        x [N, in_channels], vec [N, in_vector_channels, d], grid [O, d] -> [N, O, C].
        On a space without directions the grid is [1, d] zeros and only scalars are allowed.
    """

    def __init__(self, in_channels: int, in_vector_channels: int, out_channels: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(in_channels + in_vector_channels, out_channels, bias=False)

    def forward(self, x: Tensor | None, vec: Tensor | None, grid: Tensor) -> Tensor:
        parts = []
        if x is not None:
            parts.append(x[:, None, :].expand(-1, grid.shape[0], -1))
        if vec is not None:
            parts.append(torch.einsum("nvd,od->nov", vec, grid))
        return self.embedding(torch.cat(parts, dim=-1))
