"""The published network on a cloud of points with directions, written out with loops.

Every directed edge of the graph becomes a point that stands at its receiver and looks towards its sender. Written from
the description of the published code alone, as `reference_network` is. Letters: N nodes, M lifted points, E lifted
edges, d dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from support.reference_network import State, basis_functions, blocks_and_readouts, sum_graphs, window


def reference_cloud_forward(
    state: State,
    pos: Tensor,
    edge_index: Tensor,
    x: Tensor | None = None,
    vec: Tensor | None = None,
    batch: Tensor | None = None,
    *,
    out_vectors: int = 0,
    pooling: str | None,
    degree: int = 3,
) -> tuple[Tensor, Tensor]:
    """Evaluate a saved state in evaluation mode. The graph must hold both directions of every edge.

    A node without edges has no lifted points and gets zeros; the published code leaves such nodes out at the end.

    Args:
        state: the saved tensors. pos: [N, d]. edge_index: [2, E] senders, then receivers. batch: [N] graph numbers.
        x: [N, in_s] scalars. vec: [N, in_v, d] vectors. out_vectors: how many of the last outputs are vectors.
        pooling: "sum" over each graph, or None for an answer per node. degree: highest power of the attributes.

    Returns:
        Scalars [N or G, out_s] and vectors [N or G, out_v, d].
    """
    base = sorted({(s, t) for s, t in edge_index.T.tolist() if s != t})
    node = torch.tensor([t for _, t in base])
    toward = torch.stack([pos[s] - pos[t] for s, t in base])
    direction = toward / toward.norm(dim=-1, keepdim=True)
    graph = torch.zeros(len(pos), dtype=torch.long) if batch is None else batch
    send, recv = _lifted_edges(state, base, pos, graph)

    rel = pos[node][send] - pos[node][recv]
    kernel_basis = basis_functions(state, "basis_fn", _attributes(rel, direction[send], direction[recv]), degree)
    kernel_basis = kernel_basis * window(state, rel.norm(dim=-1))[:, None]
    inputs = [] if x is None else [x[node]]
    inputs += [] if vec is None else [torch.einsum("mvd,md->mv", vec[node], direction)]
    y = blocks_and_readouts(state, torch.cat(inputs, dim=-1), kernel_basis, None, send, recv)

    out_scalars = y.shape[1] - out_vectors
    scalars = _mean_at_nodes(y[:, :out_scalars], node, len(pos))
    vectors = _mean_at_nodes(y[:, out_scalars:, None] * direction[:, None, :], node, len(pos))
    if pooling is None:
        return scalars, vectors
    return sum_graphs(scalars, batch), sum_graphs(vectors, batch)


def _lifted_edges(state: State, base: list[tuple[int, int]], pos: Tensor, graph: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of lifted points whose nodes are adjacent or equal; with a radius, those of one graph within it instead."""
    radius = float(state["windowing_fn.r_max"]) if "windowing_fn.r_max" in state else None
    pairs = []
    for a, (_, node_a) in enumerate(base):
        for b, (_, node_b) in enumerate(base):
            if radius is None:
                linked = node_a == node_b or (node_a, node_b) in base
            else:
                linked = graph[node_a] == graph[node_b] and (pos[node_a] - pos[node_b]).norm() <= radius
            pairs += [(a, b)] if linked else []
    send, recv = torch.tensor(pairs).T
    return send, recv


def _attributes(rel: Tensor, sender: Tensor, receiver: Tensor) -> Tensor:
    """[E, 3]: r along and across the receiver's direction (across with its sign in the plane), and the cosine."""
    along = (rel * receiver).sum(dim=-1)
    if rel.shape[1] == 2:
        across = rel[:, 1] * receiver[:, 0] - rel[:, 0] * receiver[:, 1]
    else:
        across = (rel - along[:, None] * receiver).norm(dim=-1)
    return torch.stack([along, across, (sender * receiver).sum(dim=-1)], dim=-1)


def _mean_at_nodes(values: Tensor, node: Tensor, count: int) -> Tensor:
    """The mean over the lifted points of each node."""
    rows = [values[node == n] for n in range(count)]
    return torch.stack([row.mean(dim=0) if len(row) else row.sum(dim=0) for row in rows])
