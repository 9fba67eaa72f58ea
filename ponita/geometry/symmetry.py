"""Rotation groups of the Platonic solids, and the rotations that permute an orientation grid."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ponita.geometry.grids import GOLDEN, check_num_orientations

Matrix = tuple[tuple[float, float, float], ...]

IDENTITY: Matrix = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
THIRD_TURN: Matrix = ((0, 0, 1), (1, 0, 0), (0, 1, 0))
"""x -> y -> z -> x, about (1, 1, 1)."""
HALF_TURN: Matrix = ((-1, 0, 0), (0, -1, 0), (0, 0, 1))
"""About z."""
QUARTER_TURN: Matrix = ((0, -1, 0), (1, 0, 0), (0, 0, 1))
"""About z."""
FIFTH_TURN: Matrix = (
    (0.5 / GOLDEN, -0.5 * GOLDEN, 0.5),
    (0.5 * GOLDEN, 0.5, 0.5 / GOLDEN),
    (-0.5, 0.5 / GOLDEN, 0.5 * GOLDEN),
)
"""About (0, 1, golden ratio), a vertex of the icosahedron."""

GENERATORS: dict[str, tuple[Matrix, ...]] = {
    "tetrahedral": (THIRD_TURN, HALF_TURN),
    "octahedral": (THIRD_TURN, QUARTER_TURN),
    "icosahedral": (THIRD_TURN, FIFTH_TURN),
}
ENTRIES = (0.0, 0.5 / GOLDEN, 0.5, 0.5 * GOLDEN, 1.0)
"""Every entry of every matrix of the three groups is one of these, up to sign."""

GRID_GROUPS = {4: "tetrahedral", 6: "octahedral", 8: "octahedral"} | dict.fromkeys((12, 20, 30, 32, 42), "icosahedral")


def rotation_group(name: str) -> Tensor:
    """The proper rotations of a Platonic solid, with the axes of `ponita.geometry.grids.sphere_grid`.

    The group is generated from the turn by a third about (1, 1, 1) and one more turn (a half or a quarter about z, a
    fifth about a vertex of the icosahedron). After every product the entries are set to the exact values they can
    take, so no rounding builds up. The tetrahedral group is contained in the other two.

    Args:
        name: "tetrahedral" (12 rotations), "octahedral" (24) or "icosahedral" (60).

    Returns:
        Rotation matrices `[G, 3, 3]`, float64, on the CPU, the identity first, always in the same order.

    Raises:
        ValueError: if the name is none of the three.
    """
    if name not in GENERATORS:
        raise ValueError(f"unknown rotation group {name!r}, expected one of {', '.join(GENERATORS)}")
    return _closure(name).clone()


def grid_symmetry(num_orientations: int) -> Tensor:
    """The rotations known to permute `sphere_grid(num_orientations)`; a network on that grid is exact under these.

    Args:
        num_orientations: number of directions O of the grid.

    Returns:
        Rotation matrices `[G, 3, 3]`, float64, the identity first: the 60 icosahedral ones for 12, 20, 30, 32 and 42,
        the 24 octahedral ones for 6 and 8, the 12 tetrahedral ones for 4, and the identity alone for all other sizes.

    Raises:
        ValueError: if `num_orientations` is not an int of at least 1.
    """
    check_num_orientations(num_orientations)
    if num_orientations in GRID_GROUPS:
        return rotation_group(GRID_GROUPS[num_orientations])
    return _matrix(IDENTITY)[None]


@lru_cache(maxsize=len(GENERATORS))
def _closure(name: str) -> Tensor:
    """Multiplies by the generators, breadth first, until nothing new appears."""
    generators = [_matrix(generator) for generator in GENERATORS[name]]
    group = [_matrix(IDENTITY)]
    seen = {_key(group[0])}
    for element in group:
        for generator in generators:
            product = _snap(generator @ element)
            if _key(product) not in seen:
                seen.add(_key(product))
                group.append(product)
    return torch.stack(group)


def _matrix(rows: Matrix) -> Tensor:
    # The device is named so that the cache never holds tensors of an enclosing `with torch.device(...)`.
    return torch.tensor(rows, dtype=torch.float64, device="cpu")


def _snap(matrix: Tensor) -> Tensor:
    """Replaces every entry by the nearest value that an exact product could have."""
    entries = torch.tensor(ENTRIES, dtype=torch.float64, device="cpu")
    nearest = entries[(matrix.abs()[..., None] - entries).abs().argmin(dim=-1)]
    return torch.where(nearest == 0, nearest, nearest.copysign(matrix))


def _key(matrix: Tensor) -> tuple[float, ...]:
    return tuple(matrix.flatten().tolist())
