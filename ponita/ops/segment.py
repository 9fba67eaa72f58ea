"""Sums of rows that share an index."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(values: Tensor, index: Tensor, num_segments: int) -> Tensor:
    """out[n] = sum of values[k] over the k with index[k] = n.

    Args:
        values: [K, ...].
        index: [K] in [0, num_segments).
        num_segments: N.

    Shape:
        [N, ...]
    """
    out = torch.zeros((num_segments, *values.shape[1:]), dtype=values.dtype, device=values.device)
    return out.index_add_(0, index, values)
