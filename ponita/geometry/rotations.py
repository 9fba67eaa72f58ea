"""Random rotations and their action on what a graph carries."""

from __future__ import annotations

import torch
from torch import Tensor


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
