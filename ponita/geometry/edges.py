"""Edges of a graph, sorted by receiver, with every undirected pair found once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

# Image shifts of an edge and of its reverse are opposite up to rounding; they are compared on this lattice (length).
SHIFT_RESOLUTION = 1e-4


@dataclass(frozen=True, eq=False)
class EdgeSet:
    """The edges of a graph in the form the operators read.

    Edges are sorted by receiver (stable). When every edge j->i has its reverse i->j, the two form one pair and only
    one of them, the representative, needs a kernel: on an antipodal grid the kernel of the other is the same numbers
    read at the opposite directions. Pairs that stand for two edges come first, self-loops after them. On a one-sided
    graph every edge is a pair of its own.

    Attributes:
        edge_index: [2, E] senders and receivers, sorted by receiver.
        num_nodes: N.
        order: [E] place of each sorted edge in the edges the set was made from.
        rowptr: [N + 1] CSR offsets: the edges into node i are rowptr[i]:rowptr[i + 1].
        reverse: [E] the reverse of each edge, or None on a one-sided graph. A self-loop is its own reverse.
        pair: [E] pair of each edge.
        flip: [E] bool, whether the edge reads its pair's kernel at the opposite direction.
        pair_index: [2, P] sender and receiver of each pair's representative.
        pair_order: [P] place of the representative in the edges the set was made from.
        num_two_way: number of pairs that stand for two edges.
    """

    edge_index: Tensor
    num_nodes: int
    order: Tensor
    rowptr: Tensor
    reverse: Tensor | None
    pair: Tensor
    flip: Tensor
    pair_index: Tensor
    pair_order: Tensor
    num_two_way: int

    @classmethod
    def from_edge_index(
        cls, edge_index: Tensor, num_nodes: int, edge_shift: Tensor | None = None, pairs: bool = True
    ) -> EdgeSet:
        """Sort edges by receiver and match every edge with its reverse.

        Args:
            edge_index: [2, E] integer, row 0 the senders j, row 1 the receivers i.
            num_nodes: N.
            edge_shift: [E, d] added to pos[j] - pos[i], the displacement of a periodic image (Å). The reverse of an
                edge has the opposite shift.
            pairs: look for reverses; False where no kernel could be shared.

        Raises:
            ValueError: if the shape, the dtype or the range of `edge_index` is wrong.
        """
        check_edge_index(edge_index, num_nodes)
        if edge_shift is not None and (edge_shift.dim() != 2 or edge_shift.shape[0] != edge_index.shape[1]):
            raise ValueError(
                f"edge_shift has shape {list(edge_shift.shape)}; expected [E, d] with E = {edge_index.shape[1]}."
            )
        order = torch.argsort(edge_index[1], stable=True)
        edges = edge_index.long()[:, order]
        shift = None if edge_shift is None else edge_shift[order]
        return cls._of_sorted(edges, num_nodes, order, _match_reverse(edges, num_nodes, shift) if pairs else None)

    @classmethod
    def from_sorted(cls, edge_index: Tensor, num_nodes: int, reverse: Tensor | None) -> EdgeSet:
        """Edges that were sorted and matched before, as those of a fixed set of graphs that batches are drawn from.

        The result is that of `from_edge_index`, in a fraction of the time.

        Args:
            edge_index: [2, E] int64, sorted by receiver; not checked.
            num_nodes: N.
            reverse: [E] place of each edge's reverse, for a self-loop its own; None if some edge has none.
        """
        return cls._of_sorted(
            edge_index, num_nodes, torch.arange(edge_index.shape[1], device=edge_index.device), reverse
        )

    @classmethod
    def _of_sorted(cls, edges: Tensor, num_nodes: int, order: Tensor, reverse: Tensor | None) -> EdgeSet:
        counts = torch.bincount(edges[1], minlength=num_nodes)
        rowptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        one_sided = cls(edges, num_nodes, order, rowptr, None, *_singletons(edges), edges, order, 0)
        return one_sided if reverse is None else one_sided._paired(reverse)

    @property
    def num_edges(self) -> int:
        """E."""
        return self.edge_index.shape[1]

    @property
    def num_pairs(self) -> int:
        """P: E on a one-sided graph, about half of it on a symmetric one."""
        return self.pair_index.shape[1]

    @property
    def is_symmetric(self) -> bool:
        """Whether every edge has its reverse."""
        return self.reverse is not None

    @cached_property
    def graph(self) -> tuple[Tensor, ...]:
        """What the operators read: senders and receivers [P] of the pairs and, on other devices than the CPU, the
        edges into and out of each node as `incidence` gives them."""
        ends = tuple(self.pair_index.contiguous())
        if self.pair_index.device.type == "cpu":
            return ends
        return (
            *ends,
            *incidence(ends, self.num_two_way, self.num_nodes),
            *incidence(ends[::-1], self.num_two_way, self.num_nodes),
        )

    def without_pairs(self) -> EdgeSet:
        """The same edges with a kernel for each, as grids that are not antipodal need."""
        if self.num_two_way == 0:
            return self
        pair, flip = _singletons(self.edge_index)
        return replace(self, pair=pair, flip=flip, pair_index=self.edge_index, pair_order=self.order, num_two_way=0)

    @cached_property
    def without_loops(self) -> tuple[EdgeSet, Tensor | None]:
        """The edges between different points (and to periodic images), and how many self-loops each point has, [N].

        Self-loops are found where pairs are stored; None where there are none, or edges stand alone.
        """
        if self.num_two_way == 0 or self.num_two_way == self.num_pairs:
            return self, None
        loops = self.pair_index[0, self.num_two_way :]
        between = replace(
            self,
            pair_index=self.pair_index[:, : self.num_two_way],
            pair_order=self.pair_order[: self.num_two_way],
            **self._only(self.pair < self.num_two_way),
        )
        return between, torch.bincount(loops, minlength=self.num_nodes)

    def _only(self, keep: Tensor) -> dict[str, Tensor]:
        """The fields that have a row for each edge, of some edges."""
        counts = torch.bincount(self.edge_index[1, keep], minlength=self.num_nodes)
        place = keep.cumsum(0) - 1
        return {
            "edge_index": self.edge_index[:, keep],
            "order": self.order[keep],
            "rowptr": torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            "reverse": place[self.reverse[keep]],
            "pair": self.pair[keep],
            "flip": self.flip[keep],
        }

    def to(self, device: torch.device | str) -> EdgeSet:
        """Copy to a device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return EdgeSet(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in values.items()})

    def _paired(self, reverse: Tensor) -> EdgeSet:
        """Number the pairs: those of two edges in the order of their representatives, then the self-loops."""
        index = torch.arange(self.num_edges, device=reverse.device)
        first = (self.edge_index[0] > self.edge_index[1]) | (
            (self.edge_index[0] == self.edge_index[1]) & (index < reverse)
        )
        representatives = torch.cat([first.nonzero()[:, 0], (reverse == index).nonzero()[:, 0]])
        num_two_way = int(first.sum())
        numbers = torch.arange(representatives.numel(), device=reverse.device)
        pair, flip = torch.empty_like(index), torch.zeros_like(index, dtype=torch.bool)
        pair[reverse[representatives]] = numbers
        pair[representatives] = numbers
        flip[reverse[representatives[:num_two_way]]] = True
        return replace(
            self,
            reverse=reverse,
            pair=pair,
            flip=flip,
            pair_index=self.edge_index[:, representatives],
            pair_order=self.order[representatives],
            num_two_way=num_two_way,
        )


