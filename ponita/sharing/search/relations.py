"""How alike the features of points, or of orientations, are: what networks of different widths and grids can be compared by.

The relations of self-attention (MiniLMv2, arXiv:2012.15828; AutoDistil, arXiv:2201.12507) for features [N, O, C]. The mean over
orientations makes those of points independent of the grid and, up to its resolution, of rotations; none depends on C.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ponita.geometry import EdgeSet
from ponita.ops import segment_sum

NORMALIZATIONS = ("softmax", "none")
#: Relations of a network, by the name of the features.
Relations = dict[str, Tensor]


@dataclass(frozen=True)
class Graphs:
    """Which points may be related.

    Attributes:
        edge_index: [2, E] senders and receivers.
        batch: [N] graph of each point.
        number: G.
    """

    edge_index: Tensor
    batch: Tensor
    number: int

    @classmethod
    def of(cls, inputs: Mapping[str, Any]) -> Graphs:
        """Those of the arguments of a network.

        Args:
            inputs: with "pos" and "edge_index", and "batch" and "num_graphs" where there are several graphs.

        Raises:
            ValueError: for anything else.
        """
        if not isinstance(inputs, Mapping) or not {"pos", "edge_index"} <= set(inputs):
            seen = list(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
            raise ValueError(
                f"a batch is {seen}; expected a mapping of the network's arguments, with at least 'pos' and 'edge_index'."
            )
        pos, edges, batch = inputs["pos"], inputs["edge_index"], inputs.get("batch")
        edge_index = edges.edge_index if isinstance(edges, EdgeSet) else edges
        if batch is None:
            return cls(edge_index, torch.zeros(len(pos), dtype=torch.long, device=pos.device), 1)
        number = inputs.get("num_graphs")
        return cls(edge_index, batch, int(batch.max()) + 1 if number is None else number)


def dense(features: Tensor, heads: int, graphs: Graphs, normalize: str = "softmax") -> Tensor:
    """R[h,n,m] = softmax over m of sum_o sum_c f[n,o,h,c] f[m,o,h,c] / (O sqrt(c)), for points n, m of one graph.

    Args:
        features: [N, O, C].
        heads: H, the number of the teacher; the channels that C // H leaves over are dropped.
        graphs: of the points.
        normalize: "softmax", as in the paper, or "none", the logits that the published code compares.

    Shape:
        [H, N, N], zero between graphs

    Raises:
        ValueError: for features of another number of points, or with fewer channels than heads.
    """
    split = _split(features, heads, graphs).flatten(2)
    logits = split @ split.mT / _scale(features, heads)
    apart = graphs.batch[:, None] != graphs.batch
    if _softmax(normalize):
        return logits.masked_fill(apart, float("-inf")).softmax(-1)
    return logits.masked_fill(apart, 0)


def edge(features: Tensor, heads: int, graphs: Graphs, normalize: str = "softmax") -> Tensor:
    """The logits of `dense` on the edges alone, with the softmax over those into a point: O(E) in place of O(N^2).

    Args:
        features: [N, O, C].
        heads: H, as in `dense`.
        graphs: of the points.
        normalize: "softmax" or "none".

    Shape:
        [H, E], in the order of `graphs.edge_index`

    Raises:
        ValueError: as `dense`.
    """
    split = _split(features, heads, graphs).flatten(2)
    sender, receiver = graphs.edge_index
    logits = (split[:, receiver] * split[:, sender]).sum(-1) / _scale(features, heads)
    if not _softmax(normalize):
        return logits
    from torch_geometric.utils import (
        softmax,
    )  # here, since it takes seconds that users of other relations need not wait

    return softmax(logits, receiver, num_nodes=len(features), dim=1)


def orientation(features: Tensor, heads: int, graphs: Graphs, normalize: str = "softmax") -> Tensor:
    """R[h,o,p] = softmax over p of sum_n sum_c f[n,o,h,c] f[n,p,h,c] / (N sqrt(c)), of each graph with its N points.

    Only features on one and the same grid can be compared by it.

    Args:
        features: [N, O, C].
        heads: H, as in `dense`.
        graphs: of the points.
        normalize: "softmax" or "none".

    Shape:
        [G, H, O, O]

    Raises:
        ValueError: as `dense`.
    """
    split = _split(features, heads, graphs)
    at_points = torch.einsum("hnoc,hnpc->nhop", split, split) / split.shape[-1] ** 0.5
    counts = graphs.batch.bincount(minlength=graphs.number).clamp(min=1)
    logits = segment_sum(at_points, graphs.batch, graphs.number) / counts[:, None, None, None]
    return logits.softmax(-1) if _softmax(normalize) else logits


#: By name.
RELATIONS = {"dense": dense, "edge": edge, "orientation": orientation}


def mean_by_graph(values: Tensor, kind: str, graphs: Graphs) -> Tensor:
    """The mean over heads and over the related pairs of each graph.

    Args:
        values: of a relation, [H, N, N], [H, E] or [G, H, O, O].
        kind: name of the relation.
        graphs: of the points.

    Shape:
        [G], zero for a graph without pairs
    """
    if kind == "orientation":
        return values.flatten(1).mean(1)
    if kind == "dense":
        rows, graph = values.mean(0).sum(1), graphs.batch
        pairs = graphs.batch.bincount(minlength=graphs.number).square()
    else:
        rows, graph = values.mean(0), graphs.batch[graphs.edge_index[1]]
        pairs = graph.bincount(minlength=graphs.number)
    return segment_sum(rows, graph, graphs.number) / pairs.clamp(min=1)


class RelationDistillationLoss(nn.Module):
    """sum_i beta_i mean over heads of the mean squared difference of two networks' relations (arXiv:2201.12507).

    The features i are those of one block, the last of each network, whose widths and grids may differ.

    Args:
        heads: H, number of relation heads, of the teacher.
        betas: factor of each kind of features: "S", the message over positions, "F", that over orientations, and "U", the
            output of the block, each 1 where None. Networks without orientations have no "F" but "S" again.
        normalize: "softmax", as in the paper, or "none", as in the published code.
        kind: of `RELATIONS`: "edge", "dense", or "orientation", where both networks have the same grid.

    Shape:
        student and teacher {i: [N, O, C]}, graphs -> [G]

    Raises:
        ValueError: for a value that is not among those named here.
    """

    def __init__(
        self, heads: int, betas: Mapping[str, float] | None = None, normalize: str = "softmax", kind: str = "edge"
    ) -> None:
        super().__init__()
        self.heads, self.normalize, self.kind = heads, normalize, kind
        self.betas = dict({"S": 1.0, "F": 1.0, "U": 1.0} if betas is None else betas)
        if heads < 1 or min(self.betas.values(), default=-1) < 0:
            raise ValueError(
                f"heads={heads}, betas={self.betas}; expected at least one of both, and no negative factor."
            )
        if normalize not in NORMALIZATIONS or kind not in RELATIONS:
            raise ValueError(
                f"normalize={normalize!r}, kind={kind!r}; expected one of {list(NORMALIZATIONS)} and one of {list(RELATIONS)}."
            )

    def forward(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], graphs: Graphs) -> Tensor:
        with torch.no_grad():
            target = self.relations(teacher, graphs)
        return self.compare(self.relations(student, graphs), target, graphs)

    def relations(self, features: Mapping[str, Tensor], graphs: Graphs) -> Relations:
        """Of the features of one block.

        Raises:
            ValueError: if it lacks some that `betas` names.
        """
        missing = [name for name in self.betas if name not in features]
        if missing:
            raise ValueError(f"a block shows features {list(features)}; expected {missing} too, or no betas of them.")
        relation = RELATIONS[self.kind]
        return {name: relation(features[name], self.heads, graphs, self.normalize) for name in self.betas}

    def compare(self, student: Relations, teacher: Relations, graphs: Graphs) -> Tensor:
        """[G] loss of each graph, from the relations of both.

        Raises:
            ValueError: for relations of different grids.
        """
        for name in self.betas:
            if student[name].shape != teacher[name].shape:
                raise ValueError(
                    f"relations of {name} have shapes {list(student[name].shape)} and {list(teacher[name].shape)} in the teacher; "
                    "those of orientations need one grid. Fix num_orientations, or use kind='edge'."
                )
        squares = {name: (student[name] - teacher[name]).square() for name in self.betas}
        return sum(beta * mean_by_graph(squares[name], self.kind, graphs) for name, beta in self.betas.items())


def _split(features: Tensor, heads: int, graphs: Graphs) -> Tensor:
    """[H, N, O, c] channels by heads, without the rest."""
    if features.dim() != 3 or len(features) != len(graphs.batch):
        raise ValueError(f"features are {list(features.shape)}; expected [N, O, C] with N = {len(graphs.batch)}.")
    width = features.shape[-1] // heads
    if width < 1:
        raise ValueError(
            f"features have {features.shape[-1]} channels for {heads} relation heads; expected at least one channel of each. Use "
            "fewer heads, or give the space wider options."
        )
    return features[..., : heads * width].unflatten(-1, (heads, width)).permute(2, 0, 1, 3)


def _scale(features: Tensor, heads: int) -> float:
    """O sqrt(c)."""
    return features.shape[1] * (features.shape[2] // heads) ** 0.5


def _softmax(normalize: str) -> bool:
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"normalize={normalize!r}; expected one of {list(NORMALIZATIONS)}.")
    return normalize == "softmax"
