"""Graphs to batches, and the edges of batches to devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ponita.geometry.edges import EdgeSet, incidence

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


@lru_cache(maxsize=8)
def complete_edges(sizes: tuple[int, ...], loops: bool, pairs: bool = True) -> EdgeSet:
    """All pairs of points of the same graph, on the CPU, sorted and matched without a search.

    Made once for batches of the same sizes.

    Args:
        sizes: points of each graph.
        loops: include the edges i->i.
        pairs: store every pair once; False for networks that need a kernel for every edge.
    """
    counts = torch.tensor(sizes)
    starts = counts.cumsum(0) - counts
    graph = torch.repeat_interleave(counts)
    degree = (counts if loops else counts - 1)[graph]
    first_edge = degree.cumsum(0) - degree
    receiver = torch.repeat_interleave(degree)
    start = starts[graph][receiver]
    # Places within the graph: of the sender among those of the receiver's edges, which skip the receiver without loops.
    there, here = torch.arange(receiver.numel()) - first_edge[receiver], receiver - start
    if not loops:
        there = there + (there >= here)
    sender = start + there
    back = here if loops else here - (here > there).long()
    edges = EdgeSet.from_sorted(torch.stack([sender, receiver]), graph.numel(), first_edge[sender] + back)
    return edges if pairs else edges.without_pairs()


@lru_cache(maxsize=4)
def place_edges(edges: EdgeSet, device: torch.device) -> EdgeSet:
    """Edges on a device, with all that a network reads of them: made there, it would wait for the device.

    The same edges are copied once.

    Args:
        edges: on the CPU.
        device: where the positions are.
    """
    return edges if edges.pair_index.device == device else copy_edges(edges, device)


def copy_edges(edges: EdgeSet, device: torch.device) -> EdgeSet:
    """A copy as `place_edges` makes it, that shares no tensor with another.

    Args:
        edges: on the CPU.
        device: of the copy.
    """
    between, loops = edges.without_loops
    placed = _placed(edges, device)
    alone = placed if between is edges else _placed(between, device)
    vars(placed)["without_loops"] = (alone, None if loops is None else to_device(loops, device))
    return placed


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy that a CUDA device is not waited for: from page-locked memory."""
    pinned = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
    return pinned.to(device, non_blocking=True, copy=True)


def _placed(edges: EdgeSet, device: torch.device) -> EdgeSet:
    """A copy that knows its `graph`, as it is on devices other than the CPU."""
    values = {field.name: getattr(edges, field.name) for field in fields(edges)}
    placed = replace(edges, **{k: to_device(v, device) for k, v in values.items() if isinstance(v, Tensor)})
    ends, two_way, nodes = tuple(edges.pair_index), edges.num_two_way, edges.num_nodes
    graph = (*ends, *incidence(ends, two_way, nodes), *incidence(ends[::-1], two_way, nodes))
    vars(placed)["graph"] = tuple(to_device(tensor.contiguous(), device) for tensor in graph)
    return placed
