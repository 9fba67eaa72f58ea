"""The graphs that tasks give to a network, made on the CPU in the form that the network reads."""

from __future__ import annotations

import torch
from torch import Tensor

from ponita.data.batching import complete_edges, place_edges, to_device
from ponita.geometry import EdgeSet
from ponita.models import Ponita


def complete_graph(network: Ponita, sizes: Tensor, loops: bool) -> EdgeSet | Tensor:
    """All pairs of points of the same graph; the same object for batches of the same sizes.

    Args:
        network: which reads it.
        sizes: [G] points of each graph, on the CPU.
        loops: include the edges i->i.
    """
    edges = complete_edges(tuple(sizes.tolist()), loops, network.stores_pairs)
    return edges.edge_index if network.config["mode"] == "cloud" else edges


def matched_graph(
    network: Ponita, edge_index: Tensor, num_nodes: int, edge_shift: Tensor | None = None
) -> EdgeSet | Tensor:
    """Given edges, sorted and matched as far as the network can use that.

    Args:
        network: which reads them.
        edge_index: [2, E].
        num_nodes: N.
        edge_shift: [E, 3] what distinguishes the edges between two points: displacements, or cells of images.
    """
    if network.config["mode"] == "cloud":  # makes edges of its own of them
        return edge_index
    edges = EdgeSet.from_edge_index(edge_index, num_nodes, edge_shift)
    return edges if network.stores_pairs else edges.without_pairs()


def joined_graph(network: Ponita, edge_index: Tensor, num_nodes: int, reverse: Tensor) -> EdgeSet | Tensor:
    """Edges that were sorted and matched before, in the form that the network reads.

    Args:
        network: which reads them.
        edge_index: [2, E] sorted by receiver.
        num_nodes: N.
        reverse: [E] place of each edge's reverse.
    """
    if network.config["mode"] == "cloud":
        return edge_index
    return EdgeSet.from_sorted(edge_index, num_nodes, reverse if network.stores_pairs else None)


def place(edges: EdgeSet | Tensor | None, device: torch.device) -> EdgeSet | Tensor | None:
    """What the functions here made, on a device."""
    if isinstance(edges, EdgeSet):
        return place_edges(edges, device)
    return edges if edges is None else to_device(edges, device)
