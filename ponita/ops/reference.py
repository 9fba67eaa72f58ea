"""The plain-torch meaning of every operator, on the pairs of an `EdgeSet`.

All convolutions are partial derivatives of multilinear forms. With a pair p = (s, r) and h = O/2,

    T(g, x, k) = sum_{p,o,c} k[p,o,c] (x[s,o,c] g[r,o,c] + [p < two_way] x[r,o+h,c] g[s,o+h,c])

where the second term is the reverse edge, which reads the kernel at the opposite direction o + h (mod O).
dT/dg is the convolution, dT/dx the same convolution with senders and receivers exchanged, dT/dk the pair product.
With k = basis weight^T the form gains two arguments, and two partial derivatives.

The spline family is the same with a kernel k[p,o,c] = sum_t weights[p,o,t] table[node(p,o,t), c] over the 4 x 4 nodes
around a corner: trilinear in features, weights and table, with three partial derivatives.

Arguments common to all: `graph`, the tensors of `EdgeSet.graph`, of which the reference reads the first two, the
senders and receivers [P] of the pairs; and `two_way`, the number of leading pairs that stand for two edges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor

from ponita.geometry.edges import transpose
from ponita.ops.segment import segment_sum

SegmentSum = Callable[[Tensor, Tensor, int], Tensor]
PairOperator = Callable[[Tensor, Tensor, Sequence[Tensor], int], Tensor]
NUM_TAPS = 4  # nodes in each direction that a cubic spline reads


def _opposite(x: Tensor) -> Tensor:
    """x[n, o, c] at the opposite direction; an antipodal grid holds -o at o + O/2."""
    return x.roll(x.shape[1] // 2, dims=1)


def pair_conv(
    x: Tensor, kernel: Tensor, graph: Sequence[Tensor], two_way: int, sum_segments: SegmentSum = segment_sum
) -> Tensor:
    """dT/dg: x [N, O, C], kernel [P, O, C] -> [N, O, C]."""
    sender, receiver, *_ = graph
    num_nodes = x.shape[0]
    out = sum_segments(kernel * x.index_select(0, sender), receiver, num_nodes)
    if two_way:
        back = kernel[:two_way] * _opposite(x).index_select(0, receiver[:two_way])
        out += _opposite(sum_segments(back, sender[:two_way], num_nodes))
    return out


def pair_product(x: Tensor, g: Tensor, graph: Sequence[Tensor], two_way: int) -> Tensor:
    """dT/dk: x, g [N, O, C] -> [P, O, C]."""
    sender, receiver, *_ = graph
    out = x.index_select(0, sender) * g.index_select(0, receiver)
    if two_way:
        back = _opposite(x).index_select(0, receiver[:two_way])
        out[:two_way] += back.mul_(_opposite(g).index_select(0, sender[:two_way]))
    return out


def basis_conv(x: Tensor, basis: Tensor, weight: Tensor, graph: Sequence[Tensor], two_way: int) -> Tensor:
    """pair_conv with the kernel sum_b weight[c,b] basis[p,o,b]: -> [N, O, C]."""
    return pair_conv(x, basis @ weight.T, graph, two_way)


def basis_gradient(x: Tensor, g: Tensor, weight: Tensor, graph: Sequence[Tensor], two_way: int) -> Tensor:
    """dT/dbasis: -> [P, O, B]."""
    return pair_product(x, g, graph, two_way) @ weight


def weight_gradient(x: Tensor, g: Tensor, basis: Tensor, graph: Sequence[Tensor], two_way: int) -> Tensor:
    """dT/dweight: -> [C, B]."""
    return _over_samples(pair_product(x, g, graph, two_way), basis)


def basis_conv_backward(
    x: Tensor,
    basis: Tensor,
    weight: Tensor,
    g: Tensor,
    wanted: Sequence[bool],
    graph: Sequence[Tensor],
    two_way: int,
    conv: PairOperator = pair_conv,
    product: PairOperator = pair_product,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of T(g, x, basis weight^T) in x [N, O, C], basis [P, O, B] and weight [C, B].

        dx = conv^T(g, basis weight^T),    dbasis = q(x, g) weight,    dweight = q(x, g)^T basis

    with conv^T the `pair_conv` on the transposed graph, q the pair product, and a sum over samples (p, o) in dweight.
    Empty tensors stand for those that are not `wanted`; `conv` and `product` for `pair_conv` and `pair_product`.
    """
    need_x, need_basis, need_weight = wanted
    made = product(x, g, graph, two_way) if need_basis or need_weight else x.new_empty(0)
    return (
        conv(g, basis @ weight.T, transpose(graph), two_way) if need_x else x.new_empty(0),
        made @ weight if need_basis else x.new_empty(0),
        _over_samples(made, basis) if need_weight else x.new_empty(0),
    )


