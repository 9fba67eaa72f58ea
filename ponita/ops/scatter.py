"""The reference operators with the segment sums of torch-scatter."""

from __future__ import annotations

from collections.abc import Sequence

import torch_scatter
from torch import Tensor

from ponita.ops import reference
from ponita.ops.reference import (  # noqa: F401  (an implementation has all operators of `ponita.ops.backends`)
    basis_gradient,
    pair_product,
    spline_table_gradient,
    spline_weight_gradient,
    weight_gradient,
)


def segment_sum(values: Tensor, index: Tensor, num_segments: int) -> Tensor:
    """See `ponita.ops.segment_sum`."""
    return torch_scatter.scatter_sum(values, index, dim=0, dim_size=num_segments)


def pair_conv(x: Tensor, kernel: Tensor, graph: Sequence[Tensor], two_way: int) -> Tensor:
    """See `ponita.ops.reference.pair_conv`."""
    return reference.pair_conv(x, kernel, graph, two_way, segment_sum)


def basis_conv(x: Tensor, basis: Tensor, weight: Tensor, graph: Sequence[Tensor], two_way: int) -> Tensor:
    """See `ponita.ops.reference.basis_conv`."""
    return pair_conv(x, basis @ weight.T, graph, two_way)


def spline_conv(
    x: Tensor,
    weights: Tensor,
    table: Tensor,
    corner: Tensor,
    stride: int,
    graph: Sequence[Tensor],
    two_way: int,
) -> Tensor:
    """See `ponita.ops.reference.spline_conv`."""
    return pair_conv(x, reference.spline_kernel(weights, table, corner, stride), graph, two_way)
