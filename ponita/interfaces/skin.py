"""Neighbour lists that stay valid while atoms move a little."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from ponita.geometry import EdgeSet, fully_connected, periodic_neighbors
from ponita.models import Potential

#: Atoms of a molecule or cluster from which a cell list is faster than all pairs.
MANY_ATOMS = 500


class NearGraph(NamedTuple):
    """What a potential reads of a structure.

    Attributes:
        pos: [N, 3] Å, float64, moved by whole cells to near the origin, where float32 resolves them.
        edges: pairs within the cut-off; an `EdgeSet`, or [2, E] for a network in cloud mode.
        offsets: [E, 3] cells of the images, or None for molecules.
    """

    pos: Tensor
    edges: EdgeSet | Tensor
    offsets: Tensor | None


class ListKind(NamedTuple):
    """What a list depends on, apart from the structure; potentials with equal kinds share one.

    Attributes:
        cutoff: Å; all pairs of a molecule where None.
        loops: whether it has the edges i->i.
        pairs: whether the network reads one kernel for both directions of a pair.
        plain: whether the network reads [2, E] instead of an `EdgeSet`.
    """

    cutoff: float | None
    loops: bool
    pairs: bool
    plain: bool

    @classmethod
    def of(cls, potential: Potential) -> ListKind:
        """The kind of list a potential reads."""
        network = potential.network
        plain = network.config["mode"] == "cloud"
        return cls(network.config["cutoff"], potential.self_loops, network.stores_pairs and not plain, plain)


class SkinList:
    """A list of all pairs within cutoff + skin, kept until a pair it lacks could be within the cut-off.

    The pairs within the cut-off itself are chosen anew each time, so what is returned is what a new search would find.
    With F the deformation of the cell since the list was made and u the largest displacement apart from it, a pair now
    within the cut-off was then within (cutoff + 2 u) / s, where s is the smallest singular value of F: the list is made
    again when that exceeds cutoff + skin. In a fixed cell that is when an atom has moved more than skin / 2.

    Args:
        kind: of list.
        skin: Å.
        device: where the graphs are wanted; lists are made on the CPU.

    Attributes:
        builds: how many times the list was made.
    """

    def __init__(self, kind: ListKind, skin: float = 0.3, device: torch.device | str = "cpu") -> None:
        if not 0 <= skin < float("inf"):
            raise ValueError(f"skin={skin}; expected a length in Å, zero or more.")
        self.kind, self.skin, self.device = kind, float(skin), torch.device(device)
        self.builds = 0
        self._made_for: tuple[Tensor, Tensor, Tensor] | None = None

    def graph(self, pos: Tensor, cell: Tensor, pbc: Tensor) -> NearGraph:
        """The pairs within the cut-off.

        Args:
            pos: [N, 3] Å, float64, on the CPU.
            cell: [3, 3] Å, float64, rows the cell vectors; those of directions that are not periodic are not read.
            pbc: [3] bool.

        Raises:
            ValueError: for positions that are not finite, a flat cell, or periodicity without a cut-off.
        """
        if not bool(torch.isfinite(pos).all()):
            atoms = (~torch.isfinite(pos)).any(1).nonzero()[:5, 0].tolist()
            raise ValueError(f"positions of atoms {atoms} are not finite; a smaller time step may help.")
        if self._is_stale(pos, cell, pbc):
            self._make(pos, cell, pbc)
            self._made_for = (pos.clone(), cell.clone(), pbc.clone())
            self.builds += 1
        near = (pos - self._home @ cell - self._origin).to(self.device)
        edges, offsets = self._within(near, cell.to(self.device))
        return NearGraph(near, edges.edge_index if self.kind.plain else edges, offsets if bool(pbc.any()) else None)

    def _is_stale(self, pos: Tensor, cell: Tensor, pbc: Tensor) -> bool:
        if self._made_for is None:
            return True
        old_pos, old_cell, old_pbc = self._made_for
        if pos.shape != old_pos.shape or not torch.equal(pbc, old_pbc):
            return True
        if self.kind.cutoff is None:
            return False
        deformation = _deformation(old_cell[pbc], cell[pbc])
        moved = float((pos - old_pos @ deformation).norm(dim=1).max())
        smallest = float(torch.linalg.svdvals(deformation)[-1])
        return not self.kind.cutoff + 2 * moved <= (self.kind.cutoff + self.skin) * smallest

    def _make(self, pos: Tensor, cell: Tensor, pbc: Tensor) -> None:
        self._home = torch.zeros_like(pos)
        self._home[:, pbc] = (pos @ torch.linalg.pinv(cell[pbc])).floor()
        near = pos - self._home @ cell
        self._origin = near.mean(0)
        edge_index, offsets = self._search(near, cell, pbc)
        # Sorted here, so that the order in the set is that of the offsets.
        order = torch.argsort(edge_index[1], stable=True)
        edge_index, offsets = edge_index[:, order], offsets[order]
        edges = EdgeSet.from_edge_index(edge_index, pos.shape[0], offsets.to(pos.dtype), pairs=self.kind.pairs)
        self._edges, self._offsets = edges.to(self.device), offsets.to(self.device)

    def _search(self, pos: Tensor, cell: Tensor, pbc: Tensor) -> tuple[Tensor, Tensor]:
        cutoff, loops, periodic = self.kind.cutoff, self.kind.loops, bool(pbc.any())
        if cutoff is None and periodic:
            raise ValueError(
                f"pbc={pbc.tolist()}, but the potential has no cutoff; train one with a cutoff, or set pbc=False."
            )
        if cutoff is None:
            edge_index = fully_connected(torch.zeros(pos.shape[0], dtype=torch.long), loops=loops)
            return edge_index, edge_index.new_zeros(edge_index.shape[1], 3)
        many = pos.shape[0] >= MANY_ATOMS and find_spec("vesin") is not None
        return periodic_neighbors(pos, cutoff + self.skin, cell, pbc, loops=loops, backend="vesin" if many else "auto")

    def _within(self, pos: Tensor, cell: Tensor) -> tuple[EdgeSet, Tensor]:
        edges, offsets = self._edges, self._offsets
        if self.kind.cutoff is None:
            return edges, offsets
        sender, receiver = edges.pair_index
        shift = offsets.index_select(0, edges.pair_order).to(pos.dtype) @ cell
        r = pos.index_select(0, sender) - pos.index_select(0, receiver) + shift
        keep = r.square().sum(1) < self.kind.cutoff**2
        if bool(keep.all()):
            return edges, offsets
        return of_pairs(edges, keep), offsets[keep[edges.pair]]


def of_pairs(edges: EdgeSet, keep: Tensor) -> EdgeSet:
    """The edges of some pairs, in their order; from then on that is also the order of whatever is given with them.

    Args:
        edges: made from edges that were sorted by receiver.
        keep: [P] bool.
    """
    kept = keep[edges.pair]
    pair, place = keep.cumsum(0) - 1, kept.cumsum(0) - 1
    edge_index = edges.edge_index[:, kept]
    counts = torch.bincount(edge_index[1], minlength=edges.num_nodes)
    return replace(
        edges,
        edge_index=edge_index,
        order=torch.arange(edge_index.shape[1], device=keep.device),
        rowptr=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        reverse=None if edges.reverse is None else place[edges.reverse[kept]],
        pair=pair[edges.pair[kept]],
        flip=edges.flip[kept],
        pair_index=edges.pair_index[:, keep],
        pair_order=place[edges.pair_order[keep]],
        num_two_way=int(keep[: edges.num_two_way].sum()),
    )


def _deformation(old: Tensor, new: Tensor) -> Tensor:
    """[3, 3] F with old F = new for the k cell vectors in rows, and F = 1 orthogonally to them."""
    inverse = torch.linalg.pinv(old)
    return torch.eye(3, dtype=old.dtype) + inverse @ (new - old)