def basis_conv_double_backward(
    x: Tensor,
    basis: Tensor,
    weight: Tensor,
    g: Tensor,
    hx: Tensor | None,
    hbasis: Tensor | None,
    hweight: Tensor | None,
    wanted: Sequence[bool],
    graph: Sequence[Tensor],
    two_way: int,
    conv: PairOperator = pair_conv,
    product: PairOperator = pair_product,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients in x, basis, weight and g of <basis_conv_backward(x, basis, weight, g), (hx, hbasis, hweight)>.

    That is the derivative of T along the cotangents: with k1 = basis weight^T, k2 = hbasis weight^T + basis hweight^T,
    the function T(g, hx, k1) + T(g, x, k2), and therefore

        dx      = conv^T(g, k2)                        dg      = conv(hx, k1) + conv(x, k2)
        dbasis  = q(hx, g) weight + q(x, g) hweight    dweight = q(hx, g)^T basis + q(x, g)^T hbasis

    whether a pair stands for one edge or two, as conv, conv^T and the pair product q are derivatives of the same T. For
    a pair of two edges one row of k2 makes the terms of dg and dx at both its ends, for it is the row that either edge
    reads at one end for dg, and the other at that end, in the opposite direction, for dx:

        dg[r, o]     += k2[p, o] x[s, o]            dx[r, o + h] += k2[p, o] g[s, o + h]
        dg[s, o + h] += k2[p, o] x[r, o + h]        dx[s, o]     += k2[p, o] g[r, o]

    Args:
        x: [N, O, C].
        basis: [P, O, B].
        weight: [C, B].
        g: [N, O, C].
        hx: cotangent of dx, None for zero.
        hbasis: cotangent of dbasis, None for zero.
        hweight: cotangent of dweight, None for zero.
        wanted: which gradients to make: only those that have a term that is not zero. The others are empty tensors.
        graph: see above.
        two_way: see above.
        conv: what stands for `pair_conv`.
        product: what stands for `pair_product`.
    """
    need_x, need_basis, need_weight, need_g = wanted
    k1 = basis @ weight.T if need_g and hx is not None else None
    k2 = _sum_of(_kernel, (hbasis, weight), (basis, hweight)) if need_x or need_g else None
    with_hx = hx is not None and (need_basis or need_weight)
    with_x = (hweight is not None and need_basis) or (hbasis is not None and need_weight)
    moved = product(hx, g, graph, two_way) if with_hx else None
    made = product(x, g, graph, two_way) if with_x else None
    back = transpose(graph)
    gradients = (
        _sum_of(lambda features, k: conv(features, k, back, two_way), (g, k2)) if need_x else None,
        _sum_of(torch.matmul, (moved, weight), (made, hweight)) if need_basis else None,
        _sum_of(_over_samples, (moved, basis), (made, hbasis)) if need_weight else None,
        _sum_of(lambda features, k: conv(features, k, graph, two_way), (hx, k1), (x, k2)) if need_g else None,
    )
    return tuple(x.new_empty(0) if gradient is None else gradient for gradient in gradients)


def _kernel(basis: Tensor, weight: Tensor) -> Tensor:
    return basis @ weight.T


def _over_samples(product: Tensor, basis: Tensor) -> Tensor:
    """[P, O, C], [P, O, B] -> [C, B]."""
    return product.flatten(0, 1).T @ basis.flatten(0, 1)


def _sum_of(form: Callable[[Tensor, Tensor], Tensor], *pairs: tuple[Tensor | None, Tensor | None]) -> Tensor | None:
    """The sum of form(a, b) over the pairs without a None, None if there is no such pair."""
    values = [form(a, b) for a, b in pairs if a is not None and b is not None]
    return reduce(torch.add, values) if values else None


def tap_nodes(corner: Tensor, stride: int) -> Tensor:
    """Nodes corner + a * stride + b, for a, b < 4: [P, O] -> [P, O, 16]."""
    return corner.long()[..., None] + _tap_steps(stride, corner.device)


def _tap_steps(stride: int, device: torch.device) -> Tensor:
    steps = torch.arange(NUM_TAPS, device=device)
    return (stride * steps[:, None] + steps).flatten()


def spline_kernel(weights: Tensor, table: Tensor, corner: Tensor, stride: int) -> Tensor:
    """sum_t weights[p,o,t] table[node(p,o,t), c]: weights [P, O, 16], table [K, C] -> [P, O, C]."""
    nodes, flat = tap_nodes(corner, stride).flatten(0, 1), weights.flatten(0, 1)
    kernel = torch.nn.functional.embedding_bag(nodes, table, mode="sum", per_sample_weights=flat)
    return kernel.view(*corner.shape, table.shape[1])


def spline_conv(
    x: Tensor,
    weights: Tensor,
    table: Tensor,
    corner: Tensor,
    stride: int,
    graph: Sequence[Tensor],
    two_way: int,
) -> Tensor:
    """pair_conv with a spline kernel: -> [N, O, C]."""
    return pair_conv(x, spline_kernel(weights, table, corner, stride), graph, two_way)


def spline_weight_gradient(
    x: Tensor, g: Tensor, table: Tensor, corner: Tensor, stride: int, graph: Sequence[Tensor], two_way: int
) -> Tensor:
    """dT/dweights: -> [P, O, 16], the dot of each sample's product with the 16 rows its kernel is made of."""
    product = pair_product(x, g, graph, two_way).flatten(0, 1)
    nodes = tap_nodes(corner, stride).flatten()
    sample = torch.arange(product.shape[0], device=x.device)
    # Autograd is out of reach inside an operator, so call what it would call for `embedding_bag`.
    gradient = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        product, table, nodes, NUM_TAPS**2 * sample, sample.repeat_interleave(NUM_TAPS**2), 0, -1
    )
    return gradient.view(*corner.shape, NUM_TAPS**2)


