"""The theory: what a pair of points looks like from inside."""

from ponita.geometry.edges import EdgeSet
from ponita.geometry.grids import (
    GridQuality,
    fibonacci_grid,
    grid_quality,
    is_antipodal,
    order_antipodally,
    sphere_grid,
)
from ponita.geometry.invariants import bundle_invariants, distance_invariants, orientation_invariants, safe_norm
from ponita.geometry.neighbors import fully_connected, radius_graph
from ponita.geometry.rotations import random_rotations, rotate
from ponita.geometry.spaces import SPACES, Space, get_space
from ponita.geometry.symmetry import grid_symmetry, rotation_group

__all__ = [
    "SPACES",
    "EdgeSet",
    "GridQuality",
    "Space",
    "bundle_invariants",
    "distance_invariants",
    "fibonacci_grid",
    "fully_connected",
    "get_space",
    "grid_quality",
    "grid_symmetry",
    "is_antipodal",
    "order_antipodally",
    "orientation_invariants",
    "radius_graph",
    "random_rotations",
    "rotate",
    "rotation_group",
    "safe_norm",
    "sphere_grid",
]
