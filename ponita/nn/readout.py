"""From features on position-orientation space back to scalars and vectors, at points or of whole graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ponita.nn.lift import as_axes
from ponita.ops import segment_sum


class Readout(nn.Module):
    """A linear layer, then the mean over orientations for scalars and (1/O) sum_o y_o o for vectors.

    Args:
        channels: C.
        out_channels: number of scalars.
        out_vector_channels: number of vectors.
        vector_components: k, how many components of a vector an orientation gives: 1 along a direction, 3 in a frame.

    Shape:
        x [N, O, C], axes [O, d, k] (or a grid [O, d]) or [N, O, d, k] -> [N, out_channels], [N, out_vector_channels, d]
    """

    def __init__(self, channels: int, out_channels: int, out_vector_channels: int, vector_components: int = 1) -> None:
        super().__init__()
        self.num_vectors = out_vector_channels
        self.sizes = [out_channels, vector_components * out_vector_channels]
        self.linear = nn.Linear(channels, sum(self.sizes))

    def forward(self, x: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
        scalars, components = self.linear(x).split(self.sizes, dim=-1)
        axes = as_axes(axes)
        components = components.reshape(*components.shape[:2], self.num_vectors, axes.shape[-1])
        per_point = "n" if axes.dim() == 4 else ""
        vectors = torch.einsum(f"novk,{per_point}odk->nvd", components, axes)
        return scalars.mean(1), vectors / axes.shape[-3]


def pool(values: Tensor, batch: Tensor, num_graphs: int, mode: str) -> Tensor:
    """Sum or mean over the points of each graph; a graph without points gets zeros.

    Args:
        values: [N, ...].
        batch: [N] graph of each point.
        num_graphs: G.
        mode: "sum" or "mean".

    Shape:
        [G, ...]
    """
    total = segment_sum(values, batch, num_graphs)
    if mode == "sum":
        return total
    counts = batch.bincount(minlength=num_graphs).clamp(min=1)
    return total / counts.view(-1, *[1] * (values.dim() - 1))
