"""The operators as users call them: checked arguments, edges as an `EdgeSet`."""

from __future__ import annotations

import torch
from torch import Tensor

from ponita.geometry.edges import EdgeSet
from ponita.ops import autograd, backends


def pair_conv(x: Tensor, kernel: Tensor, edges: EdgeSet, backend: str = "auto") -> Tensor:
    """Depthwise convolution over edges: y[i,o,c] = sum over edges e: j->i of kernel[pair(e), flip_e(o), c] x[j,o,c].

    `flip_e` is the identity for a pair's representative, and o -> o + O/2 (mod O), the opposite direction on an
    antipodal grid, for its reverse. On a one-sided graph P = E and nothing is flipped. Differentiable to any order.

    Args:
        x: [N, O, C].
        kernel: [P, O, C], a row for each pair in the order of `edges.pair_index`.
        edges: the graph.
        backend: "auto" or a name of `ponita.ops.backends`.

    Shape:
        [N, O, C]

    Raises:
        ValueError: if shapes or dtypes do not fit.
    """
    _check_features("x", x, edges)
    _check_shape("kernel", kernel, (edges.num_pairs, *x.shape[1:]), "[P, O, C]")
    _check_same_dtype(x=x, kernel=kernel)
    return autograd.pair_conv(x, kernel, edges.graph, edges.num_two_way, backends.resolve(backend, x.device.type))


def basis_conv(x: Tensor, basis: Tensor, weight: Tensor, edges: EdgeSet, backend: str = "auto") -> Tensor:
    """`pair_conv` with the kernel sum_b weight[c,b] basis[p,o,b]; only the factors are kept for the backward pass.

    Args:
        x: [N, O, C].
        basis: [P, O, B].
        weight: [C, B].
        edges: the graph.
        backend: "auto" or a name of `ponita.ops.backends`.

    Shape:
        [N, O, C]

    Raises:
        ValueError: if shapes or dtypes do not fit.
    """
    _check_features("x", x, edges)
    _check_shape("weight", weight, (x.shape[2], basis.shape[-1]), "[C, B]")
    _check_shape("basis", basis, (edges.num_pairs, x.shape[1], weight.shape[1]), "[P, O, B]")
    _check_same_dtype(x=x, basis=basis, weight=weight)
    return autograd.basis_conv(
        x, basis, weight, edges.graph, edges.num_two_way, backends.resolve(backend, x.device.type)
    )


def spline_conv(x: Tensor, coords: Tensor, table: Tensor, edges: EdgeSet, backend: str = "auto") -> Tensor:
    """`pair_conv` with a bicubic B-spline as the kernel: kernel[p,o,c] = S_c(coords[p,o]).

    S_c has the coefficients table[:, :, c]; coordinate (0, 0) is where the coefficients 0, 1, 2 weigh 1/6, 4/6, 1/6 in
    both directions, and one unit is one coefficient, so the table covers [0, P - 3] x [0, Q - 3]. Outside, the nearest
    point counts. C2 in the coordinates; no [P, O, C] tensor is kept. Differentiable to any order.

    Args:
        x: [N, O, C].
        coords: [P, O, 2], a row for each pair in the order of `edges.pair_index`.
        table: [P, Q, C], at least 4 x 4 coefficients.
        edges: the graph.
        backend: "auto" or a name of `ponita.ops.backends`.

    Shape:
        [N, O, C]

    Raises:
        ValueError: if shapes or dtypes do not fit.
    """
    if table.dim() != 3 or min(table.shape[:2]) < 4:
        raise ValueError(f"table has shape {list(table.shape)}; expected [P, Q, C] with P and Q at least 4.")
    _check_shape("coords", coords, (edges.num_pairs, x.shape[1], 2), "[P, O, 2]")
    weights, corner = spline_taps(coords, (table.shape[0] - 2, table.shape[1] - 2))
    return tap_conv(x, weights, table.flatten(0, 1), corner, table.shape[1], edges, backend)


