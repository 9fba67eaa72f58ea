"""From features on position-orientation space back to scalars and vectors, at points or of whole graphs."""

from __future__ import annotations

from torch import Tensor, nn

from ponita.ops import segment_sum


class Readout(nn.Module):
    """A linear layer, then the mean over orientations for scalars and (1/O) sum_o y_o o for vectors.

    Args:
        channels: C.
        out_channels: number of scalars.
        out_vector_channels: number of vectors.

    Shape:
        x [N, O, C], grid [O, d] -> [N, out_channels], [N, out_vector_channels, d]
    """

    def __init__(self, channels: int, out_channels: int, out_vector_channels: int) -> None:
        super().__init__()
        self.sizes = [out_channels, out_vector_channels]
        self.linear = nn.Linear(channels, out_channels + out_vector_channels)

    def forward(self, x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        scalars, vectors = self.linear(x).split(self.sizes, dim=-1)
        return scalars.mean(1), (vectors.transpose(1, 2) @ grid) / grid.shape[0]


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
