"""Measure and assert equivariance: of these networks, of layers built from them, or of anything with their interface."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ponita.geometry import random_rotations, rotate

GEOMETRIC_INPUTS = ("pos", "vec", "edge_shift")


class EquivarianceError(NamedTuple):
    """How far f(R inputs) is from R f(inputs), over some rotations R.

    Attributes:
        scalars: rms difference over the standard deviation of the outputs (over their rms when there is one row).
        vectors: the same for vectors, over their rms.
        max_abs: largest absolute difference of any output.
    """

    scalars: float
    vectors: float
    max_abs: float


def rotate_inputs(inputs: Mapping[str, Any], rotation: Tensor) -> dict[str, Any]:
    """Rotate positions, vectors, image shifts and orientations about the origin and leave the rest.

    Args:
        inputs: arguments of a network by name.
        rotation: [d, d], may be improper.
    """
    turned = {
        name: rotate(value, rotation) if name in GEOMETRIC_INPUTS and value is not None else value
        for name, value in inputs.items()
    }
    orientations = inputs.get("orientations")
    if orientations is not None:  # directions [N, d], or frames [N, d, d] whose columns turn
        are_frames = orientations.dim() == 3
        turned["orientations"] = rotation @ orientations if are_frames else rotate(orientations, rotation)
    return turned


@torch.no_grad()
def equivariance_error(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    rotations: Tensor | None = None,
    num_rotations: int = 8,
    rotate_grid: bool = False,
    generator: torch.Generator | None = None,
) -> EquivarianceError:
    """Error of a model under rotations.

    Args:
        model: returns (scalars, vectors), as `Ponita` does.
        inputs: arguments of the model by name, with `pos` among them.
        rotations: [R, d, d]; drawn at random where None.
        num_rotations: how many to draw.
        rotate_grid: turn the orientation grid along, under which bundle networks are exactly equivariant.
        generator: source of randomness.
    """
    pos = inputs["pos"]
    if rotations is None:
        rotations = random_rotations(num_rotations, dim=pos.shape[1], generator=generator)
    scalars, vectors = model(**inputs)
    differences = []
    for rotation in rotations.to(pos):
        with _turned_grid(model, rotation, rotate_grid):
            turned = model(**rotate_inputs(inputs, rotation))
        differences.append((turned[0] - scalars, turned[1] - rotate(vectors, rotation)))
    of_scalars, of_vectors = (torch.stack(d) for d in zip(*differences, strict=True))
    spread = scalars.std(0).norm() / max(scalars.shape[1], 1) ** 0.5 if scalars.shape[0] > 1 else _rms(scalars)
    return EquivarianceError(
        scalars=float(_rms(of_scalars) / spread) if scalars.numel() else 0.0,
        vectors=float(_rms(of_vectors) / _rms(vectors)) if vectors.numel() else 0.0,
        max_abs=max(float(d.abs().max()) if d.numel() else 0.0 for d in (of_scalars, of_vectors)),
    )


def assert_equivariant(
    model: nn.Module,
    inputs: Mapping[str, Any],
    *,
    rotations: Tensor | None = None,
    rotate_grid: bool = False,
    tolerance: float = 1e-10,
    generator: torch.Generator | None = None,
) -> None:
    """Raise AssertionError where an output differs by more than `tolerance` from what the rotation makes of it.

    Args:
        model: as in `equivariance_error`.
        inputs: arguments of the model by name.
        rotations: [R, d, d]; random ones where None.
        rotate_grid: turn the orientation grid along.
        tolerance: largest absolute difference allowed.
        generator: source of randomness.
    """
    error = equivariance_error(model, inputs, rotations=rotations, rotate_grid=rotate_grid, generator=generator)
    if not error.max_abs <= tolerance:
        raise AssertionError(
            f"not equivariant: largest difference {error.max_abs:.3e}, allowed {tolerance:.1e}; {error}"
        )


@contextmanager
def _turned_grid(model: nn.Module, rotation: Tensor, active: bool):
    """Turn the grid of a model for a while; on spaces without directions there is nothing to turn."""
    if not active or not model.space.has_fibre:
        yield
        return
    grid = model.grid
    model.set_grid(model.space.rotate_grid(grid, rotation))
    try:
        yield
    finally:
        model.set_grid(grid)


def _rms(values: Tensor) -> Tensor:
    return values.square().mean().sqrt()
