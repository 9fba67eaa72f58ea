"""Graphs to batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch_geometric.data import Batch, Data


def collate(graphs: Sequence[Data]) -> Batch:
    """Join graphs to one, with positions in one space.

    Args:
        graphs: each with `pos` [N, d].

    Raises:
        ValueError: for no graphs, a graph without positions or points, or graphs of different dimensions.
    """
    from torch_geometric.data import Batch  # here, since it takes seconds that users of the layers need not wait

    if not graphs:
        raise ValueError("the batch is empty; expected at least one graph.")
    dim = None
    for number, graph in enumerate(graphs):
        pos = graph.pos
        if pos is None or pos.dim() != 2 or pos.shape[0] == 0:
            seen = None if pos is None else list(pos.shape)
            raise ValueError(f"graph {number} of the batch has pos of shape {seen}; expected [N, d] with N > 0.")
        dim = pos.shape[1] if dim is None else dim
        if pos.shape[1] != dim:
            raise ValueError(
                f"the batch mixes dimensions: graph {number} has positions in {pos.shape[1]} dimensions, those before it "
                f"in {dim}; train on one space at a time."
            )
    return Batch.from_data_list(list(graphs))
