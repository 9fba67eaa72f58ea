"""Points and graphs to measure on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ponita.data.rmd17 import load_rmd17

ASPIRIN = (6, 6, 6, 6, 6, 6, 6, 8, 8, 8, 6, 6, 8, 1, 1, 1, 1, 1, 1, 1, 1)  # atomic numbers in the order of rMD17
ELEMENTS = (1, 6, 8)
WATER_SPACING = 3.105  # Å between molecules at 1 g/cm³
COPPER_CELL = 3.615  # Å
CELLS_FROM = 2000  # points from which neighbours are searched in cells
BOND, ANGLE = 0.9572, math.radians(104.52)


def molecule(name: str, num_frames: int, root: str | Path, generator: torch.Generator) -> tuple[Tensor, Tensor, str]:
    """Frames of a molecule of rMD17, or random points in their place.

    Args:
        name: of the molecule.
        num_frames: G.
        root: folder of rMD17, as `ponita.data.rmd17.load_rmd17` takes it.
        generator: of the random points, as many as aspirin has atoms.

    Returns:
        positions [G, n, 3] in Å, atomic numbers [n], and what they are.
    """
    try:
        frames = load_rmd17(root, name, download=False)
    except FileNotFoundError:
        pos = torch.stack([jittered_lattice((3, 3, 3), 1.6, generator)[:21] for _ in range(num_frames)])
        return pos, torch.tensor(ASPIRIN), "random points, as many as aspirin has atoms"
    chosen = np.linspace(0, len(frames.positions) - 1, num_frames).astype(int)
    return torch.from_numpy(frames.positions[chosen]), torch.from_numpy(frames.numbers), f"rMD17 {name}"


def water_box(per_side: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Rigid molecules with random directions on a jittered cubic lattice, at the density of water.

    Args:
        per_side: molecules along an edge of the box.
        generator: of the directions.

    Returns:
        positions [3 per_side^3, 3] in Å, atomic numbers, and the sides of the periodic box [3] in Å.
    """
    oxygen = jittered_lattice((per_side,) * 3, WATER_SPACING, generator, jitter=0.1)
    first, other = torch.randn(2, oxygen.shape[0], 3, generator=generator, dtype=torch.float64).unbind(0)
    first = torch.nn.functional.normalize(first, dim=1)
    other = torch.nn.functional.normalize(other - (other * first).sum(1, keepdim=True) * first, dim=1)
    second = math.cos(ANGLE) * first + math.sin(ANGLE) * other
    pos = torch.stack([oxygen, oxygen + BOND * first, oxygen + BOND * second], dim=1).flatten(0, 1)
    box = torch.full((3,), per_side * WATER_SPACING, dtype=torch.float64)
    return pos, torch.tensor([8, 1, 1]).repeat(oxygen.shape[0]), box


def jittered_lattice(
    shape: tuple[int, int, int], spacing: float, generator: torch.Generator, jitter: float = 0.25
) -> Tensor:
    """[N, 3] nodes of a cubic lattice, each moved by up to `jitter` spacings along every axis."""
    nodes = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in shape))
    return spacing * (nodes + jitter * (2 * torch.rand(nodes.shape, generator=generator, dtype=torch.float64) - 1))


def copper(cells: tuple[int, int, int], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A face-centred cubic crystal with atoms off their places by 0.05 Å along every axis.

    Args:
        cells: cubes of four atoms along every axis.
        generator: of the displacements.

    Returns:
        positions [4 cells, 3] in Å, atomic numbers, and the sides of the periodic box [3] in Å.
    """
    corners = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in cells))
    faces = torch.tensor([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]], dtype=torch.float64)
    pos = COPPER_CELL * (corners[:, None] + faces).flatten(0, 1)
    pos = pos + 0.05 * torch.randn(pos.shape, generator=generator, dtype=torch.float64)
    return pos, torch.full((pos.shape[0],), 29), COPPER_CELL * torch.tensor(cells, dtype=torch.float64)


def periodic_graph(pos: Tensor, box: Tensor, cutoff: float, loops: bool = False) -> tuple[Tensor, Tensor]:
    """All pairs, images of the same point among them, closer than a cut-off.

    Args:
        pos: [N, 3].
        box: [3] sides of the orthogonal periodic box.
        cutoff: length.
        loops: include the edges i->i without a shift.

    Returns:
        edge_index [2, E], and edge_shift [E, 3] added to pos[j] - pos[i]; sorted by receiver.
    """
    large = pos.shape[0] > CELLS_FROM and float(box.min()) >= 3 * cutoff
    candidates = _cell_pairs(pos, box, cutoff) if large else _image_pairs(pos, box, cutoff)
    edges, shifts = [], []
    for sender, receiver, image in candidates:
        r = pos[sender] - pos[receiver]
        shift = box * (image - (r / box).round())
        near = ((r + shift).square().sum(-1) < cutoff**2) & (loops | (sender != receiver) | shift.any(-1))
        edges.append(torch.stack([sender[near], receiver[near]]))
        shifts.append(shift[near])
    edge_index, edge_shift = torch.cat(edges, dim=1), torch.cat(shifts)
    order = torch.argsort(edge_index[1], stable=True)
    return edge_index[:, order], edge_shift[order]


def _image_pairs(pos: Tensor, box: Tensor, cutoff: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """All pairs, with every image beyond the nearest that may be in reach (a shift in boxes)."""
    reach = (cutoff / box + 0.5).floor().tolist()
    images = torch.cartesian_prod(*(torch.arange(-n, n + 1, dtype=pos.dtype) for n in reach))
    everyone = torch.arange(pos.shape[0])
    for some in everyone.split(256):
        sender, receiver = torch.cartesian_prod(everyone, some).T
        for image in images:
            yield sender, receiver, image


def _cell_pairs(pos: Tensor, box: Tensor, cutoff: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pairs of points in the same or touching cells, which are as wide as the cut-off, three or more along a side."""
    counts = (box / cutoff).floor().long()
    cell = ((pos / box).remainder(1.0) * counts).long().clamp_(max=counts - 1)
    strides = torch.stack([counts[1] * counts[2], counts[2], counts.new_tensor(1)])
    number = (cell * strides).sum(1)
    members = torch.argsort(number, stable=True)
    size = torch.bincount(number, minlength=int(counts.prod()))
    start = size.cumsum(0) - size
    for step in torch.cartesian_prod(*[torch.arange(-1, 2)] * 3):
        other = ((cell + step).remainder(counts) * strides).sum(1)
        receiver = torch.repeat_interleave(size[other])
        first = size[other].cumsum(0) - size[other]
        place = torch.arange(receiver.numel()) - first[receiver]
        yield members[start[other][receiver] + place], receiver, pos.new_zeros(3)


def one_hot(numbers: Tensor, elements: Sequence[int] = ELEMENTS) -> Tensor:
    """[N] atomic numbers -> [N, elements]."""
    return (numbers[:, None] == torch.tensor(elements)).to(torch.get_default_dtype())
