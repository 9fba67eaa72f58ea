"""Points without a mean: diffusion of positions in the space that translations do not reach."""

from __future__ import annotations

import torch
from torch import Tensor

from ponita.ops.segment import segment_sum


def graph_mean(values: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    """Mean over the points of each graph.

    Args:
        values: [N, ...].
        batch: [N] graph of each point.
        num_graphs: G.

    Shape:
        [G, ...]
    """
    counts = torch.bincount(batch, minlength=num_graphs).clamp(min=1)
    return segment_sum(values, batch, num_graphs) / counts.view(-1, *[1] * (values.dim() - 1))


def mean_free(values: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    """The orthogonal projection onto values whose mean over each graph is zero (Hoogeboom et al. 2022, section 3.1).

    Standard normal numbers that are projected are standard normal on that subspace, of (n - 1) d dimensions.

    Args:
        values: [N, ...].
        batch: [N] graph of each point.
        num_graphs: G.

    Shape:
        [N, ...]
    """
    return values - graph_mean(values, batch, num_graphs).index_select(0, batch)


def project_positions(state: Tensor, batch: Tensor, num_graphs: int, dim: int = 3) -> Tensor:
    """The first columns, which are positions, without their mean over each graph.

    Args:
        state: [N, D], positions and features.
        batch: [N] graph of each point.
        num_graphs: G.
        dim: d, number of coordinates.

    Shape:
        [N, D]
    """
    return torch.cat([mean_free(state[:, :dim], batch, num_graphs), state[:, dim:]], dim=1)


def draw_noise(
    shape: tuple[int, int], batch: Tensor, num_graphs: int, generator: torch.Generator | None = None, dim: int = 3
) -> Tensor:
    """Standard normal noise with mean-free positions.

    Args:
        shape: [N, D].
        batch: [N] graph of each point.
        num_graphs: G.
        generator: source of randomness, on the CPU, so that the numbers do not depend on the device.
        dim: d, number of coordinates.

    Shape:
        [N, D], float32
    """
    noise = torch.randn(shape, generator=generator).to(batch.device)
    return project_positions(noise, batch, num_graphs, dim)
