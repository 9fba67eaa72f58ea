"""Neighbour lists with periodic images.

A neighbour list holds who is near whom and in which cell, never a distance: displacements are computed again from
positions and cell, so that forces and stresses are derivatives of what is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from ponita.geometry.neighbors import radius_graph

#: Cells whose height is less than this (length units of the positions) along a periodic direction are refused.
MIN_HEIGHT = 1e-3


class NeighborList(NamedTuple):
    """Directed edges of periodic structures; symmetric, since both directions of a pair are within the cut-off.

    Attributes:
        edge_index: [2, E], row 0 the senders j, row 1 the receivers i.
        offsets: [E, 3] int64, the cell that the sender's image is in: r = pos[j] + offsets cell - pos[i].
    """

    edge_index: Tensor
    offsets: Tensor


def periodic_neighbors(
    pos: Tensor, cutoff: float, cell: Tensor, pbc: Tensor, *, loops: bool = False, backend: str = "auto"
) -> NeighborList:
    """All pairs of atoms and images of one structure that are closer than a cut-off, several images of a pair included.

    The cell may be triclinic, and smaller than the cut-off.

    Args:
        pos: [N, 3], inside the cell or not.
        cutoff: length, in the units of `pos`.
        cell: [3, 3] rows are the cell vectors; those of directions that are not periodic are not read.
        pbc: [3] bool, which directions are periodic.
        loops: include the edges i->i at distance zero.
        backend: "vesin"; "brute force", in plain torch, for small structures and GPUs; "nvalchemi", on a GPU; "auto":
            brute force where nothing is periodic or the positions are on a GPU without nvalchemi, else vesin, if installed.

    Raises:
        ValueError: for a cut-off that is not positive, a flat cell, or an unknown or missing backend.
    """
    if not 0 < cutoff < float("inf"):
        raise ValueError(f"cutoff={cutoff}; expected a positive, finite length.")
    pbc = torch.as_tensor(pbc, dtype=torch.bool, device="cpu").expand(3)
    pos, cell = pos.detach(), _completed(cell.detach().to(pos), pbc)
    found = BACKENDS[_resolve(backend, pos, pbc)](pos, float(cutoff), cell, pbc)
    if not loops:
        return found
    nodes = torch.arange(pos.shape[0], device=pos.device)
    return NeighborList(
        torch.cat([found.edge_index, torch.stack([nodes, nodes])], dim=1),
        torch.cat([found.offsets, found.offsets.new_zeros(pos.shape[0], 3)]),
    )


def batched_neighbors(
    pos: Tensor,
    cutoff: float,
    cell: Tensor | None,
    pbc: Tensor | None,
    batch: Tensor | None = None,
    *,
    loops: bool = False,
    backend: str = "auto",
) -> NeighborList:
    """Neighbour lists of the structures of a batch, joined.

    Args:
        pos: [N, 3].
        cutoff: length, in the units of `pos`.
        cell: [G, 3, 3], or None where nothing is periodic.
        pbc: [G, 3] bool; all directions of the cells given where None.
        batch: [N] structure of each atom, sorted; one structure where None.
        loops: include the edges i->i.
        backend: as in `periodic_neighbors`.
    """
    if cell is None:
        edge_index = radius_graph(pos.detach(), cutoff, batch, loops=loops)
        return NeighborList(edge_index, edge_index.new_zeros(edge_index.shape[1], 3))
    pbc = torch.ones(cell.shape[0], 3, dtype=torch.bool) if pbc is None else pbc.cpu()
    counts = [pos.shape[0]] if batch is None else torch.bincount(batch, minlength=cell.shape[0]).tolist()
    if len(counts) != cell.shape[0]:
        raise ValueError(f"cell has {cell.shape[0]} structures; expected {len(counts)}, those of the batch.")
    parts, start = [], 0
    for positions, vectors, periodic in zip(pos.split(counts), cell, pbc, strict=True):
        edges, offsets = periodic_neighbors(positions, cutoff, vectors, periodic, loops=loops, backend=backend)
        parts.append((edges + start, offsets))
        start += positions.shape[0]
    return NeighborList(torch.cat([e for e, _ in parts], dim=1), torch.cat([o for _, o in parts]))


def image_shifts(offsets: Tensor, cell: Tensor, graph: Tensor) -> Tensor:
    """[E, 3] displacement of each edge's image, differentiable in the cells.

    Args:
        offsets: [E, 3] of a neighbour list.
        cell: [G, 3, 3].
        graph: [E] structure of each edge.
    """
    return torch.bmm(offsets.to(cell)[:, None], cell.index_select(0, graph))[:, 0]


def brute_force(pos: Tensor, cutoff: float, cell: Tensor, pbc: Tensor) -> NeighborList:
    """Every atom against every image that can be in reach. O(N^2 images) memory."""
    inverse = torch.linalg.inv(cell.double())
    fractional = pos.double() @ inverse
    home = torch.where(pbc.to(pos.device), fractional.floor(), 0.0)  # cell each atom is in
    inside = (fractional - home) @ cell.double()
    # Heights of the cell tell how many images along each vector can be nearer than the cut-off.
    reach = torch.where(pbc.to(pos.device), (cutoff * inverse.norm(dim=0)).ceil(), 0.0).long().tolist()
    images = torch.cartesian_prod(*(torch.arange(-n, n + 1, device=pos.device) for n in reach)).view(-1, 3)
    shifted = inside[None] + (images.double() @ cell.double())[:, None]
    distance = torch.cdist(
        inside[None].expand(len(images), -1, -1), shifted, compute_mode="donot_use_mm_for_euclid_dist"
    )
    is_self = torch.eye(pos.shape[0], dtype=torch.bool, device=pos.device) & (images == 0).all(1)[:, None, None]
    image, receiver, sender = ((distance < cutoff) & ~is_self).nonzero(as_tuple=True)
    offsets = images[image] + (home[receiver] - home[sender]).long()
    order = torch.argsort(receiver, stable=True)
    return NeighborList(torch.stack([sender, receiver])[:, order], offsets[order])


def _vesin(pos: Tensor, cutoff: float, cell: Tensor, pbc: Tensor) -> NeighborList:
    from vesin import NeighborList as Finder

    finder = Finder(cutoff=cutoff, full_list=True, sorted=True, n_threads=1)
    arrays = finder.compute(
        points=pos.double().cpu().numpy(), box=cell.double().cpu().numpy(), periodic=pbc.tolist(), quantities="ijS"
    )
    receiver, sender, offsets = (torch.from_numpy(a.astype("int64")).to(pos.device) for a in arrays)
    return NeighborList(torch.stack([sender, receiver]), offsets.view(-1, 3))


def _nvalchemi(pos: Tensor, cutoff: float, cell: Tensor, pbc: Tensor) -> NeighborList:
    from nvalchemiops.torch.neighbors import neighbor_list

    pairs, _, offsets = neighbor_list(
        pos, cutoff, cell=cell[None], pbc=pbc[None].to(pos.device), return_neighbor_list=True
    )
    receiver, sender = pairs.long()
    return NeighborList(torch.stack([sender, receiver]), offsets.long())


BACKENDS: dict[str, Callable[[Tensor, float, Tensor, Tensor], NeighborList]] = {
    "vesin": _vesin,
    "brute force": brute_force,
    "nvalchemi": _nvalchemi,
}
PACKAGES = {"vesin": "vesin", "nvalchemi": "nvalchemiops"}


def _resolve(backend: str, pos: Tensor, pbc: Tensor) -> str:
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend={backend!r}; expected 'auto' or one of {list(BACKENDS)}.")
    if backend in PACKAGES and find_spec(PACKAGES[backend]) is None:
        pip = {"vesin": "vesin", "nvalchemi": "nvalchemi-toolkit-ops"}[backend]
        raise ValueError(f"backend={backend!r} is not installed: pip install {pip}")
    if backend != "auto":
        return backend
    if pos.device.type == "cuda":
        return "nvalchemi" if find_spec(PACKAGES["nvalchemi"]) else "brute force"
    return "vesin" if bool(pbc.any()) and find_spec("vesin") else "brute force"


def _completed(cell: Tensor, pbc: Tensor) -> Tensor:
    """The cell with unit vectors, orthogonal to all others, in the directions that are not periodic."""
    if cell.shape != (3, 3):
        raise ValueError(f"cell has shape {list(cell.shape)}; expected [3, 3], rows the cell vectors.")
    periodic, free = cell[pbc.to(cell.device)], (~pbc).nonzero()[:, 0]
    singular, right = torch.linalg.svd(periodic.double(), full_matrices=True)[1:]
    if singular.numel() and float(singular.min()) < MIN_HEIGHT:
        raise ValueError(
            f"the cell {cell.tolist()} is flat along a periodic direction (volume {float(cell.det().abs()):.3g}); "
            "expected independent cell vectors: set pbc=False where there is no periodicity, or give the cell."
        )
    completed = cell.double().clone()
    completed[free.to(cell.device)] = right[len(periodic) :]
    return completed.to(cell)
