"""Grids of directions in the plane, and the rotations that permute them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ponita.geometry.grids import check_num_orientations


def circle_grid(num_orientations: int) -> Tensor:
    """The directions at the angles 2 pi o / O: the same numbers on every call.

    Each angle is reduced to the first quadrant by whole quarter turns, which are exact. So even sizes are closed under
    negation to the bit, in the order `grid[o + O // 2] == -grid[o]`, and multiples of 4 under quarter turns too.

    Args:
        num_orientations: number of directions O.

    Returns:
        Unit vectors `[O, 2]`, float64, on the CPU, starting with +x and going counter-clockwise.

    Raises:
        ValueError: if `num_orientations` is not an int of at least 1.
    """
    check_num_orientations(num_orientations, "any size will do in the plane; even ones share kernels between edges")
    rows = [_direction(o, num_orientations) for o in range(num_orientations)]
    return torch.tensor(rows, dtype=torch.float64, device="cpu")


def circle_symmetry(num_orientations: int) -> Tensor:
    """The rotations by 2 pi o / O, which permute `circle_grid(num_orientations)`: o turns direction p to o + p.

    Args:
        num_orientations: number of directions O of the grid.

    Returns:
        Rotation matrices `[O, 2, 2]`, float64, the identity first.

    Raises:
        ValueError: if `num_orientations` is not an int of at least 1.
    """
    cosine, sine = circle_grid(num_orientations).unbind(-1)
    return torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], dim=-2)


def _direction(o: int, num_orientations: int) -> tuple[float, float]:
    quarter_turns, remainder = divmod(4 * o, num_orientations)
    angle = 0.5 * math.pi * remainder / num_orientations
    x, y = math.cos(angle), math.sin(angle)
    # 0.0 - y is a zero without a sign where y is one.
    return ((x, y), (0.0 - y, x), (0.0 - x, 0.0 - y), (y, 0.0 - x))[quarter_turns]
