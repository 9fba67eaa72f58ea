"""The operators of `ponita.ops.reference` on the compiled CPU kernels, for float32 and float64."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
#: Numbers in the largest tensor from which starting threads is worth it: torch's own threads spin on the cores for a
#: while after each of its operators, and others have to wait for them.
THREAD_GRAIN = 1 << 22
INTEGER, POINTER = ctypes.c_int64, ctypes.c_void_p


def pair_conv(x: Tensor, kernel: Tensor, graph: Sequence[Tensor], two_way: int) -> Tensor:
    """See `ponita.ops.reference.pair_conv`."""
    out = torch.zeros_like(x, memory_format=torch.contiguous_format)
    _call("pair_conv", (x, kernel, *_ends(x, graph, two_way), out))
    return out


def pair_product(x: Tensor, g: Tensor, graph: Sequence[Tensor], two_way: int) -> Tensor:
    """See `ponita.ops.reference.pair_product`."""
    out = x.new_empty(graph[0].shape[0], *x.shape[1:])
    _call("pair_product", (x, g, *_ends(x, graph, two_way), out))
    return out


def basis_conv(x: Tensor, basis: Tensor, weight: Tensor, graph: Sequence[Tensor], two_way: int) -> Tensor:
    """See `ponita.ops.reference.basis_conv`."""
    return pair_conv(x, basis @ weight.T, graph, two_way)


def basis_gradient(x: Tensor, g: Tensor, weight: Tensor, graph: Sequence[Tensor], two_way: int) -> Tensor:
    """See `ponita.ops.reference.basis_gradient`."""
    return pair_product(x, g, graph, two_way) @ weight


def weight_gradient(x: Tensor, g: Tensor, basis: Tensor, graph: Sequence[Tensor], two_way: int) -> Tensor:
    """See `ponita.ops.reference.weight_gradient`."""
    return pair_product(x, g, graph, two_way).flatten(0, 1).T @ basis.flatten(0, 1)


def spline_conv(
    x: Tensor,
    weights: Tensor,
    table: Tensor,
    corner: Tensor,
    stride: int,
    graph: Sequence[Tensor],
    two_way: int,
) -> Tensor:
    """See `ponita.ops.reference.spline_conv`."""
    out = torch.zeros_like(x, memory_format=torch.contiguous_format)
    taps = (corner, stride, table.shape[0])
    _call("spline_conv", (x, weights, table, *taps, *_ends(x, graph, two_way), out))
    return out


def spline_weight_gradient(
    x: Tensor, g: Tensor, table: Tensor, corner: Tensor, stride: int, graph: Sequence[Tensor], two_way: int
) -> Tensor:
    """See `ponita.ops.reference.spline_weight_gradient`."""
    out = x.new_empty(*corner.shape, 16)
    _call("spline_weight_gradient", (x, g, table, corner, stride, table.shape[0], *_ends(x, graph, two_way), out))
    return out


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
    """See `ponita.ops.reference.spline_table_gradient`."""
    out = x.new_zeros(num_nodes, x.shape[2])
    _call("spline_table_gradient", (x, g, weights, corner, stride, num_nodes, *_ends(x, graph, two_way), out))
    return out


def orientation_conv(x: Tensor, kernel: Tensor) -> Tensor:
    """See `ponita.ops.reference.orientation_conv`."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    _call("orientation_conv", (x, kernel, *x.shape, out))
    return out


def orientation_product(x: Tensor, g: Tensor) -> Tensor:
    """See `ponita.ops.reference.orientation_product`."""
    out = x.new_empty(x.shape[1], *x.shape[1:])
    _call("orientation_product", (x, g, *x.shape, out))
    return out


def gelu_gradient(x: Tensor, g: Tensor, order: int) -> Tensor:
    """g times the second or third derivative of GELU at x; see `ponita.ops.activation`."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    _call("gelu_gradient", (x, g, x.numel(), order, out))
    return out


def _ends(x: Tensor, graph: Sequence[Tensor], two_way: int) -> tuple[Tensor | int, ...]:
    """The pairs of a graph, and the sizes O and C of a feature row, as the kernels take them."""
    sender, receiver, *_ = graph
    return sender, receiver, sender.shape[0], two_way, *x.shape[1:]


@lru_cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(find_spec("ponita.csrc._cpu").origin)


def _call(name: str, arguments: Sequence[Tensor | int]) -> None:
    """Call a kernel on contiguous tensors, with as many threads as torch uses where there is work for them."""
    dtype = arguments[0].dtype
    if dtype not in SUFFIX:
        raise ValueError(f"the C++ kernels have no {dtype}; expected float32 or float64, or use backend='torch'.")
    function = getattr(_library(), f"ponita_{name}_{SUFFIX[dtype]}")
    # The contiguous copies must live until the call returns.
    tensors = [value.contiguous() if isinstance(value, Tensor) else value for value in arguments]
    pointers = [POINTER(v.data_ptr()) if isinstance(v, Tensor) else INTEGER(v) for v in tensors]
    largest = max(value.numel() for value in tensors if isinstance(value, Tensor))
    threads = torch.get_num_threads() if largest >= THREAD_GRAIN else 1
    function(*pointers, ctypes.c_int(threads))
