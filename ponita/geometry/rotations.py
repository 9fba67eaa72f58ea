"""Random rotations and their action on what a graph carries."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: sqrt(2), and the positive root of x^4 = x + 4, by which the two angles of the spiral advance.
SPIRAL_STEPS = (math.sqrt(2), 1.533751168755204288118041)


def random_rotations(
    count: int, *, dim: int = 3, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Rotations drawn uniformly from SO(d).

    The orthogonal factor of a Gaussian matrix, with the signs of its triangular factor made positive, is uniform on
    O(d) (Mezzadri 2007); the last column is turned round where the determinant is negative.

    Args:
        count: number of rotations.
        dim: d.
        generator: source of randomness, on the CPU; the global one where None.

    Shape:
        [count, d, d]
    """
    gaussian = torch.randn(count, dim, dim, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]
    last = q[..., -1:] * torch.linalg.det(q)[:, None, None]
    return torch.cat([q[..., :-1], last], dim=-1).to(dtype)


def spiral_rotations(count: int) -> Tensor:
    """Rotations spread evenly over SO(3), the same on every call: a spiral of unit quaternions (Alexa 2022, super-Fibonacci).

    Args:
        count: number of rotations.

    Shape:
        [count, 3, 3], float64, on the CPU
    """
    turns = torch.arange(count, dtype=torch.float64, device="cpu") + 0.5
    share = turns / count
    near, far = share.sqrt(), (1 - share).sqrt()
    alpha, beta = (2 * math.pi * turns / step for step in SPIRAL_STEPS)
    a, b, c, w = near * alpha.sin(), near * alpha.cos(), far * beta.sin(), far * beta.cos()
    rows = (
        (1 - 2 * (b * b + c * c), 2 * (a * b - c * w), 2 * (a * c + b * w)),
        (2 * (a * b + c * w), 1 - 2 * (a * a + c * c), 2 * (b * c - a * w)),
        (2 * (a * c - b * w), 2 * (b * c + a * w), 1 - 2 * (a * a + b * b)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def rotate(vectors: Tensor, rotations: Tensor, batch: Tensor | None = None) -> Tensor:
    """Apply one rotation, or one for each graph, to row vectors.

    Args:
        vectors: [N, d] or [N, C, d].
        rotations: [d, d], or [G, d, d] together with `batch`.
        batch: [N] graph of each point.

    Shape:
        as `vectors`.
    """
    if rotations.dim() == 2:
        return vectors @ rotations.T
    per_point = rotations.mT[batch]
    return torch.matmul(vectors, per_point) if vectors.dim() == 3 else torch.bmm(vectors[:, None], per_point)[:, 0]