def spline_table_gradient(
    x: Tensor,
    g: Tensor,
    weights: Tensor,
    corner: Tensor,
    stride: int,
    num_nodes: int,
    graph: Sequence[Tensor],
    two_way: int,
) -> Tensor:
    """dT/dtable: -> [K, C] for K nodes. Samples are sorted by corner once, then summed for each of the 16 taps."""
    product = pair_product(x, g, graph, two_way).flatten(0, 1)
    flat, flat_corner = weights.flatten(0, 1), corner.flatten().long()
    order = torch.argsort(flat_corner, stable=True)
    counts = torch.bincount(flat_corner, minlength=num_nodes)
    starts = counts.cumsum(0) - counts
    out = product.new_zeros(num_nodes, product.shape[1])
    for t, step in enumerate(_tap_steps(stride, corner.device).tolist()):
        sums = torch.nn.functional.embedding_bag(order, product, starts, mode="sum", per_sample_weights=flat[order, t])
        out[step:] += sums[: num_nodes - step]
    return out


def orientation_conv(x: Tensor, kernel: Tensor) -> Tensor:
    """y[n,p,c] = (1/O) sum_o kernel[o,p,c] x[n,o,c]: x [N, O, C], kernel [O, O, C] -> [N, O, C]."""
    channels_first = torch.bmm(x.permute(2, 0, 1).contiguous(), kernel.permute(2, 0, 1).contiguous())
    return channels_first.permute(1, 2, 0).div(x.shape[1]).contiguous()


def orientation_product(x: Tensor, g: Tensor) -> Tensor:
    """The kernel's gradient (1/O) sum_n x[n,o,c] g[n,p,c]: -> [O, O, C]."""
    channels_first = torch.bmm(x.permute(2, 1, 0).contiguous(), g.permute(2, 0, 1).contiguous())
    return channels_first.permute(1, 2, 0).div(x.shape[1]).contiguous()
