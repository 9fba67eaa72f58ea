"""Transforms of PyTorch Geometric: what layers of `ponita.nn` read, as attributes of a `Data` object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import BaseTransform

from ponita.geometry import Space, get_space, lift_edges, radius_graph


class PositionOrientation(BaseTransform):
    """Adds a grid of orientations and the invariants of every edge to a graph with positions.

    Reads `pos` [N, d], and `edge_index` [2, E] and `edge_shift` [E, d] where there are; writes

    * `edge_invariants` [E, O, k], in the order of `edge_index`, for the kernel basis of the edges. (They are not called
      pair invariants because of PyTorch Geometric: in a graph with as many edges as nodes it takes an attribute for one
      of edges only if "edge" is in its name.)
    * `orientations` [1, O, d], or [1, O, 3, 3] on "SE3", and `fiber_invariants` [1, O, O, k'], for the kernel basis of
      the orientations; neither on "R2" and "R3". They are the same for all graphs. The leading 1 becomes the number of
      graphs in a batch: use `batch.orientations[0]` and `batch.fiber_invariants[0]`.

    The numbers are computed once, from the positions there were. A model of forces needs them as functions of the
    positions it differentiates by: call `edge_invariants` of the transform, or `Space.pair_invariants`, in its forward.

    Args:
        space: name of the space; see `Ponita`.
        num_orientations: O, size of the grid; not used on "R2" and "R3".
        complete: use the complete invariants of two orientations; they are other ones on "R2xS1" only.
        cutoff: link all points that are closer than this length (units of the positions), in place of the edges there
            were, whose attributes are removed; where None, keep those.
        axis_smoothing: length over which the kink of |r - (o.r)o| on the axis of an orientation is rounded.

    Raises:
        ValueError: for a space, a size or a cut-off that does not exist; and, of a graph, for missing or misshapen
            positions, or edges that are missing.
    """

    def __init__(
        self,
        space: str = "R3xS2",
        num_orientations: int = 20,
        complete: bool = False,
        cutoff: float | None = None,
        axis_smoothing: float = 0.1,
    ) -> None:
        if cutoff is not None and not cutoff > 0:
            raise ValueError(f"cutoff={cutoff}; expected a positive length, or None to keep the edges of the data.")
        self.space, self.complete, self.cutoff, self.axis_smoothing = get_space(space), complete, cutoff, axis_smoothing
        self.grid = self.space.make_grid(num_orientations)
        self.fiber_invariants = self.space.fiber_invariants(self.grid, complete)

    def forward(self, data: Data) -> Data:
        """The graph with the new attributes; the one given is left as it is."""
        pos = _positions(data, self.space)
        if self.cutoff is not None:
            _remove_edges(data)
            data.edge_index = radius_graph(pos, self.cutoff, data.get("batch"))
        data.edge_invariants = self.edge_invariants(pos, _edges(data), data.get("edge_shift"))
        if self.space.has_fibre:
            data.orientations = self.grid.to(pos)[None]
            data.fiber_invariants = self.fiber_invariants.to(pos)[None]
        return data

    def edge_invariants(self, pos: Tensor, edge_index: Tensor, edge_shift: Tensor | None = None) -> Tensor:
        """The same numbers inside a model, differentiable in the positions.

        Args:
            pos: [N, d].
            edge_index: [2, E], row 0 the senders, row 1 the receivers.
            edge_shift: [E, d] added to pos[sender] - pos[receiver].

        Shape:
            [E, O, k]
        """
        r = _displacements(pos, edge_index, edge_shift)
        return self.space.pair_invariants(r, self.grid.to(pos), self.axis_smoothing)

    def __repr__(self) -> str:
        edges = "" if self.cutoff is None else f", cutoff={self.cutoff}"
        return f"{type(self).__name__}({self.space.name}, orientations={len(self.grid)}{edges})"


class LiftedData(Data):
    """A graph of M lifted points, made by `LiftEdges` from a graph of N nodes, that can be batched.

    Attributes:
        base_index: [M] the node that a point belongs to; numbered on through a batch by the nodes of its graphs.
        num_base_nodes: N; of a batch [G].
    """

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """What is added to an attribute for every graph before it in a batch."""
        return self.num_base_nodes if key == "base_index" else super().__inc__(key, value, *args, **kwargs)

    @property
    def base_batch(self) -> Tensor:
        """[N] graph of each base node of a batch; zeros of a single graph."""
        counts = torch.as_tensor(self.num_base_nodes, device=self.base_index.device).view(-1)
        return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)


class LiftEdges(BaseTransform):
    """Turns a graph into that of its directed edges, points with one orientation each, for exact equivariance.

    See `ponita.geometry.lift_edges`. The result has

    * `pos` [M, d] and every other attribute of nodes, repeated at the points of the node;
    * `orientations` [M, d], from the node to its neighbour;
    * `edge_index` [2, M'], `edge_shift` [M', d] where the graph had one, and `edge_invariants` [M', 1, k], those of
      `Space.full_invariants` in the order of `edge_index`;
    * `base_index` [M] and `num_base_nodes`. Outputs y at points become those at nodes by
      `ponita.nn.pool(y, data.base_index, len(data.base_batch), "mean")`; pool these by `data.base_batch` for graphs.

    Attributes of the graph stay; those of edges, but for the shift, are left out. As in `PositionOrientation`, a model
    of forces must compute positions, orientations and invariants itself (`Ponita(mode="cloud")` does).

    Args:
        space: "R3xS2" or "R2xS1".
        complete: use the complete invariants.
        axis_smoothing: as in `PositionOrientation`.
        at_nodes: attributes of nodes that stay [N, ...], such as targets.

    Raises:
        ValueError: for another space; and, of a graph, for missing or misshapen positions or edges, for edges whose
            ends coincide, or if it is a batch.
    """

    def __init__(
        self,
        space: str = "R3xS2",
        complete: bool = False,
        axis_smoothing: float = 0.1,
        at_nodes: Sequence[str] = (),
    ) -> None:
        self.space, self.complete, self.axis_smoothing = get_space(space), complete, axis_smoothing
        self.at_nodes = tuple(at_nodes)
        if self.space.vector_components != 1:
            raise ValueError(f"space={space!r}; an edge gives one direction: choose 'R3xS2' or 'R2xS1'.")

    def forward(self, data: Data) -> LiftedData:
        """The lifted graph."""
        if isinstance(data, Batch):
            raise ValueError("LiftEdges was given a Batch; lift every graph, then batch.")
        pos = _positions(data, self.space)
        lifted = lift_edges(pos, _edges(data), data.get("edge_shift"))
        out = LiftedData(**self._carried(data, lifted.node))
        out.edge_index, out.orientations = lifted.lifted_edge_index, lifted.direction
        if lifted.lifted_edge_shift is not None:
            out.edge_shift = lifted.lifted_edge_shift
        sender, receiver = (lifted.direction[end] for end in out.edge_index)
        r = _displacements(out.pos, out.edge_index, lifted.lifted_edge_shift)
        invariants = self.space.full_invariants(r, receiver, sender, self.complete, self.axis_smoothing)
        out.edge_invariants = invariants[:, None]
        out.base_index, out.num_base_nodes = lifted.node, data.num_nodes
        out.num_nodes = lifted.node.numel()
        return out

    def _carried(self, data: Data, node: Tensor) -> dict[str, Any]:
        """The attributes of the graph, and those of its nodes at the points."""
        carried = {}
        for key, value in data:
            if key == "num_nodes" or data.is_edge_attr(key):
                continue
            to_points = data.is_node_attr(key) and key not in self.at_nodes
            carried[key] = _rows(value, node, data.__cat_dim__(key, value)) if to_points else value
        return carried

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.space.name})"


def _positions(data: Data, space: Space) -> Tensor:
    pos = data.get("pos")
    if pos is None or pos.dim() != 2 or pos.shape[1] != space.dim:
        seen = "no pos" if pos is None else f"pos of shape {list(pos.shape)}"
        raise ValueError(f"the graph has {seen}; expected pos [N, {space.dim}] for space {space.name}.")
    return pos


def _edges(data: Data) -> Tensor:
    edge_index = data.get("edge_index")
    if edge_index is None:
        raise ValueError("the graph has no edge_index; expected [2, E]. PositionOrientation makes one with a cutoff.")
    return edge_index


def _remove_edges(data: Data) -> None:
    if data.get("edge_shift") is not None:
        raise ValueError(
            "the graph has edge_shift, so it is periodic, and a cutoff would link points without their images. Give "
            "the edges of a periodic neighbour list, and cutoff=None."
        )
    for key in [key for key in data.keys() if data.is_edge_attr(key)]:  # noqa: SIM118  (a Data iterates over pairs)
        del data[key]


def _displacements(pos: Tensor, edge_index: Tensor, edge_shift: Tensor | None) -> Tensor:
    r = pos.index_select(0, edge_index[0]) - pos.index_select(0, edge_index[1])
    return r if edge_shift is None else r + edge_shift


def _rows(value: Any, node: Tensor, dim: int) -> Any:
    return value.index_select(dim, node) if isinstance(value, Tensor) else [value[i] for i in node.tolist()]
