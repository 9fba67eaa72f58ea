"""The plain-torch meaning of every operator, on the pairs of an `EdgeSet`.

All convolutions are partial derivatives of multilinear forms. With a pair p = (s, r) and h = O/2,

    T(g, x, k) = sum_{p,o,c} k[p,o,c] (x[s,o,c] g[r,o,c] + [p < two_way] x[r,o+h,c] g[s,o+h,c])

where the second term is the reverse edge, which reads the kernel at the opposite direction o + h (mod O).
dT/dg is the convolution, dT/dx the same convolution with senders and receivers exchanged, dT/dk the pair product.
With k = basis weight^T the form gains two arguments, and two partial derivatives.

Arguments common to all: `sender`, `receiver` [P] endpoints of the pairs, `two_way` the number of leading pairs that
stand for two edges, `backend` that of the segment sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ponita.ops.segment import segment_sum


def _opposite(x: Tensor) -> Tensor:
    """x[n, o, c] at the opposite direction; an antipodal grid holds -o at o + O/2."""
    return x.roll(x.shape[1] // 2, dims=1)


def pair_conv(x: Tensor, kernel: Tensor, sender: Tensor, receiver: Tensor, two_way: int, backend: str) -> Tensor:
    """dT/dg: x [N, O, C], kernel [P, O, C] -> [N, O, C]."""
    num_nodes = x.shape[0]
    out = segment_sum(kernel * x.index_select(0, sender), receiver, num_nodes, backend)
    if two_way:
        back = kernel[:two_way] * _opposite(x).index_select(0, receiver[:two_way])
        out += _opposite(segment_sum(back, sender[:two_way], num_nodes, backend))
    return out


def pair_product(x: Tensor, g: Tensor, sender: Tensor, receiver: Tensor, two_way: int) -> Tensor:
    """dT/dk: x, g [N, O, C] -> [P, O, C]."""
    out = x.index_select(0, sender) * g.index_select(0, receiver)
    if two_way:
        back = _opposite(x).index_select(0, receiver[:two_way])
        out[:two_way] += back.mul_(_opposite(g).index_select(0, sender[:two_way]))
    return out


def basis_conv(
    x: Tensor, basis: Tensor, weight: Tensor, sender: Tensor, receiver: Tensor, two_way: int, backend: str
) -> Tensor:
    """pair_conv with the kernel sum_b weight[c,b] basis[p,o,b]: -> [N, O, C]."""
    return pair_conv(x, basis @ weight.T, sender, receiver, two_way, backend)


def basis_gradient(x: Tensor, g: Tensor, weight: Tensor, sender: Tensor, receiver: Tensor, two_way: int) -> Tensor:
    """dT/dbasis: -> [P, O, B]."""
    return pair_product(x, g, sender, receiver, two_way) @ weight


def weight_gradient(x: Tensor, g: Tensor, basis: Tensor, sender: Tensor, receiver: Tensor, two_way: int) -> Tensor:
    """dT/dweight: -> [C, B]."""
    return pair_product(x, g, sender, receiver, two_way).flatten(0, 1).T @ basis.flatten(0, 1)


def orientation_conv(x: Tensor, kernel: Tensor) -> Tensor:
    """y[n,p,c] = (1/O) sum_o kernel[o,p,c] x[n,o,c]: x [N, O, C], kernel [O, O, C] -> [N, O, C]."""
    channels_first = torch.bmm(x.permute(2, 0, 1).contiguous(), kernel.permute(2, 0, 1).contiguous())
    return channels_first.permute(1, 2, 0).div(x.shape[1]).contiguous()


def orientation_product(x: Tensor, g: Tensor) -> Tensor:
    """The kernel's gradient (1/O) sum_n x[n,o,c] g[n,p,c]: -> [O, O, C]."""
    channels_first = torch.bmm(x.permute(2, 1, 0).contiguous(), g.permute(2, 0, 1).contiguous())
    return channels_first.permute(1, 2, 0).div(x.shape[1]).contiguous()
