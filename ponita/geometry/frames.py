"""Grids of orientation frames in space: the rotation groups of the Platonic solids."""

from __future__ import annotations

import torch
from torch import Tensor

from ponita.geometry.symmetry import rotation_group

FRAME_GROUPS = {12: "tetrahedral", 24: "octahedral", 60: "icosahedral"}


def frame_grid(num_orientations: int) -> Tensor:
    """The frames of SE(3): rotation matrices whose columns are the three axes of a frame.

    The finite groups of rotations that fix no axis are those of the Platonic solids, so only their sizes have every
    frame equivalent to every other and exact averages: of degree 2 in the entries with 12 frames, 3 with 24 and 5 with
    60, like the solid's own vertices.

    Args:
        num_orientations: number of frames O: 12 (tetrahedral), 24 (octahedral), 60 (icosahedral), or 1, the identity
            alone, with which a network is not equivariant under rotations.

    Returns:
        Rotation matrices `[O, 3, 3]`, float64, on the CPU, the identity first.

    Raises:
        ValueError: for any other size.
    """
    is_int = isinstance(num_orientations, int) and not isinstance(num_orientations, bool)
    if is_int and num_orientations in FRAME_GROUPS:
        return rotation_group(FRAME_GROUPS[num_orientations])
    if is_int and num_orientations == 1:
        return torch.eye(3, dtype=torch.float64, device="cpu")[None]
    raise ValueError(
        f"num_orientations is {num_orientations!r}; frames come in groups of 12 (tetrahedral), 24 (octahedral) and 60 "
        "(icosahedral), or 1 (the identity): choose one of these"
    )


def frame_symmetry(num_orientations: int) -> Tensor:
    """The rotations that permute `frame_grid(num_orientations)`: its own elements, since g R is again in the group.

    Args:
        num_orientations: number of frames O of the grid.

    Returns:
        Rotation matrices `[O, 3, 3]`, float64, the identity first.

    Raises:
        ValueError: for a size that `frame_grid` does not have.
    """
    return frame_grid(num_orientations)
