"""Sums of rows that share an index."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(values: Tensor, index: Tensor, num_segments: int, backend: str = "torch") -> Tensor:
    """out[n] = sum of values[k] over the k with index[k] = n.

    Args:
        values: [K, ...].
        index: [K] in [0, num_segments).
        num_segments: N.
        backend: "torch", or "scatter" for torch-scatter's kernel.

    Shape:
        [N, ...]
    """
    if backend == "scatter":
        import torch_scatter

        return torch_scatter.scatter_sum(values, index, dim=0, dim_size=num_segments)
    out = torch.zeros((num_segments, *values.shape[1:]), dtype=values.dtype, device=values.device)
    return out.index_add_(0, index, values)
