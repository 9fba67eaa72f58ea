"""Neighbour lists of isolated molecules and particles, by brute force over each graph of a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def fully_connected(batch: Tensor, *, loops: bool = False) -> Tensor:
    """All ordered pairs of points of the same graph.

    Args:
        batch: [N] graph of each point, sorted.
        loops: include the edges i->i.

    Shape:
        [2, E], sorted by receiver.
    """
    counts = torch.bincount(batch) if batch.numel() else batch.new_zeros(0)
    starts = counts.cumsum(0) - counts
    per_node = counts[batch]
    receiver = torch.repeat_interleave(per_node)
    first_edge = per_node.cumsum(0) - per_node
    within = torch.arange(receiver.numel(), device=batch.device) - first_edge[receiver]
    sender = starts[batch][receiver] + within
    edge_index = torch.stack([sender, receiver])
    return edge_index if loops else edge_index[:, sender != receiver]


def radius_graph(pos: Tensor, cutoff: float, batch: Tensor | None = None, *, loops: bool = False) -> Tensor:
    """Ordered pairs of points of one graph that are closer than a cut-off; always symmetric.

    Args:
        pos: [N, d].
        cutoff: length, in the units of `pos`.
        batch: [N] graph of each point, sorted; one graph where None.
        loops: include the edges i->i.

    Shape:
        [2, E], sorted by receiver.

    Raises:
        ValueError: if the cut-off is not positive.
    """
    if not cutoff > 0:
        raise ValueError(f"cutoff={cutoff}; expected a positive length.")
    batch = torch.zeros(pos.shape[0], dtype=torch.long, device=pos.device) if batch is None else batch
    edge_index = fully_connected(batch, loops=loops)
    distance = (pos[edge_index[0]] - pos[edge_index[1]]).detach().norm(dim=-1)
    return edge_index[:, distance < cutoff]
