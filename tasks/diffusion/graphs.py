"""Complete graphs of molecules, sorted and matched without a search."""

from __future__ import annotations

import torch
from torch import Tensor

from ponita.geometry import EdgeSet
from ponita.models import Ponita
from ponita.tasks.graphs import joined_graph, place


def complete_molecules(network: Ponita, sizes: Tensor, loops: bool) -> tuple[EdgeSet | Tensor, Tensor]:
    """All pairs of atoms of the same molecule, where the network is, and the molecule of each atom.

    Args:
        network: which reads them.
        sizes: [G] atoms of each molecule, on the CPU.
        loops: include the edges i->i.

    Returns:
        Edges in the form the network reads, and batch [N] on the CPU.
    """
    edge_index, reverse, batch = _complete(sizes, loops)
    edges = joined_graph(network, edge_index, batch.numel(), reverse)
    return place(edges, network.grid.device), batch


def _complete(sizes: Tensor, loops: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Edges [2, E] sorted by receiver, place [E] of each one's reverse, and batch [N]."""
    batch = torch.repeat_interleave(sizes)
    starts = sizes.cumsum(0) - sizes
    degree = (sizes if loops else sizes - 1)[batch]
    first_edge = degree.cumsum(0) - degree
    receiver = torch.repeat_interleave(degree)
    within = torch.arange(receiver.numel()) - first_edge[receiver]
    start = starts[batch][receiver]
    here = receiver - start
    if not loops:
        within = within + (within >= here)
    sender = start + within
    back = here if loops else here - (here > within).long()
    return torch.stack([sender, receiver]), first_edge[sender] + back, batch
