"""The points that features live at, and the edges between them, for each mode of a network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ponita.geometry import EdgeSet, Space, lift_edges


class Points(NamedTuple):
    """M points with O orientations each.

    Attributes:
        node: [M] the node each belongs to, or None where the points are the nodes, which share a grid.
        orientations: the grid [O, ...] of the nodes, or the one orientation [M, ...] of each point.
        edges: between the points.
        r: [P, d] displacement of each pair, from receiver to sender.
        loops: [N] self-loops of each point that were taken out of the edges, or None.
        apart: whether points of different nodes must be at different positions; not where orientations are given.
        multiplicity: how many points of one node a point receives from; messages are averaged over them.
    """

    node: Tensor | None
    orientations: Tensor
    edges: EdgeSet
    r: Tensor
    loops: Tensor | None = None
    apart: bool = True
    multiplicity: int = 1

    def axes(self, space: Space) -> Tensor:
        """[O, d, k] shared by all points, or [M, 1, d, k]."""
        axes = space.axes(self.orientations)
        return axes if self.node is None else axes[:, None]

    def of_nodes(self, values: Tensor | None) -> Tensor | None:
        """What nodes carry, at the points."""
        return values if self.node is None or values is None else values.index_select(0, self.node)

    def invariants(self, space: Space, complete: bool, smoothing: float) -> Tensor:
        """[P, O, k] of each pair and orientation."""
        if self.node is None:
            return space.pair_invariants(self.r, self.orientations, smoothing)
        ends = self.edges.pair_index
        if space.has_fibre:
            sender, receiver = (self.orientations.index_select(0, end) for end in ends)
            return space.full_invariants(self.r, receiver, sender, complete, smoothing)[:, None]
        return space.full_invariants(self.r, None, None)[:, None]


def bundle_points(
    pos: Tensor, edges: EdgeSet, edge_shift: Tensor | None, grid: Tensor, share_pairs: bool, split_loops: bool
) -> Points:
    """The nodes, each with all orientations of a grid.

    Args:
        pos: [N, d].
        edges: the graph.
        edge_shift: [E, d] or None, in the order of the edges the set was made from.
        grid: [O, ...].
        share_pairs: whether a pair's kernel serves both directions.
        split_loops: take self-loops, whose kernels are all the same, out of the edges.
    """
    edges = edges if share_pairs else edges.without_pairs()
    r, loops = displacements(pos, edges, edge_shift), None
    if split_loops:
        edges, loops = edges.without_loops
        r = r[: edges.num_pairs]
    return Points(None, grid, edges, r, loops)


def product_points(pos: Tensor, edges: EdgeSet, edge_shift: Tensor | None, grid: Tensor) -> Points:
    """Every node once with each orientation of a grid, and every edge between all of them: O^2 edges for each.

    What a kernel of both orientations needs; the convolution is the mean over the sender's orientations.
    """
    num, edges = grid.shape[0], edges.without_pairs()
    node = torch.arange(pos.shape[0], device=pos.device).repeat_interleave(num)
    r = displacements(pos, edges, edge_shift)
    o = torch.arange(num, device=pos.device)
    sender, receiver = edges.edge_index[:, :, None, None] * num
    sender, receiver = torch.broadcast_tensors(sender + o, receiver + o[:, None])
    between = torch.stack([sender.flatten(), receiver.flatten()])
    product = EdgeSet.from_edge_index(between, node.numel(), pairs=False)
    r = r.repeat_interleave(num * num, dim=0).index_select(0, product.order)
    return Points(node, grid.repeat(pos.shape[0], *[1] * (grid.dim() - 1)), product, r, multiplicity=num)


def cloud_points(pos: Tensor, edge_index: Tensor, edge_shift: Tensor | None, orientations: Tensor | None) -> Points:
    """Points with one orientation each: given, or one point for every directed edge.

    Args:
        pos: [N, d].
        edge_index: [2, E].
        edge_shift: [E, d] or None.
        orientations: [N, d] or [N, 3, 3]; where None, the points are `lift_edges` of the graph.
    """
    lifted = orientations is None
    if lifted:
        node, _, orientations, edge_index, edge_shift = lift_edges(pos, edge_index, edge_shift)
    else:
        node = torch.arange(pos.shape[0], device=pos.device)
    edges = EdgeSet.from_edge_index(edge_index, node.numel(), pairs=False)
    r = displacements(pos.index_select(0, node), edges, edge_shift)
    return Points(node, orientations, edges, r, apart=lifted)


def displacements(pos: Tensor, edges: EdgeSet, edge_shift: Tensor | None = None) -> Tensor:
    """r = pos[j] - pos[i] + shift of each pair's representative j->i.

    Args:
        pos: [N, d].
        edges: the graph.
        edge_shift: [E, d], in the order of the edges the set was made from.

    Shape:
        [P, d]
    """
    sender, receiver = edges.pair_index
    r = pos.index_select(0, sender) - pos.index_select(0, receiver)
    if edge_shift is None:
        return r
    if edge_shift.shape != (edges.num_edges, pos.shape[1]):
        raise ValueError(
            f"edge_shift has shape {list(edge_shift.shape)}; expected [E, d] = [{edges.num_edges}, {pos.shape[1]}]."
        )
    return r + edge_shift.index_select(0, edges.pair_order)
