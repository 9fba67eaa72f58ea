"""Invariants of a pair of points: what the pair looks like from inside, whatever the frame (PONITA, theorem 1).

With r = p_j - p_i pointing from the receiver i to the sender j, and both points at the same direction o, the group
that fixes (p_i, o) turns r about o, so the orbit of the pair is labelled by the part of r along o and the length
of the part across it. Two directions at one point are labelled by their inner product.
"""

from __future__ import annotations

import torch
from torch import Tensor


def safe_norm(vector: Tensor, smoothing: float = 0.0) -> Tensor:
    """Length over the last axis, with derivatives of every order finite at zero.

    Args:
        vector: [..., d].
        smoothing: length s in sqrt(|v|^2 + s^2), which is smooth everywhere. With s = 0 the length is exact and its
            derivative at v = 0 is taken as zero.

    Shape:
        [..., d] -> [...]
    """
    squared = vector.square().sum(-1)
    if smoothing > 0:
        return (squared + smoothing**2).sqrt()
    # The square root must not see the zero, else its infinite slope turns 0 * inf into NaN in the second derivative.
    is_zero = squared == 0
    return torch.where(is_zero, 0.0, torch.where(is_zero, 1.0, squared).sqrt())


def distance_invariants(r: Tensor, smoothing: float = 0.0) -> Tensor:
    """The one invariant of R^d: the distance.

    Shape:
        r [E, d] -> [E, 1, 1], laid out as for one orientation.
    """
    return safe_norm(r, smoothing)[:, None, None]


def bundle_invariants(r: Tensor, grid: Tensor, smoothing: float = 0.0) -> Tensor:
    """The invariants (o.r, |r - (o.r)o|) of R^d x S^(d-1) for every direction o of a grid.

    Both keep their value under (r, o) -> (-r, -o): on an antipodal grid the reverse edge sees the same numbers at the
    opposite direction.

    Args:
        r: [E, d] from receiver to sender.
        grid: [O, d] unit vectors.
        smoothing: rounds the kink of the second invariant where r is parallel to o, over this length (units of r).

    Shape:
        [E, O, 2]
    """
    along = r @ grid.T
    across = r[:, None, :] - along[..., None] * grid
    return torch.stack([along, safe_norm(across, smoothing)], dim=-1)


def orientation_invariants(grid: Tensor) -> Tensor:
    """The invariant o.o' of two directions at one point.

    Shape:
        grid [O, d] -> [O, O, 1]
    """
    return (grid @ grid.T)[..., None]