def incidence(ends: tuple[Tensor, Tensor], num_two_way: int, num_nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """The edges into each node, both those that a pair stands for: what a kernel that owns a node sums over.

    Args:
        ends: senders and receivers [P]; exchange them for the edges out of each node.
        num_two_way: leading pairs that stand for two edges.
        num_nodes: N.

    Returns:
        CSR offsets [N + 1]; the neighbour at the other end [E]; and 2 * pair + flip [E], where flip says to read the
        pair's kernel at the opposite direction. Within a node in the order of the pairs.
    """
    sender, receiver = ends
    node = torch.cat([receiver, sender[:num_two_way]])
    neighbor = torch.cat([sender, receiver[:num_two_way]])
    pair = torch.arange(sender.shape[0], device=sender.device)
    slot = torch.cat([2 * pair, 2 * pair[:num_two_way] + 1])
    order = torch.argsort(node, stable=True)
    counts = torch.bincount(node, minlength=num_nodes)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), neighbor[order], slot[order]


def transpose(graph: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The tensors of `EdgeSet.graph` with every edge turned round."""
    sender, receiver, *rest = graph
    return (receiver, sender, *rest[3:], *rest[:3])


def check_edge_index(edge_index: Tensor, num_nodes: int) -> None:
    """Raise ValueError unless `edge_index` is an integer [2, E] tensor with entries in [0, N)."""
    if edge_index.dim() != 2 or edge_index.shape[0] != 2:
        raise ValueError(
            f"edge_index has shape {list(edge_index.shape)}; expected [2, E] (row 0 senders, row 1 receivers)."
        )
    if edge_index.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"edge_index has dtype {edge_index.dtype}; expected torch.int64: convert it with .long().")
    if edge_index.numel() and (int(edge_index.min()) < 0 or int(edge_index.max()) >= num_nodes):
        raise ValueError(
            f"edge_index holds values from {int(edge_index.min())} to {int(edge_index.max())}, out of range for "
            f"{num_nodes} points; expected 0 to {num_nodes - 1}. Was it made for another graph, or batched twice?"
        )


def _singletons(edge_index: Tensor) -> tuple[Tensor, Tensor]:
    """Pair and flip of edges that each stand alone."""
    pair = torch.arange(edge_index.shape[1], device=edge_index.device)
    return pair, torch.zeros_like(pair, dtype=torch.bool)


def _match_reverse(edge_index: Tensor, num_nodes: int, shift: Tensor | None) -> Tensor | None:
    """Index of each edge's reverse, or None when some edge has none.

    Both directions of a pair get the same key, and opposite signs. Equal keys (parallel edges) are matched in order.
    """
    sender, receiver = edge_index
    sign = (sender - receiver).sign()
    key = torch.minimum(sender, receiver) * num_nodes + torch.maximum(sender, receiver)
    if shift is not None:
        lattice = (shift.detach() / SHIFT_RESOLUTION).round().long()
        sign = torch.where(sign == 0, _lexicographic_sign(lattice), sign)
        rows = torch.cat([key[:, None], lattice * sign[:, None]], dim=1)
        key = torch.unique(rows, dim=0, return_inverse=True)[1]
    up, down = (sign > 0).nonzero()[:, 0], (sign < 0).nonzero()[:, 0]
    up, down = up[torch.argsort(key[up], stable=True)], down[torch.argsort(key[down], stable=True)]
    if not torch.equal(key[up], key[down]):
        return None
    reverse = torch.arange(edge_index.shape[1], device=edge_index.device)
    reverse[up], reverse[down] = down, up
    return reverse


def _lexicographic_sign(lattice: Tensor) -> Tensor:
    """[E, d] -> [E] sign of the first component that is not zero."""
    weights = 2 ** torch.arange(lattice.shape[1] - 1, -1, -1, device=lattice.device)
    return (lattice.sign() * weights).sum(1).sign()
