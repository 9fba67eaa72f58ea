"""Equivariant convolutions: kernels that depend on the pair's invariants alone, depthwise over channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ponita.geometry.edges import EdgeSet
from ponita.nn.memo import Memo
from ponita.nn.spline import SplineBasis
from ponita.ops import backends, orientation_conv, pair_conv, tap_conv


class PointCloudConv(nn.Module):
    """Convolution over positions: y[i,o] = sum_j k(pair ij, o) * x[j,o] + bias, with k = W basis.

    On R^d there is one orientation and the basis depends on the distance; in position-orientation space every point
    has its own direction.

    Args:
        channels: C.
        basis_channels: B.
        backend: backend of the operators.

    Shape:
        x [N, O, C], basis [P, O, B] or a `SplineBasis` -> [N, O, C]
    """

    def __init__(self, channels: int, basis_channels: int, backend: str = "auto") -> None:
        super().__init__()
        self.backend = backends.check(backend)
        self.kernel = nn.Linear(basis_channels, channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(channels))
        self._memo = Memo()

    def forward(self, x: Tensor, basis: Tensor | SplineBasis, edges: EdgeSet) -> Tensor:
        return self.spatial(x, basis, edges) + self.bias

    def spatial(self, x: Tensor, basis: Tensor | SplineBasis, edges: EdgeSet) -> Tensor:
        """The sum over neighbours: [N, O, C]."""
        if isinstance(basis, SplineBasis):
            coefficients, weights, corner, stride = basis
            table = self._memo(lambda: self.kernel(coefficients), self.kernel.weight, coefficients)
            return tap_conv(x, weights, table, corner, stride, edges, self.backend)
        return pair_conv(x, self.kernel(basis), edges, self.backend)

    @torch.no_grad()
    def calibrate(self, x: Tensor, basis: Tensor | SplineBasis, edges: EdgeSet) -> dict[str, float]:
        """Rescale the kernel so that, on this input, the sum over neighbours keeps the standard deviation."""
        return {"kernel": _rescale(self.kernel.weight, x, self.spatial(x, basis, edges))}


class FiberBundleConv(PointCloudConv):
    """Separable convolution on a grid of orientations at every point (PONITA, section 3).

    A spatial convolution with the kernel of each orientation, then a spherical one at every point:
    z[i,o] = sum_j k1(o.r, |r_perp|) * x[j,o], y[i,p] = (1/O) sum_o k2(o.p) * z[i,o] + bias.
    Channels are mixed by the linear layers of the block around it.

    Args:
        channels: C.
        basis_channels: B.
        backend: backend of the operators.

    Shape:
        x [N, O, C], basis [P, O, B] or a `SplineBasis`, fiber_basis [O, O, B] -> [N, O, C]
    """

    def __init__(self, channels: int, basis_channels: int, backend: str = "auto") -> None:
        super().__init__(channels, basis_channels, backend)
        self.fiber_kernel = nn.Linear(basis_channels, channels, bias=False)
        self._fiber_memo = Memo()

    def forward(self, x: Tensor, basis: Tensor | SplineBasis, fiber_basis: Tensor, edges: EdgeSet) -> Tensor:
        return self.spherical(self.spatial(x, basis, edges), fiber_basis) + self.bias

    def spherical(self, x: Tensor, fiber_basis: Tensor) -> Tensor:
        """The mean over orientations: [N, O, C]."""
        kernel = self._fiber_memo(lambda: self.fiber_kernel(fiber_basis), self.fiber_kernel.weight, fiber_basis)
        return orientation_conv(x, kernel, self.backend)

    @torch.no_grad()
    def calibrate(
        self, x: Tensor, basis: Tensor | SplineBasis, fiber_basis: Tensor, edges: EdgeSet
    ) -> dict[str, float]:
        """Rescale both kernels so that, on this input, each convolution keeps the standard deviation."""
        spatial = self.spatial(x, basis, edges)
        spherical = self.spherical(spatial, fiber_basis)
        return {
            "kernel": _rescale(self.kernel.weight, x, spatial),
            "fiber_kernel": _rescale(self.fiber_kernel.weight, spatial, spherical),
        }


def _rescale(weight: Tensor, before: Tensor, after: Tensor) -> float:
    """Multiply a kernel's weight by std(before) / std(after) and return that factor."""
    scale = float(before.std() / after.std())
    if not 0 < scale < float("inf"):
        raise ValueError(
            f"calibration found standard deviations {float(before.std())} before and {float(after.std())} after a "
            "convolution; expected both positive and finite. Calibrate on a batch with edges and varied features."
        )
    weight.mul_(scale)
    return scale
