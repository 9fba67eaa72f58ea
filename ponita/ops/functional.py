"""The operators as users call them: checked arguments, edges as an `EdgeSet`."""

from __future__ import annotations

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


def orientation_conv(x: Tensor, kernel: Tensor) -> Tensor:
    """Depthwise convolution over orientations at every point: y[n,p,c] = (1/O) sum_o kernel[o,p,c] x[n,o,c].

    Args:
        x: [N, O, C].
        kernel: [O, O, C].

    Shape:
        [N, O, C]

    Raises:
        ValueError: if shapes or dtypes do not fit.
    """
    if x.dim() != 3:
        raise ValueError(f"x has shape {list(x.shape)}; expected [N, O, C].")
    _check_shape("kernel", kernel, (x.shape[1], x.shape[1], x.shape[2]), "[O, O, C]")
    _check_same_dtype(x=x, kernel=kernel)
    return autograd.orientation_conv(x, kernel)


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
