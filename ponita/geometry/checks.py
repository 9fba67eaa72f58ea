"""Checks of what users pass in: shapes and dtypes always, values only where that needs no wait for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from ponita.geometry.edges import EdgeSet
from ponita.geometry.spaces import Space

# Largest deviation of a user's orientations from unit length and orthogonality; far above the rounding of float32.
ORIENTATION_TOLERANCE = 1e-4


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


def check_displacements(r: Tensor, edges: EdgeSet, node: Tensor | None = None) -> None:
    """Raise ValueError if two different points of an edge coincide (their direction is undefined).

    Args:
        r: [P, d] of each pair.
        edges: between the points.
        node: [M] the node a point belongs to, where several points stand at one node.
    """
    if not can_look(r):
        return
    sender, receiver = edges.pair_index
    if node is not None:
        sender, receiver = node[sender], node[receiver]
    same = (r == 0).all(1) & (sender != receiver)
    if bool(same.any()):
        pairs = torch.stack([sender, receiver])[:, same].T[:5].tolist()
        raise ValueError(
            f"points coincide: distance 0 between points {pairs}; expected distinct positions. "
            "Remove duplicates, or check units and wrapped cells."
        )


def check_reach(r: Tensor, radius: float, has_window: bool) -> None:
    """Raise ValueError if a pair is farther than a lattice of kernels reaches; with a window such pairs are ignored."""
    if has_window or not can_look(r) or r.numel() == 0:
        return
    longest = float(r.detach().norm(dim=1).max())
    if longest > radius:
        raise ValueError(
            f"a pair is {longest:.3f} apart, beyond the radius {radius} of the spline kernels; tabulate with a larger "
            "radius, or use a model with a cutoff."
        )


def check_orientations(orientations: Tensor, space: Space, name: str = "grid") -> None:
    """Raise ValueError unless these are orientations of a space: unit vectors [O, d], or rotations [O, 3, 3] on SE(3).

    Args:
        orientations: what the user gave.
        space: the space.
        name: what the user calls it.
    """
    if not space.has_fibre:
        raise ValueError(f"{name} was given, but space {space.name} has no orientation grid.")
    expected = (space.dim,) * (2 if space.fibre == "frames" else 1)
    shape = tuple(orientations.shape)
    if shape[1:] != expected or shape[:1] in ((), (0,)):
        letters = ", ".join(map(str, ("O", *expected)))
        raise ValueError(f"{name} has shape {list(shape)}; expected [{letters}] with O >= 1 for space {space.name}.")
    if not orientations.is_floating_point():
        raise ValueError(f"{name} has dtype {orientations.dtype}; expected a floating dtype.")
    if can_look(orientations):
        check = _check_rotations if space.fibre == "frames" else _check_unit_vectors
        check(orientations.detach().double(), name)


def _check_unit_vectors(vectors: Tensor, name: str) -> None:
    length = vectors.norm(dim=1)
    wrong = ~((length - 1).abs() <= ORIENTATION_TOLERANCE)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name} rows are not unit vectors: row {row} has length {float(length[row]):.6g}; "
            "divide them by their norm."
        )


def _check_rotations(matrices: Tensor, name: str) -> None:
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    error = (matrices.mT @ matrices - identity).abs().amax((1, 2))
    wrong = ~(error <= ORIENTATION_TOLERANCE)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name} holds matrices that are not rotations: R^T R of number {row} is off the identity by "
            f"{float(error[row]):.3g}; the columns are to be orthogonal unit vectors."
        )
    mirrored = torch.linalg.det(matrices) < 0
    if bool(mirrored.any()):
        raise ValueError(
            f"{name} holds matrices that are not rotations: number {int(mirrored.nonzero()[0])} has determinant -1, a "
            "reflection; turn one of its columns round."
        )


def can_look(tensor: Tensor) -> bool:
    """Whether reading values is free: on the CPU, outside a compiled graph."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
