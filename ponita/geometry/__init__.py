"""The theory: what a pair of points looks like from inside."""

from ponita.geometry.checks import check_orientations
from ponita.geometry.circle import circle_grid, circle_symmetry
from ponita.geometry.edges import EdgeSet
from ponita.geometry.frames import frame_grid, frame_symmetry
from ponita.geometry.grids import (
    GridQuality,
    fibonacci_grid,
    grid_quality,
    is_antipodal,
    order_antipodally,
    sphere_grid,
)
from ponita.geometry.invariants import (
    bundle_invariants,
    circle_orientation_invariants,
    circle_pose_invariants,
    distance_invariants,
    frame_invariants,
    frame_orientation_invariants,
    frame_pose_invariants,
    orientation_invariants,
    planar_frames,
    safe_norm,
    sphere_pose_invariants,
)
from ponita.geometry.lifting import LiftedGraph, lift_edges
from ponita.geometry.neighbors import fully_connected, radius_graph
from ponita.geometry.periodic import NeighborList, batched_neighbors, image_shifts, periodic_neighbors
from ponita.geometry.rotations import random_rotations, rotate, spiral_rotations
from ponita.geometry.spaces import SPACES, Space, get_space
from ponita.geometry.symmetry import grid_symmetry, rotation_group

__all__ = [
    "SPACES",
    "EdgeSet",
    "GridQuality",
    "LiftedGraph",
    "NeighborList",
    "Space",
    "batched_neighbors",
    "bundle_invariants",
    "check_orientations",
    "circle_grid",
    "circle_orientation_invariants",
    "circle_pose_invariants",
    "circle_symmetry",
    "distance_invariants",
    "fibonacci_grid",
    "frame_grid",
    "frame_invariants",
    "frame_orientation_invariants",
    "frame_pose_invariants",
    "frame_symmetry",
    "fully_connected",
    "get_space",
    "grid_quality",
    "grid_symmetry",
    "image_shifts",
    "is_antipodal",
    "lift_edges",
    "order_antipodally",
    "orientation_invariants",
    "periodic_neighbors",
    "planar_frames",
    "radius_graph",
    "random_rotations",
    "rotate",
    "rotation_group",
    "safe_norm",
    "sphere_grid",
    "sphere_pose_invariants",
    "spiral_rotations",
]
