"""The operators of `ponita.ops.reference` on the Triton kernels, for float16, float32 and float64 on CUDA devices.

With TRITON_INTERPRET=1 in the environment the kernels are interpreted, on tensors of the CPU as well. Every sum is
owned by one program and runs in a fixed order: results are the same bits in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ponita.csrc.triton import pair, second, spline, stream
from ponita.geometry.edges import incidence, transpose

ACCUMULATOR = {torch.float16: torch.float32, torch.float32: torch.float32, torch.float64: torch.float64}
TRITON_DTYPE = {torch.float32: tl.float32, torch.float64: tl.float64}
#: How float32 products are made: "ieee", or on tensor cores "tf32" (10-bit mantissa) or "tf32x3" (nearly float32).
FLOAT32_PRECISION = "ieee"
#: The largest tiles of the stream family: rows (samples), channels, basis functions. Those that spill least on sm_90.
STREAM_TILES = {
    "basis_conv": {torch.float16: (128, 128, 64), torch.float32: (64, 128, 32), torch.float64: (64, 64, 16)},
    "basis_gradient": {torch.float16: (128, 32, 128), torch.float32: (128, 16, 128), torch.float64: (64, 16, 128)},
    "weight_gradient": {torch.float16: (64, 128, 128), torch.float32: (32, 64, 128), torch.float64: (16, 64, 128)},
    "second_conv": {torch.float16: (64, 128, 64), torch.float32: (32, 128, 32), torch.float64: (32, 64, 16)},
    "second_conv_small": {torch.float16: (64, 64, 64), torch.float32: (32, 64, 32), torch.float64: (32, 32, 16)},
    "second_basis_gradient": {
        torch.float16: (128, 32, 128),
        torch.float32: (128, 16, 128),
        torch.float64: (32, 16, 128),
    },
    "second_weight_gradient": {
        torch.float16: (64, 128, 128),
        torch.float32: (16, 64, 128),
        torch.float64: (16, 64, 64),
    },
}
#: Runs of samples that `weight_gradient` sums apart and then together.
RUNS = 128


def pair_conv(x: Tensor, kernel: Tensor, graph: Sequence[Tensor], two_way: int) -> Tensor:
    """See `ponita.ops.reference.pair_conv`."""
    out, settings = _empty(x, x.shape), pair_settings(x.shape[1], x.shape[2], x.dtype)
    if not kernel.numel():
        return out.zero_()
    grid = (x.shape[0], settings["HALVES"] * triton.cdiv(settings["HALF"], settings["BLOCK"]))
    return _launch(pair.pair_conv, grid, (x, kernel, *_edges_into_nodes(graph, two_way, x.shape[0]), out), settings)


def pair_product(x: Tensor, g: Tensor, graph: Sequence[Tensor], two_way: int) -> Tensor:
    """See `ponita.ops.reference.pair_product`."""
    sender, receiver, *_ = graph
    out, settings = _empty(x, (sender.shape[0], *x.shape[1:])), pair_settings(x.shape[1], x.shape[2], x.dtype)
    grid = (sender.shape[0], settings["HALVES"] * triton.cdiv(settings["HALF"], settings["BLOCK"]))
    return _launch(pair.pair_product, grid, (x, g, sender, receiver, out, two_way), settings)


def basis_conv(x: Tensor, basis: Tensor, weight: Tensor, graph: Sequence[Tensor], two_way: int) -> Tensor:
    """See `ponita.ops.reference.basis_conv`."""
    out, settings = _empty(x, x.shape), stream_settings("basis_conv", *x.shape[1:], weight.shape[1], x.dtype)
    if not basis.numel():
        return out.zero_()
    grid = (x.shape[0], triton.cdiv(x.shape[1], settings["BLOCK_O"]), triton.cdiv(x.shape[2], settings["BLOCK_C"]))
    edges = _edges_into_nodes(graph, two_way, x.shape[0])
    return _launch(stream.basis_conv, grid, (x, basis, weight, *edges, out), settings)


def basis_gradient(x: Tensor, g: Tensor, weight: Tensor, graph: Sequence[Tensor], two_way: int) -> Tensor:
    """See `ponita.ops.reference.basis_gradient`."""
    return _basis_gradient(stream.basis_gradient, "basis_gradient", (x, g, weight), graph, two_way)


def weight_gradient(x: Tensor, g: Tensor, basis: Tensor, graph: Sequence[Tensor], two_way: int) -> Tensor:
    """See `ponita.ops.reference.weight_gradient`."""
    return _weight_gradient(stream.weight_gradient, "weight_gradient", (x, g, basis), graph, two_way)


def basis_conv_backward(
    x: Tensor,
    basis: Tensor,
    weight: Tensor,
    g: Tensor,
    wanted: Sequence[bool],
    graph: Sequence[Tensor],
    two_way: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `ponita.ops.reference.basis_conv_backward`."""
    need_x, need_basis, need_weight = wanted
    return (
        basis_conv(g, basis, weight, transpose(graph), two_way) if need_x else _empty(x, (0,)),
        basis_gradient(x, g, weight, graph, two_way) if need_basis else _empty(x, (0,)),
        weight_gradient(x, g, basis, graph, two_way) if need_weight else _empty(x, (0,)),
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `ponita.ops.reference.basis_conv_double_backward`. One kernel makes dx and dg where pairs have two edges."""
    need_x, need_basis, need_weight, need_g = wanted
    bases, ends, back = (basis, hbasis, weight, hweight), (graph, two_way), (transpose(graph), two_way)
    dx, dbasis, dweight, dg = (_empty(x, (0,)) for _ in wanted)
    if need_x and need_g and two_way:
        dg, dx = _second_conv((x, hx, g), bases, *ends, both=True)
    else:
        dx = _second_conv((g, None, None), bases, *back)[0] if need_x else dx
        dg = _second_conv((x, hx, None), bases, *ends)[0] if need_g else dg
    if need_basis:
        dbasis = _second_basis_gradient(x, hx, g, weight, hweight, *ends)
    if need_weight:
        dweight = _second_weight_gradient(x, hx, g, basis, hbasis, *ends)
    return dx, dbasis, dweight, dg


def _second_conv(
    features: Sequence[Tensor | None],
    bases: Sequence[Tensor | None],
    graph: Sequence[Tensor],
    two_way: int,
    both: bool = False,
) -> tuple[Tensor, Tensor]:
    """conv(hx, k1) + conv(x, k2) and, where `both`, conv^T(g, k2) of the features (x, hx, g).

    A term alone is a `basis_conv`.
    """
    (x, hx, g), (basis, hbasis, weight, hweight) = features, bases
    terms = [(hx, basis, weight), (x, hbasis, weight), (x, basis, hweight)]
    terms = [term for term in terms if not any(factor is None for factor in term)]
    if len(terms) == 1 and not both:
        return basis_conv(*terms[0], graph, two_way), _empty(x, (0,))
    flags = {"X_TERM": hx is not None, "BASIS_TERM": hbasis is not None, "WEIGHT_TERM": hweight is not None}
    settings = second_conv_settings(*x.shape[1:], weight.shape[1], x.dtype, **flags, BOTH=both)
    out, back_out = _empty(x, x.shape), _empty(x, x.shape if both else (0,))
    if not basis.numel():
        return out.zero_(), back_out.zero_()
    into = _edges_into_nodes(graph, two_way, x.shape[0])
    out_of = _edges_into_nodes(transpose(graph), two_way, x.shape[0]) if both else into
    read = (x, _or(hx, x), _or(g, x), basis, _or(hbasis, basis), weight, _or(hweight, weight))
    grid = (x.shape[0] * triton.cdiv(x.shape[2], settings["BLOCK_C"]), triton.cdiv(x.shape[1], settings["BLOCK_O"]))
    _launch(second.second_conv, grid, (*read, *into, *out_of, two_way, out, back_out), settings)
    return out, back_out


def _second_basis_gradient(
    x: Tensor, hx: Tensor | None, g: Tensor, weight: Tensor, hweight: Tensor | None, *ends: Any
) -> Tensor:
    """product(hx, g) weight + product(x, g) hweight."""
    if hx is None or hweight is None:
        return basis_gradient(x, g, hweight, *ends) if hx is None else basis_gradient(hx, g, weight, *ends)
    given = (x, hx, g, weight, hweight)
    return _basis_gradient(second.second_basis_gradient, "second_basis_gradient", given, *ends)


def _second_weight_gradient(
    x: Tensor, hx: Tensor | None, g: Tensor, basis: Tensor, hbasis: Tensor | None, *ends: Any
) -> Tensor:
    """product(hx, g)^T basis + product(x, g)^T hbasis."""
    if hx is None or hbasis is None:
        return weight_gradient(x, g, hbasis, *ends) if hx is None else weight_gradient(hx, g, basis, *ends)
    given = (x, hx, g, basis, hbasis)
    return _weight_gradient(second.second_weight_gradient, "second_weight_gradient", given, *ends)


def _basis_gradient(kernel: Any, name: str, tensors: Sequence[Tensor], graph: Sequence[Tensor], two_way: int) -> Tensor:
    """Run a kernel that owns samples and basis functions, on node features and lastly weights."""
    (x, *_, weight), (sender, receiver, *_) = tensors, graph
    pairs, orientations, basis_channels = sender.shape[0], x.shape[1], weight.shape[1]
    settings = stream_settings(name, *x.shape[1:], basis_channels, x.dtype)
    out = _empty(x, (pairs, orientations, basis_channels))
    grid = (triton.cdiv(pairs * orientations, settings["BLOCK_R"]), triton.cdiv(basis_channels, settings["BLOCK_B"]))
    return _launch(kernel, grid, (*tensors, sender, receiver, out, pairs, two_way), settings)


def _weight_gradient(
    kernel: Any, name: str, tensors: Sequence[Tensor], graph: Sequence[Tensor], two_way: int
) -> Tensor:
    """Run a kernel that sums over samples in runs, on node features and lastly bases, and add up the runs."""
    (x, *_, basis), (sender, receiver, *_) = tensors, graph
    pairs, orientations, basis_channels = basis.shape
    settings = stream_settings(name, *x.shape[1:], basis_channels, x.dtype)
    blocks = triton.cdiv(pairs * orientations, settings["BLOCK_R"])
    chunk = triton.cdiv(blocks, RUNS) * settings["BLOCK_R"]
    partial = _empty(x, (triton.cdiv(pairs * orientations, max(chunk, 1)), x.shape[2], basis_channels), accumulate=True)
    tiles = triton.cdiv(x.shape[2], settings["BLOCK_C"]), triton.cdiv(basis_channels, settings["BLOCK_B"])
    arguments = (*tensors, sender, receiver, partial, pairs, two_way, chunk)
    return _launch(kernel, (partial.shape[0], *tiles), arguments, settings).sum(0).to(x.dtype)


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
    out, settings = _empty(x, x.shape), spline_settings("spline_conv", *x.shape[1:], x.dtype)
    if not corner.numel():
        return out.zero_()
    grid = (x.shape[0], triton.cdiv(x.shape[1], settings["BLOCK_O"]), triton.cdiv(x.shape[2], settings["BLOCK_C"]))
    edges = _edges_into_nodes(graph, two_way, x.shape[0])
    return _launch(spline.spline_conv, grid, (x, weights, table, corner, *edges, out, stride), settings)


def spline_weight_gradient(
    x: Tensor, g: Tensor, table: Tensor, corner: Tensor, stride: int, graph: Sequence[Tensor], two_way: int
) -> Tensor:
    """See `ponita.ops.reference.spline_weight_gradient`."""
    sender, receiver, *_ = graph
    settings = spline_settings("spline_weight_gradient", *x.shape[1:], x.dtype)
    out = _empty(x, (*corner.shape, 16))
    arguments = (x, g, table, corner, sender, receiver, out, stride, corner.shape[0], two_way)
    return _launch(
        spline.spline_weight_gradient, (triton.cdiv(corner.numel(), settings["BLOCK_R"]),), arguments, settings
    )


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
    """See `ponita.ops.reference.spline_table_gradient`. Samples are sorted by corner; a program owns a corner."""
    sender, receiver, *_ = graph
    out = _empty(x, (num_nodes, x.shape[2]))
    if not corner.numel():
        return out.zero_()
    ordered, order = torch.sort(corner.flatten(), stable=True)
    starts = torch.searchsorted(ordered, torch.arange(num_nodes + 1, dtype=corner.dtype, device=corner.device))
    sums = _empty(x, (num_nodes, 16, x.shape[2]), accumulate=True)
    settings = spline_settings("spline_tap_sums", *x.shape[1:], x.dtype)
    grid = (num_nodes, triton.cdiv(x.shape[2], settings["BLOCK_C"]))
    _launch(spline.spline_tap_sums, grid, (x, g, weights, order, starts, sender, receiver, sums, two_way), settings)
    settings = spline_settings("spline_fold_taps", *x.shape[1:], x.dtype)
    grid = (num_nodes, triton.cdiv(x.shape[2], settings["BLOCK_C"]))
    return _launch(spline.spline_fold_taps, grid, (sums, out, stride), settings)


def pair_settings(orientations: int, channels: int, dtype: torch.dtype) -> dict[str, Any]:
    """Constants of the pair family's kernels: a row [O, C] is two opposite halves, or one piece if O is odd."""
    halves = 1 if orientations % 2 else 2
    half = orientations * channels // halves
    block = _block(half, 256)
    return {"HALVES": halves, "HALF": half, "BLOCK": block, "ACC": _accumulator(dtype), "num_warps": block // 128 or 1}


def stream_settings(name: str, orientations: int, channels: int, basis: int, dtype: torch.dtype) -> dict[str, Any]:
    """Constants of a kernel of the stream family."""
    settings = {
        "NUM_O": orientations,
        "NUM_C": channels,
        "NUM_B": basis,
        "ACC": _accumulator(dtype),
        **_precision(dtype),
    }
    rows, most_channels, most_basis = STREAM_TILES[name][dtype]
    blocks = {"BLOCK_C": _block(channels, most_channels), "BLOCK_B": _block(basis, most_basis)}
    if "conv" in name:
        blocks["BLOCK_O"] = min(triton.next_power_of_2(orientations), 4)
        blocks["BLOCK_E"] = min(rows // blocks["BLOCK_O"], 32)
    else:
        blocks["BLOCK_R"] = rows
    return {**settings, **blocks, "num_warps": 8, "num_stages": 3}


def second_conv_settings(
    orientations: int, channels: int, basis: int, dtype: torch.dtype, **flags: bool
) -> dict[str, Any]:
    """Constants of `second_conv`, for the X_TERM, BASIS_TERM, WEIGHT_TERM and BOTH of a launch.

    A force loss on two-way pairs (BOTH, no WEIGHT_TERM) has tiles of its own, in which other sets of terms spill.
    """
    name = "second_conv" if flags["BOTH"] and not flags["WEIGHT_TERM"] else "second_conv_small"
    return stream_settings(name, orientations, channels, basis, dtype) | flags


def spline_settings(name: str, orientations: int, channels: int, dtype: torch.dtype) -> dict[str, Any]:
    """Constants of a kernel of the spline family."""
    sizes = {"NUM_O": orientations, "NUM_C": channels, "BLOCK_C": _block(channels, 128), "ACC": _accumulator(dtype)}
    if name == "spline_conv":
        sizes["BLOCK_O"] = min(triton.next_power_of_2(orientations), 4)
    elif name == "spline_weight_gradient":
        sizes |= {"BLOCK_R": 16, "BLOCK_C": _block(channels, 32 if dtype == torch.float64 else 128)}
    elif name == "spline_tap_sums":
        sizes |= {"BLOCK_R": 16, **_precision(dtype)}
    else:
        del sizes["NUM_O"]
    return {**sizes, "num_warps": 4}


def _block(size: int, largest: int) -> int:
    """The power of two, of 16 to `largest`, that holds `size` if one does."""
    return min(max(triton.next_power_of_2(size), 16), largest)


def _accumulator(dtype: torch.dtype) -> tl.dtype:
    if dtype not in ACCUMULATOR:
        names = ", ".join(str(d).removeprefix("torch.") for d in ACCUMULATOR)
        raise ValueError(f"the Triton kernels have no {dtype}; expected one of {names}, or use backend='torch'.")
    return TRITON_DTYPE[ACCUMULATOR[dtype]]


def _precision(dtype: torch.dtype) -> dict[str, str]:
    return {"PRECISION": FLOAT32_PRECISION if dtype == torch.float32 else "ieee"}


def _empty(like: Tensor, shape: Sequence[int], accumulate: bool = False) -> Tensor:
    """A contiguous result, in the dtype of the arguments or in that of the sums."""
    _accumulator(like.dtype)
    return like.new_empty(shape, dtype=ACCUMULATOR[like.dtype] if accumulate else like.dtype)


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """The tensor, or for one that a kernel does not read, another in its place."""
    return other if tensor is None else tensor


def _edges_into_nodes(graph: Sequence[Tensor], two_way: int, num_nodes: int) -> Sequence[Tensor]:
    """CSR offsets, neighbours and slots of a graph; one of the CPU, as the interpreter's tests have, comes without."""
    sender, receiver, *rest = graph
    return rest[:3] if rest else incidence((sender, receiver), two_way, num_nodes)


def _launch(kernel: Any, grid: tuple[int, ...], arguments: Sequence[Tensor | int], settings: dict[str, Any]) -> Tensor:
    """Run a kernel on contiguous tensors of one device, and return the one it writes: the last.

    Raises:
        ValueError: for tensors where no kernel runs.
    """
    tensors = [value for value in arguments if isinstance(value, Tensor)]
    device = tensors[0].device
    if device.type != "cuda" and isinstance(kernel, triton.JITFunction):
        raise ValueError(
            f"the Triton kernels run on cuda, the tensors are on {device}; move them, or use backend='torch' "
            "(or set TRITON_INTERPRET=1 before the import, to interpret the kernels)."
        )
    if all(grid):
        ready = [value.contiguous() if isinstance(value, Tensor) else value for value in arguments]
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            kernel[grid](*ready, **settings)
    return tensors[-1]
