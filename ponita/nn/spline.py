"""Kernels on a lattice: the basis functions are evaluated at its nodes and interpolated by a C2 bicubic spline.

A spatial kernel depends on (o.r, |r_perp|) alone, so a few thousand nodes serve any number of pairs. The interpolant is
the model: gradients reach the basis network through the nodes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ponita.nn.precision import KeepsFloat64
from ponita.ops import spline_taps


class SplineBasis(NamedTuple):
    """Basis functions of all pairs as a spline; what layers project instead of [P, O, B] samples.

    Attributes:
        coefficients: [K, B] spline coefficients on the padded lattice.
        weights: [P, O, 16] of the coefficients around each sample, times the window.
        corner: [P, O] int32, first of those coefficients.
        stride: coefficients in a row of the lattice.
    """

    coefficients: Tensor
    weights: Tensor
    corner: Tensor
    stride: int


class KernelLattice(KeepsFloat64):
    """A rectangle of two invariants as P x Q nodes.

    Args:
        nodes: (P, Q), at least 4 each.
        radius: length (units of the positions) of the farthest pair; the first invariant is in [-radius, radius].
        across: least and greatest value of the second invariant.

    Raises:
        ValueError: for fewer nodes, or a radius that is not positive and finite.
    """

    float64_buffers = ("points", "origin", "per_length", "filter_along", "filter_across")

    def __init__(self, nodes: tuple[int, int], radius: float, across: tuple[float, float]) -> None:
        super().__init__()
        if len(nodes) != 2 or min(nodes) < 4:
            raise ValueError(f"lattice={tuple(nodes)}; expected two numbers of nodes, at least 4 each.")
        if not 0 < radius < float("inf"):
            raise ValueError(f"radius={radius}; expected a positive, finite length.")
        self.nodes, self.radius = tuple(nodes), float(radius)
        p, q = self.nodes
        along = torch.linspace(-radius, radius, p, dtype=torch.float64)
        over = torch.linspace(*across, q, dtype=torch.float64)
        buffers = {
            "points": torch.cartesian_prod(along, over),
            "origin": torch.stack([along[0], over[0]]),
            "per_length": torch.stack([1 / (along[1] - along[0]), 1 / (over[1] - over[0])]),
            "filter_along": interpolation_matrix(p),
            "filter_across": interpolation_matrix(q),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    @property
    def stride(self) -> int:
        """Coefficients in a row: one more than nodes on either side."""
        return self.nodes[1] + 2

    def coefficients(self, basis: nn.Module) -> Tensor:
        """Spline coefficients [K, B] that interpolate basis functions at the nodes.

        Args:
            basis: maps invariants [..., 2] to [..., B].
        """
        p, q = self.nodes
        dtype = next(basis.parameters()).dtype
        values = basis(self.points.to(dtype)).view(p, q, -1)
        along = torch.einsum("ap,pqb->aqb", self.filter_along.to(dtype), values)
        return torch.einsum("cq,aqb->acb", self.filter_across.to(dtype), along).flatten(0, 1)

    def taps(self, invariants: Tensor, window: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weights [P, O, 16] and corners [P, O] of samples; beyond the lattice the nearest point of it counts.

        Args:
            invariants: [P, O, 2].
            window: [P], factor of each pair, or None.
        """
        origin, per_length = self.origin.to(invariants), self.per_length.to(invariants)
        weights, corner = spline_taps((invariants - origin) * per_length, self.nodes)
        return (weights if window is None else weights * window[:, None, None]), corner


def interpolation_matrix(num_nodes: int) -> Tensor:
    """[n + 2, n] from values at n nodes to the cubic B-spline coefficients that interpolate them.

    At node k the spline is (c[k] + 4 c[k+1] + c[k+2]) / 6. The two conditions that are missing are that the third
    derivative does not jump at the second and at the last but one node ("not a knot").
    """
    n = num_nodes
    system = torch.zeros(n + 2, n + 2, dtype=torch.float64)
    for k in range(n):
        system[k, k : k + 3] = torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64) / 6
    jump = torch.tensor([1.0, -4.0, 6.0, -4.0, 1.0], dtype=torch.float64)
    system[n, :5], system[n + 1, -5:] = jump, jump
    return torch.linalg.inv(system)[:, :n].contiguous()
