"""Depthwise convolutions whose kernels are linear combinations of shared basis functions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ponita.geometry.edges import EdgeSet
from ponita.nn.attention import EdgeAttention
from ponita.nn.memo import Memo, is_plain
from ponita.nn.spline import SplineBasis
from ponita.ops import backends, basis_conv, orientation_conv, pair_conv, tap_conv


class LoopBasis(NamedTuple):
    """Basis functions of the pairs of different points, and of the self-loops, which all share one row.

    Attributes:
        pairs: [P, O, B].
        loop: [1, 1, B], at displacement zero, where the invariants are the same at every orientation.
        counts: [N, 1, 1] self-loops of each point.
    """

    pairs: Tensor
    loop: Tensor
    counts: Tensor


Basis = Tensor | SplineBasis | LoopBasis


class PointCloudConv(nn.Module):
    """Convolution over positions: y[i,o] = sum_j k(pair ij, o) * x[j,o] + bias, with k = W basis.

    On R^d there is one orientation and the basis depends on the distance; in position-orientation space every point
    has its own direction.

    Args:
        channels: C.
        basis_channels: B.
        backend: backend of the operators.
        attention_channels: width of the keys and queries of attention over the edges into a point; none where None.
            The edges must then stand alone (`EdgeSet.without_pairs`).
        fused: project basis functions to kernels inside the convolution (`ponita.ops.basis_conv`), so that no [P, O, C]
            tensor is kept for the backward pass; they are projected again there.

    Shape:
        x [N, O, C], basis [P, O, B] or another `Basis` -> [N, O, C].
        The edges are an `EdgeSet`, with basis functions for each of its pairs, or edge_index [2, E], with basis
        functions [E, O, B] for each edge in the order given, as in PyTorch Geometric.
    """

    def __init__(
        self,
        channels: int,
        basis_channels: int,
        backend: str = "auto",
        attention_channels: int | None = None,
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.fused = fused
        self.backend = backends.check(backend)
        self.kernel = nn.Linear(basis_channels, channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.attention = None if attention_channels is None else EdgeAttention(channels, attention_channels)
        self._memo = Memo()

    def forward(self, x: Tensor, basis: Basis, edges: EdgeSet | Tensor) -> Tensor:
        return self.spatial(x, basis, edges) + self.bias

    def spatial(self, x: Tensor, basis: Basis, edges: EdgeSet | Tensor) -> Tensor:
        """The sum over neighbours: [N, O, C]."""
        if isinstance(edges, Tensor):
            edges, basis = _sorted(edges, basis, x.shape[0])
        if isinstance(basis, LoopBasis):
            return self.spatial(x, basis.pairs, edges) + basis.counts * self.kernel(basis.loop) * x
        attention = None if self.attention is None else self._attend(x, edges)
        if isinstance(basis, SplineBasis):
            coefficients, weights, corner, stride = basis
            weights = weights if attention is None else weights * attention
            table = self._memo(lambda: self.kernel(coefficients), self.kernel, coefficients)
            return tap_conv(x, weights, table, corner, stride, edges, self.backend)
        basis = basis if attention is None else basis * attention
        if self.fused:
            return basis_conv(x, basis, _weight(self.kernel, basis), edges, self.backend)
        return pair_conv(x, self.kernel(basis), edges, self.backend)

    def _attend(self, x: Tensor, edges: EdgeSet) -> Tensor:
        if edges.num_two_way:
            raise ValueError(
                "the edges are stored as pairs, but attention differs between the two directions; use edges.without_pairs()."
            )
        return self.attention(x, edges)[..., None]

    @torch.no_grad()
    def calibrate(self, x: Tensor, basis: Basis, edges: EdgeSet | Tensor) -> dict[str, float]:
        """Rescale the kernel so that, on this input, the sum over neighbours keeps the standard deviation."""
        return {"kernel": _rescale(self.kernel, x, self.spatial(x, basis, edges))}


class FiberBundleConv(PointCloudConv):
    """Separable convolution on a grid of orientations at every point (PONITA, section 3).

    A spatial convolution with the kernel of each orientation, then a spherical one at every point:
    z[i,o] = sum_j k1(o.r, |r_perp|) * x[j,o], y[i,p] = (1/O) sum_o k2(o.p) * z[i,o] + bias.
    Channels are mixed by the linear layers of the block around it.

    Args:
        channels: C.
        basis_channels: B.
        backend: backend of the operators.
        attention_channels: as in `PointCloudConv`, for the spatial convolution.
        fused: as in `PointCloudConv`, for the spatial convolution.

    Shape:
        x [N, O, C], basis [P, O, B] or another `Basis`, fiber_basis [O, O, B] (sender, receiver) -> [N, O, C]; edges
        as in `PointCloudConv`.
    """

    def __init__(
        self,
        channels: int,
        basis_channels: int,
        backend: str = "auto",
        attention_channels: int | None = None,
        fused: bool = False,
    ) -> None:
        super().__init__(channels, basis_channels, backend, attention_channels, fused)
        self.fiber_kernel = nn.Linear(basis_channels, channels, bias=False)
        self._fiber_memo = Memo()

    def forward(self, x: Tensor, basis: Basis, fiber_basis: Tensor, edges: EdgeSet | Tensor) -> Tensor:
        return self.spherical(self.spatial(x, basis, edges), fiber_basis) + self.bias

    def spherical(self, x: Tensor, fiber_basis: Tensor) -> Tensor:
        """The mean over orientations: [N, O, C]."""
        kernel = self._fiber_memo(lambda: self.fiber_kernel(fiber_basis), self.fiber_kernel, fiber_basis)
        return orientation_conv(x, kernel, self.backend)

    @torch.no_grad()
    def calibrate(self, x: Tensor, basis: Basis, fiber_basis: Tensor, edges: EdgeSet | Tensor) -> dict[str, float]:
        """Rescale both kernels so that, on this input, each convolution keeps the standard deviation."""
        spatial = self.spatial(x, basis, edges)
        spherical = self.spherical(spatial, fiber_basis)
        return {
            "kernel": _rescale(self.kernel, x, spatial),
            "fiber_kernel": _rescale(self.fiber_kernel, spatial, spherical),
        }


def _sorted(edge_index: Tensor, basis: Basis, num_nodes: int) -> tuple[EdgeSet, Tensor]:
    """An `EdgeSet` without pairs, and the basis functions of edges in its order."""
    if not isinstance(basis, Tensor) or basis.shape[0] != edge_index.shape[1]:
        seen = list(basis.shape) if isinstance(basis, Tensor) else type(basis).__name__
        raise ValueError(
            f"edges were given as edge_index, and basis is {seen}; expected [E, O, B] with E = {edge_index.shape[1]}, a "
            "row for each edge. Bases of pairs need their EdgeSet."
        )
    edges = EdgeSet.from_edge_index(edge_index, num_nodes, pairs=False)
    return edges, basis.index_select(0, edges.order)


def _weight(kernel: nn.Module, basis: Tensor) -> Tensor:
    """[C, B] of a linear map; of one that is adapted, what it does to each basis function."""
    if is_plain(kernel):
        return kernel.weight
    return kernel(torch.eye(basis.shape[-1], dtype=basis.dtype, device=basis.device)).mT


def _rescale(kernel: nn.Module, before: Tensor, after: Tensor) -> float:
    """Multiply a kernel's weight by std(before) / std(after) and return that factor."""
    if not is_plain(kernel):
        raise ValueError(
            f"a kernel is a {type(kernel).__name__}: it was adapted or parametrised before calibration, which rescales plain "
            "weights. Calibrate first, or remove what was added, calibrate, and add it again."
        )
    scale = float(before.std() / after.std())
    if not 0 < scale < float("inf"):
        raise ValueError(
            f"calibration found standard deviations {float(before.std())} before and {float(after.std())} after a "
            "convolution; expected both positive and finite. Calibrate on a batch with edges and varied features."
        )
    kernel.weight.mul_(scale)
    return scale
