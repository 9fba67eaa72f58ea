"""From a graph of positions to a graph of positions with directions: one point for every directed edge."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ponita.geometry.checks import can_look
from ponita.geometry.edges import SHIFT_RESOLUTION, check_edge_index


class LiftedGraph(NamedTuple):
    """Points of R^d x S^(d-1) made from the M different edges of a graph, and the edges between them.

    Attributes:
        node: [M] the base node that a lifted point belongs to (the receiver of its edge), sorted. Its position is
            pos[node], its features are those of the node.
        neighbor: [M] the base node its direction points to (the sender).
        direction: [M, d] unit vectors from node to neighbor, differentiable in the positions and the shifts.
        lifted_edge_index: [2, M'] senders and receivers among the lifted points, sorted by receiver.
        lifted_edge_shift: [M', d] added to pos[node[sender]] - pos[node[receiver]], or None without periodic images.
    """

    node: Tensor
    neighbor: Tensor
    direction: Tensor
    lifted_edge_index: Tensor
    lifted_edge_shift: Tensor | None


def lift_edges(pos: Tensor, edge_index: Tensor, edge_shift: Tensor | None = None) -> LiftedGraph:
    """Turn every edge s->t into a point (p_t, (p_s + shift - p_t) / |.|) that belongs to t (PONITA, point-cloud mode).

    The directions come from the data, so a network on the lifted points is equivariant under every rotation, exactly.
    Self-loops have no direction and are left out, as are repeated edges; an edge to an image of the same node is
    neither. Lifted points are linked where their base nodes are: a sends to b if there is an edge node[a] -> node[b],
    and if node[a] is node[b], a itself included. With k edges into every node these are M' = k^2 (k + 1) links a node.

    A node without an edge into it has no lifted point.

    Args:
        pos: [N, d].
        edge_index: [2, E], row 0 the senders s, row 1 the receivers t.
        edge_shift: [E, d] added to pos[s] - pos[t], the displacement of a periodic image. Shifts are compared after
            rounding to a lattice of 1e-4.

    Raises:
        ValueError: if a shape, the dtype or the range of `edge_index` is wrong, and on the CPU also if the ends of an
            edge coincide.
    """
    check_edge_index(edge_index, pos.shape[0])
    if edge_shift is not None and edge_shift.shape != (edge_index.shape[1], pos.shape[1]):
        raise ValueError(
            f"edge_shift has shape {list(edge_shift.shape)}; expected [E, d] = [{edge_index.shape[1]}, {pos.shape[1]}]."
        )
    neighbor, node, edge_shift = _distinct(edge_index.long(), edge_shift, pos.shape[0])
    toward = pos.index_select(0, neighbor) - pos.index_select(0, node)
    toward = toward if edge_shift is None else toward + edge_shift
    _check_distances(toward, neighbor, node)
    direction = toward / torch.linalg.vector_norm(toward, dim=1, keepdim=True)
    return LiftedGraph(node, neighbor, direction, *_links(node, neighbor, edge_shift, pos.shape[0]))


def _distinct(edge_index: Tensor, shift: Tensor | None, num_nodes: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Senders, receivers and shifts of the different edges that are no self-loops, sorted by receiver, then sender."""
    sender, receiver = edge_index
    key, is_loop = receiver * num_nodes + sender, sender == receiver
    if shift is not None:
        lattice = (shift.detach() / SHIFT_RESOLUTION).round().long()
        images, image = torch.unique(lattice, dim=0, return_inverse=True)
        key, is_loop = key * len(images) + image, is_loop & (lattice == 0).all(1)
    edge = (~is_loop).nonzero()[:, 0]
    key, order = key[edge].sort(stable=True)
    is_new = torch.ones_like(key, dtype=torch.bool)
    is_new[1:] = key[1:] != key[:-1]
    edge = edge[order[is_new]]
    return sender[edge], receiver[edge], None if shift is None else shift.index_select(0, edge)


def _links(node: Tensor, neighbor: Tensor, shift: Tensor | None, num_nodes: int) -> tuple[Tensor, Tensor | None]:
    """All pairs of lifted points whose base nodes are adjacent or equal, and their shifts.

    A lifted point stands for a base edge, so the base nodes that send to node t are the neighbors of its own lifted
    points, and t itself.
    """
    # Base edges with a loop at every node, sorted by receiver.
    loops = torch.arange(num_nodes, device=node.device)
    order = torch.argsort(torch.cat([node, loops]), stable=True)
    source = torch.cat([neighbor, loops])[order]
    count = torch.bincount(node, minlength=num_nodes)
    first_point = count.cumsum(0) - count
    first_edge = first_point + loops
    # Every receiving point with every base edge into its node, then with every lifted point of that edge's sender.
    point, edge = _ragged(first_edge[node], count[node] + 1)
    row, sender = _ragged(first_point[source[edge]], count[source[edge]])
    links = torch.stack([sender, point[row]])
    if shift is None:
        return links, None
    shift = torch.cat([shift, shift.new_zeros(num_nodes, shift.shape[1])]).index_select(0, order)
    return links, shift.index_select(0, edge[row])


def _ragged(start: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The ranges start[k] .. start[k] + count[k] - 1 one after another: k of every element, and the element."""
    row = torch.repeat_interleave(count)
    offset = start - (count.cumsum(0) - count)
    return row, offset[row].add_(torch.arange(row.numel(), device=row.device))


def _check_distances(toward: Tensor, sender: Tensor, receiver: Tensor) -> None:
    if not can_look(toward):
        return
    same = (toward == 0).all(1)
    if bool(same.any()):
        pairs = torch.stack([sender, receiver])[:, same].T[:5].tolist()
        raise ValueError(
            f"points coincide: distance 0 between points {pairs}, so their edge has no direction; expected distinct "
            "positions. Remove duplicates, or check units and wrapped cells."
        )