def spline_taps(coords: Tensor, nodes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Weights of the 4 x 4 coefficients around each sample, and the place of the first of them.

    Args:
        coords: [..., 2] in units of the node spacing; node (p, q) is at (p, q).
        nodes: (P, Q); the padded table has P + 2 times Q + 2 coefficients.

    Returns:
        weights [..., 16], differentiable in `coords`, and corners [...] int32.
    """
    last = torch.tensor(nodes, dtype=coords.dtype, device=coords.device) - 1
    inside = torch.minimum(coords.clamp(min=0), last)
    cell = torch.minimum(inside.detach().floor(), last - 1)
    along, across = _cubic_weights(inside - cell).unbind(-2)
    corner = cell[..., 0] * (nodes[1] + 2) + cell[..., 1]
    return (along[..., :, None] * across[..., None, :]).flatten(-2), corner.int()


def tap_conv(
    x: Tensor, weights: Tensor, table: Tensor, corner: Tensor, stride: int, edges: EdgeSet, backend: str = "auto"
) -> Tensor:
    """`spline_conv` with the taps given, as layers that share them do.

    Args:
        x: [N, O, C].
        weights: [P, O, 16] of `spline_taps`.
        table: [K, C] coefficients, rows of the lattice one after another.
        corner: [P, O] int32 of `spline_taps`.
        stride: coefficients in a row of the lattice.
        edges: the graph.
        backend: "auto" or a name of `ponita.ops.backends`.

    Shape:
        [N, O, C]

    Raises:
        ValueError: if shapes or dtypes do not fit.
    """
    _check_features("x", x, edges)
    _check_shape("weights", weights, (edges.num_pairs, x.shape[1], 16), "[P, O, 16]")
    _check_shape("table", table, (table.shape[0], x.shape[2]), "[K, C]")
    _check_same_dtype(x=x, weights=weights, table=table)
    backend = backends.resolve(backend, x.device.type)
    return autograd.spline_conv(x, weights, table, corner, stride, edges.graph, edges.num_two_way, backend)


def _cubic_weights(t: Tensor) -> Tensor:
    """The four cubic B-splines that are not zero at fraction t of a cell: [...] -> [..., 4]."""
    s = 1 - t
    t2, s2 = t * t, s * s
    t3, s3 = t2 * t, s2 * s
    return torch.stack([s3, 4 - 6 * t2 + 3 * t3, 4 - 6 * s2 + 3 * s3, t3], dim=-1) / 6


def orientation_conv(x: Tensor, kernel: Tensor, backend: str = "auto") -> Tensor:
    """Depthwise convolution over orientations at every point: y[n,p,c] = (1/O) sum_o kernel[o,p,c] x[n,o,c].

    Args:
        x: [N, O, C].
        kernel: [O, O, C].
        backend: "auto" or a name of `ponita.ops.backends`; only "cpp" has kernels of its own for this, all others use
            torch's batched matrix products.

    Shape:
        [N, O, C]

    Raises:
        ValueError: if shapes or dtypes do not fit.
    """
    if x.dim() != 3:
        raise ValueError(f"x has shape {list(x.shape)}; expected [N, O, C].")
    _check_shape("kernel", kernel, (x.shape[1], x.shape[1], x.shape[2]), "[O, O, C]")
    _check_same_dtype(x=x, kernel=kernel)
    compiled = backends.resolve(backend, x.device.type) == "cpp"
    return autograd.orientation_conv(x, kernel, "cpp" if compiled else "torch")


def _check_features(name: str, x: Tensor, edges: EdgeSet) -> None:
    if x.dim() != 3 or x.shape[0] != edges.num_nodes:
        raise ValueError(f"{name} has shape {list(x.shape)}; expected [N, O, C] with N = {edges.num_nodes} points.")
    if edges.num_two_way and x.shape[1] > 1 and x.shape[1] % 2:
        raise ValueError(
            f"{name} has {x.shape[1]} orientations, but the edges are stored as pairs, which needs an antipodal grid "
            "(an even number, or 1); use edges.without_pairs()."
        )


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...], letters: str) -> None:
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name} has shape {list(tensor.shape)}; expected {letters} = {list(expected)}.")


def _check_same_dtype(**tensors: Tensor) -> None:
    if len({t.dtype for t in tensors.values()}) > 1:
        seen = ", ".join(f"{name} {t.dtype}" for name, t in tensors.items())
        raise ValueError(f"dtypes differ: {seen}; convert them to one floating dtype.")
