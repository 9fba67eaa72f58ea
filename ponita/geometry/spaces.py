"""Homogeneous spaces of the special Euclidean group that a network can live on (PONITA, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ponita.geometry import circle, frames, grids, invariants, symmetry

Fibre = Literal["circle", "sphere", "frames"]


@dataclass(frozen=True)
class Space:
    """A space X = SE(d)/H whose points carry the features, and everything in a network that differs between spaces.

    A point is a position with an orientation: none on R^d, a unit vector [d] on the circle and the sphere, a rotation
    matrix [3, 3] on SE(3). Grids of orientations are [O, d] or [O, 3, 3]; on R^d the grid is one row of zeros.

    Attributes:
        name: the name users write.
        dim: dimension d of the positions.
        fibre: the orientations at a position: None on R^d, "circle" (R^2 x S^1, which is SE(2)), "sphere" (R^3 x S^2)
            or "frames" (SE(3)).
    """

    name: str
    dim: int
    fibre: Fibre | None

    @property
    def has_fibre(self) -> bool:
        """Whether a point carries an orientation besides its position, so that features are [N, O, C] with O > 1."""
        return self.fibre is not None

    @property
    def vector_components(self) -> int:
        """k, how many components of a vector an orientation sees: 1 (along a direction), 3 (in a frame), 0 on R^d."""
        return {None: 0, "circle": 1, "sphere": 1, "frames": 3}[self.fibre]

    @property
    def num_invariants(self) -> int:
        """Width of `pair_invariants`."""
        return {None: 1, "circle": 2, "sphere": 2, "frames": 3}[self.fibre]

    def num_fiber_invariants(self, complete: bool = False) -> int:
        """Width of `fiber_invariants`."""
        return {None: 0, "circle": 2 if complete else 1, "sphere": 1, "frames": 9}[self.fibre]

    def num_full_invariants(self, complete: bool = False) -> int:
        """Width of `full_invariants`."""
        return {None: 1, "circle": 4 if complete else 3, "sphere": 5 if complete else 3, "frames": 12}[self.fibre]

    def mirror_invariant(self, complete: bool = False) -> bool:
        """Whether a reflection of all positions and orientations keeps every invariant, so that a network takes mirror
        images for the same thing.

        Always on R^d. On the sphere all but the determinant of the complete set are kept, so bundle networks never
        tell mirror images apart. In the plane the component of r across a direction changes its sign. The mirror image
        of a frame is not a rotation, and no invariant of SE(3) is kept.
        """
        return self.fibre is None or (self.fibre == "sphere" and not complete)

    def make_grid(self, num_orientations: int) -> Tensor:
        """Orientations, float64 and on the CPU: `circle_grid`, `sphere_grid` or `frame_grid`; on R^d one row of zeros,
        whatever the size.

        Shape:
            [O, d], or [O, 3, 3] on SE(3)

        Raises:
            ValueError: for a size that the grid does not have.
        """
        if self.fibre is None:
            return torch.zeros(1, self.dim, dtype=torch.float64, device="cpu")
        make = {"circle": circle.circle_grid, "sphere": grids.sphere_grid, "frames": frames.frame_grid}
        return make[self.fibre](num_orientations)

    def grid_symmetry(self, num_orientations: int) -> Tensor:
        """The rotations known to permute `make_grid(num_orientations)`, the identity first: a network on that grid is
        exact under these. On R^d, where every rotation is exact, the identity alone.

        Shape:
            [G, d, d]

        Raises:
            ValueError: for a size that the grid does not have.
        """
        if self.fibre is None:
            return torch.eye(self.dim, dtype=torch.float64, device="cpu")[None]
        make = {"circle": circle.circle_symmetry, "sphere": symmetry.grid_symmetry, "frames": frames.frame_symmetry}
        return make[self.fibre](num_orientations)

    def rotate_grid(self, grid: Tensor, rotation: Tensor) -> Tensor:
        """Turn orientations by a rotation [d, d]: o -> g o, R -> g R. Antipodal grids stay so to the bit.

        Reflections are allowed for directions; they make frames left-handed, which `check_orientations` refuses.

        Shape:
            as `grid`.
        """
        rotation = rotation.to(grid)
        if self.fibre == "frames":
            return rotation @ grid
        if not grids.is_antipodal(grid):
            return grid @ rotation.T
        half = grid[: len(grid) // 2] @ rotation.T
        return torch.cat([half, -half])

    def reverses(self, grid: Tensor) -> bool:
        """Whether the kernel of a reversed edge is that of the edge read at the opposite orientation.

        Always on R^d, where a distance has no direction. The invariants of directions keep their value under
        (r, o) -> (-r, -o), so on grids for which `is_antipodal` holds. Never for frames, since -R is not a rotation.
        """
        return self.fibre is None or grids.is_antipodal(grid)

    def axes(self, orientations: Tensor) -> Tensor:
        """The unit vectors whose inner products with a vector are its components seen at an orientation: the direction,
        the three columns of a frame, or none on R^d.

        Shape:
            orientations [..., d] or [..., 3, 3] -> [..., d, k] with k = `vector_components`
        """
        return orientations if self.fibre == "frames" else orientations[..., None][..., : self.vector_components]

    def pair_invariants(self, r: Tensor, grid: Tensor, smoothing: float = 0.0) -> Tensor:
        """Invariants of a pair whose points have the same orientation, for every orientation of a grid: |r|;
        (r.o, -r_x o_y + r_y o_x); (o.r, |r - (o.r)o|); R^T r.

        Args:
            r: [E, d] from receiver to sender.
            grid: [O, d] or [O, 3, 3].
            smoothing: length (units of r) over which the kink on the axis of a direction on the sphere is rounded. The
                other spaces have no such kink and do not read it.

        Shape:
            [E, O, num_invariants]
        """
        if self.fibre is None:
            return invariants.distance_invariants(r)
        if self.fibre == "sphere":
            return invariants.bundle_invariants(r, grid, smoothing)
        return invariants.frame_invariants(r, invariants.planar_frames(grid) if self.fibre == "circle" else grid)

    def fiber_invariants(self, grid: Tensor, complete: bool = False) -> Tensor:
        """Invariants of two orientations at one point: o.o' (with `complete` in the plane, (cos, sin) of the angle from
        the receiver's to the sender's), or R_p^T R_o row by row.

        The first index is the sender o, the second the receiver p, as `ponita.ops.orientation_conv` reads its kernel.

        Args:
            grid: [O, d] or [O, 3, 3].
            complete: use the complete set; it is another one in the plane only.

        Shape:
            [O, O, num_fiber_invariants(complete)]
        """
        if self.fibre is None:
            return grid.new_zeros(len(grid), len(grid), 0)
        if self.fibre == "circle":
            return invariants.circle_orientation_invariants(grid, complete)
        if self.fibre == "sphere":
            return invariants.orientation_invariants(grid)
        return invariants.frame_orientation_invariants(grid)

    def full_invariants(
        self,
        r: Tensor,
        receiver_orientation: Tensor | None,
        sender_orientation: Tensor | None,
        complete: bool = False,
        smoothing: float = 0.0,
    ) -> Tensor:
        """Invariants of a pair of points with orientations of their own; see the `*_pose_invariants` for each set.

        Args:
            r: [..., d] from receiver to sender.
            receiver_orientation: [..., d] or [..., 3, 3]; not read on R^d.
            sender_orientation: the same of the sender.
            complete: use the complete set; it is another one in the plane and on the sphere.
            smoothing: as in `pair_invariants`.

        Shape:
            [..., num_full_invariants(complete)]; leading dimensions broadcast.
        """
        if self.fibre is None:
            return invariants.safe_norm(r)[..., None]
        orientations = (receiver_orientation, sender_orientation)
        if self.fibre == "circle":
            return invariants.circle_pose_invariants(r, *orientations, complete)
        if self.fibre == "sphere":
            return invariants.sphere_pose_invariants(r, *orientations, complete, smoothing)
        return invariants.frame_pose_invariants(r, *orientations)


SPACES = {
    "R2": Space("R2", dim=2, fibre=None),
    "R3": Space("R3", dim=3, fibre=None),
    "R2xS1": Space("R2xS1", dim=2, fibre="circle"),
    "R3xS2": Space("R3xS2", dim=3, fibre="sphere"),
    "SE3": Space("SE3", dim=3, fibre="frames"),
}


def get_space(name: str) -> Space:
    """Look a space up by name.

    Raises:
        ValueError: for a name that is not among the implemented spaces.
    """
    if name not in SPACES:
        raise ValueError(f"space={name!r} is not implemented; choose one of {sorted(SPACES)}.")
    return SPACES[name]
