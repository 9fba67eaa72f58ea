"""Points and graphs to measure on."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ponita.data.rmd17 import load_rmd17

ASPIRIN = (6, 6, 6, 6, 6, 6, 6, 8, 8, 8, 6, 6, 8, 1, 1, 1, 1, 1, 1, 1, 1)  # atomic numbers in the order of rMD17
ELEMENTS = (1, 6, 8)
WATER_SPACING = 3.105  # Å between molecules at 1 g/cm³
BOND, ANGLE = 0.9572, math.radians(104.52)


def aspirin(num_molecules: int, root: str | Path, generator: torch.Generator) -> tuple[Tensor, Tensor, str]:
    """Frames of rMD17, or random points in their place.

    Args:
        num_molecules: G.
        root: folder of rMD17, as `ponita.data.rmd17.load_rmd17` takes it.
        generator: of the random points.

    Returns:
        positions [21 G, 3] in Å, atomic numbers [21 G], and what they are.
    """
    try:
        frames = load_rmd17(root, "aspirin", download=False)
    except FileNotFoundError:
        pos = torch.cat([jittered_lattice((3, 3, 3), 1.6, generator)[:21] for _ in range(num_molecules)])
        return pos, torch.tensor(ASPIRIN).repeat(num_molecules), "random points, as many as aspirin has atoms"
    chosen = np.linspace(0, len(frames.positions) - 1, num_molecules).astype(int)
    pos = torch.from_numpy(frames.positions[chosen]).flatten(0, 1)
    return pos, torch.from_numpy(frames.numbers).repeat(num_molecules), "rMD17 aspirin"


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


def periodic_graph(pos: Tensor, box: Tensor, cutoff: float, loops: bool = False) -> tuple[Tensor, Tensor]:
    """All pairs with their nearest images closer than a cut-off, by brute force.

    Args:
        pos: [N, 3].
        box: [3] sides of the orthogonal periodic box.
        cutoff: length.
        loops: include the edges i->i.

    Returns:
        edge_index [2, E], and edge_shift [E, 3] added to pos[j] - pos[i].

    Raises:
        ValueError: if the box is narrower than twice the cut-off, where a pair has several images in reach.
    """
    if float(box.min()) < 2 * cutoff:
        raise ValueError(f"box={box.tolist()}, cutoff={cutoff}; expected sides of at least twice the cut-off.")
    edges, shifts = [], []
    for start in range(0, pos.shape[0], 256):
        r = pos[None, :, :] - pos[start : start + 256, None, :]
        shift = -box * (r / box).round()
        near = (r + shift).square().sum(-1) < cutoff**2
        receiver, sender = near.nonzero().T
        edges.append(torch.stack([sender, receiver + start]))
        shifts.append(shift[near])
    edge_index, edge_shift = torch.cat(edges, dim=1), torch.cat(shifts)
    keep = torch.ones_like(edge_index[0], dtype=torch.bool) if loops else edge_index[0] != edge_index[1]
    return edge_index[:, keep], edge_shift[keep]


def one_hot(numbers: Tensor) -> Tensor:
    """[N] atomic numbers -> [N, 3] of `ELEMENTS`."""
    return (numbers[:, None] == torch.tensor(ELEMENTS)).to(torch.get_default_dtype())
