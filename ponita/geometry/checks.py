"""Checks of what users pass in. Shapes and dtypes are always checked; values only where that needs no wait for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from ponita.geometry.edges import EdgeSet


def check_positions(pos: Tensor, dim: int, dtype: torch.dtype, space: str) -> None:
    """Raise ValueError unless `pos` is a finite [N, d] tensor of the model's dtype with N > 0."""
    if pos.dim() != 2 or pos.shape[1] != dim:
        raise ValueError(f"pos has shape {list(pos.shape)}; expected [N, {dim}] for space {space}.")
    if pos.shape[0] == 0:
        raise ValueError("the graph is empty: pos has no points; expected at least one.")
    if pos.dtype != dtype:
        raise ValueError(
            f"pos has dtype {pos.dtype}, the model {dtype}; convert one: model.to(pos.dtype) or pos.to(...)."
        )
    if can_look(pos) and not bool(torch.isfinite(pos).all()):
        points = (~torch.isfinite(pos)).any(1).nonzero()[:5, 0].tolist()
        raise ValueError(
            f"pos holds NaN or infinite values, first at points {points}; check the data or the step size."
        )


def check_features(name: str, value: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, argument: str) -> None:
    """Raise ValueError unless an input has the given shape; it must be absent when the shape holds a zero width."""
    if shape[1] == 0:
        if value is not None:
            raise ValueError(
                f"{name} was given, but the model was made with {argument}=0; make it with the right number."
            )
        return
    if value is None:
        raise ValueError(f"{name} is missing; expected shape {list(shape)} since the model has {argument}={shape[1]}.")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} has shape {list(value.shape)}; expected {list(shape)} ({argument}={shape[1]}).")
    if value.dtype != dtype:
        raise ValueError(f"{name} has dtype {value.dtype}; expected {dtype}, the model's.")


def check_batch(batch: Tensor, num_nodes: int) -> None:
    """Raise ValueError unless `batch` is an integer [N] tensor."""
    if tuple(batch.shape) != (num_nodes,) or batch.dtype != torch.int64:
        raise ValueError(
            f"batch has shape {list(batch.shape)} and dtype {batch.dtype}; expected [{num_nodes}] and torch.int64, "
            "the graph of each point."
        )


def check_displacements(r: Tensor, edges: EdgeSet) -> None:
    """Raise ValueError if two different points of an edge coincide (their direction is undefined)."""
    if not can_look(r):
        return
    sender, receiver = edges.pair_index
    same = (r == 0).all(1) & (sender != receiver)
    if bool(same.any()):
        pairs = edges.pair_index[:, same].T[:5].tolist()
        raise ValueError(
            f"points coincide: distance 0 between points {pairs}; expected distinct positions. "
            "Remove duplicates, or check units and wrapped cells."
        )


def check_reach(r: Tensor, radius: float, has_window: bool) -> None:
    """Raise ValueError if a pair is farther than a lattice of kernels reaches; with a window such pairs do not count."""
    if has_window or not can_look(r) or r.numel() == 0:
        return
    longest = float(r.detach().norm(dim=1).max())
    if longest > radius:
        raise ValueError(
            f"a pair is {longest:.3f} apart, beyond the radius {radius} of the spline kernels; tabulate with a larger "
            "radius, or use a model with a cutoff."
        )


def can_look(tensor: Tensor) -> bool:
    """Whether reading values is free: on the CPU, outside a compiled graph."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
