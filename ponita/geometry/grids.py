"""Grids of orientations on the sphere: deterministic, and closed under negation wherever that is possible."""

from __future__ import annotations

import io
import math
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

import torch
from torch import Tensor

GOLDEN = (1 + math.sqrt(5)) / 2
"""The golden ratio, which writes every icosahedral coordinate."""

TETRAHEDRON = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
OCTAHEDRON_AXES = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
CUBE_AXES = ((1, 1, 1), (1, 1, -1), (1, -1, 1), (-1, 1, 1))


class GridQuality(NamedTuple):
    """How evenly a grid covers the sphere.

    Attributes:
        min_angle: smallest angle between two directions, in degrees; infinite for a single direction.
        eigenvalues: the three eigenvalues, ascending, of `(3/O) sum_o n_o n_o^T`, `[3]`. They are all 1 when a vector
            that is lifted to the grid and read back comes out as exactly a third of itself, in every direction.
    """

    min_angle: float
    eigenvalues: Tensor


def check_num_orientations(
    num_orientations: int, advice: str = "12 (icosahedron) and 20 (dodecahedron) are good choices"
) -> None:
    """Raises a ValueError, which ends in the advice, unless `num_orientations` is an int of at least 1."""
    if isinstance(num_orientations, bool) or not isinstance(num_orientations, int) or num_orientations < 1:
        raise ValueError(f"num_orientations is {num_orientations!r}, expected an int of at least 1; {advice}")


def sphere_grid(num_orientations: int) -> Tensor:
    """The grid of `num_orientations` directions on the sphere: the same numbers on every call and every machine.

    Even sizes are closed under negation, in the order `grid[o + O // 2] == -grid[o]` (exactly), so that the kernel of
    an edge at one direction is the kernel of the reversed edge at the opposite one. The exception is 4: two lines
    through the origin cannot span space, so the tetrahedron is used, which is not antipodal.

    * 1 is +z, and 2 are +-z, which see one axis only.
    * 4, 6, 8, 12, 20 are the Platonic solids, 30 the icosidodecahedron, 32 the icosahedron with the dodecahedron and
      42 the icosahedron with the icosidodecahedron. `ponita.geometry.symmetry.grid_symmetry` gives their rotations.
      The icosahedral ones average polynomials up to degree 5 exactly, 6 and 8 up to degree 3, 4 up to degree 2.
    * Every other even size from 10 to 64, and 72, 80, 96, 100 and 128, is stored: the minimum of the repulsion energy
      `sum 1 / chord^2` among antipodal grids whose second moment is exactly isotropic (degree 3 is averaged exactly).
      It is bought with some smallest angle: 57.4 degrees for 10 (the most an isotropic antipodal grid can have; the
      Fibonacci lattice has 58.5) and 41.7 for 18 (Fibonacci 42.7). All others exceed the Fibonacci lattice.
    * Other even sizes are a Fibonacci spiral on the upper half sphere and its negative. The two spirals do not match at
      the equator: from 66 up, an eigenvalue may be off 1 by up to 0.036 and a pair may be nearer than in the plain
      lattice (down to 0.56 of its smallest angle).
    * Other odd sizes are `fibonacci_grid`.

    Args:
        num_orientations: number of directions O.

    Returns:
        Unit vectors `[O, 3]`, float64, on the CPU.

    Raises:
        ValueError: if `num_orientations` is not an int of at least 1.
    """
    check_num_orientations(num_orientations)
    return _sphere_grid(num_orientations).clone()


def fibonacci_grid(num_orientations: int) -> Tensor:
    """The Fibonacci lattice: azimuth `pi i (1 + sqrt 5)`, height `1 - 2 (i + 1/2) / O`, for i = 0 .. O-1.

    It exists for every size, but no rotation permutes it, it is not antipodal, and it is not quite isotropic.

    Args:
        num_orientations: number of directions O.

    Returns:
        Unit vectors `[O, 3]`, float64, on the CPU.

    Raises:
        ValueError: if `num_orientations` is not an int of at least 1.
    """
    check_num_orientations(num_orientations)
    return _spiral(num_orientations, num_orientations)


def is_antipodal(grid: Tensor) -> bool:
    """Whether `grid` `[O, ...]` obeys the order `grid[o + O // 2] == -grid[o]`, exactly."""
    half, odd = divmod(len(grid), 2)
    return half > 0 and not odd and torch.equal(grid[half:], -grid[:half])


def order_antipodally(grid: Tensor) -> Tensor:
    """Puts a grid that is closed under negation into the order that `is_antipodal` tests.

    Args:
        grid: unit vectors `[O, d]`, of a floating dtype.

    Returns:
        If every direction has its negative in the grid, to 4 roundings of the dtype: a copy `[O, d]` whose first half
        keeps, in their order, the direction of each pair that came first, and whose second half is the exact negative
        of the first. Otherwise the grid itself, unchanged.

    Raises:
        ValueError: if `grid` is not a floating tensor of two dimensions with at least one row.
    """
    if grid.ndim != 2 or len(grid) == 0 or not grid.is_floating_point():
        raise ValueError(
            f"the grid has shape {list(grid.shape)} and dtype {grid.dtype}, expected unit vectors [O, d] of a "
            "floating dtype with O >= 1"
        )
    error, partner = (grid[:, None] + grid[None, :]).abs().amax(dim=-1).min(dim=1)
    index = torch.arange(len(grid), device=grid.device)
    paired = bool((error <= 4 * torch.finfo(grid.dtype).eps).all()) and torch.equal(partner[partner], index)
    if not paired or bool((partner == index).any()):
        return grid
    half = grid[partner > index]
    return torch.cat([half, -half])


def grid_quality(grid: Tensor) -> GridQuality:
    """Measures the smallest angle and the isotropy of a grid of unit vectors `[O, 3]`, in float64.

    Args:
        grid: unit vectors `[O, 3]`.

    Returns:
        The smallest angle (degrees) and the eigenvalues `[3]` of `(3/O) sum_o n_o n_o^T`.

    Raises:
        ValueError: if `grid` is not of shape `[O, 3]` with O >= 1.
    """
    if grid.ndim != 2 or grid.shape[-1] != 3 or len(grid) == 0:
        raise ValueError(f"the grid has shape {list(grid.shape)}, expected unit vectors [O, 3] with O >= 1")
    grid = grid.detach().double()
    eigenvalues = torch.linalg.eigvalsh(grid.T @ grid * (3 / len(grid)))
    if len(grid) == 1:
        return GridQuality(math.inf, eigenvalues)
    chords = torch.pdist(grid).clamp(max=2)
    return GridQuality(math.degrees(2 * math.asin(chords.min().item() / 2)), eigenvalues)


@lru_cache(maxsize=64)
def _sphere_grid(num_orientations: int) -> Tensor:
    if num_orientations == 1:
        return _unit(((0, 0, 1),))
    if num_orientations == 4:
        return _unit(TETRAHEDRON)
    if num_orientations % 2:
        return fibonacci_grid(num_orientations)
    half = _half_grid(num_orientations)
    return torch.cat([half, -half])


def _half_grid(num_orientations: int) -> Tensor:
    """One direction of every antipodal pair, `[O // 2, 3]`."""
    lines = _closed_form_lines(num_orientations)
    if lines:
        return _unit(lines)
    stored = _stored_halves()
    if num_orientations in stored:
        return stored[num_orientations]
    return _spiral(num_orientations // 2, num_orientations)


def _closed_form_lines(num_orientations: int) -> tuple[tuple[float, float, float], ...]:
    """One vector (of any length) for each line of a closed-form grid; empty for the other sizes."""
    icosahedron = _cyclic((0, 1, GOLDEN), (0, -1, GOLDEN))
    dodecahedron = CUBE_AXES + _cyclic((0, GOLDEN, 1 / GOLDEN), (0, GOLDEN, -1 / GOLDEN))
    signs = ((1, 1), (1, -1), (-1, 1), (-1, -1))
    icosidodecahedron = OCTAHEDRON_AXES + _cyclic(*((a, b / GOLDEN, GOLDEN) for a, b in signs))
    lines = {
        2: ((0, 0, 1),),
        6: OCTAHEDRON_AXES,
        8: CUBE_AXES,
        12: icosahedron,
        20: dodecahedron,
        30: icosidodecahedron,
        32: icosahedron + dodecahedron,
        42: icosahedron + icosidodecahedron,
    }
    return lines.get(num_orientations, ())


def _cyclic(*vectors: tuple[float, float, float]) -> tuple[tuple[float, float, float], ...]:
    """The three cyclic permutations of every vector."""
    return tuple((v[k], v[(k + 1) % 3], v[(k + 2) % 3]) for v in vectors for k in range(3))


def _unit(vectors: tuple[tuple[float, float, float], ...]) -> Tensor:
    # The device is named so that the cache never holds tensors of an enclosing `with torch.device(...)`.
    grid = torch.tensor(vectors, dtype=torch.float64, device="cpu")
    return grid / torch.linalg.vector_norm(grid, dim=-1, keepdim=True)


def _spiral(num_points: int, num_orientations: int) -> Tensor:
    """The first `num_points` of the Fibonacci lattice of `num_orientations` directions."""
    i = torch.arange(num_points, dtype=torch.float64, device="cpu")
    azimuth = math.pi * (1 + math.sqrt(5)) * i
    polar = torch.arccos(1 - 2 * (i + 0.5) / num_orientations)
    return torch.stack([polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin(), polar.cos()], dim=-1)


@lru_cache(maxsize=1)
def _stored_halves() -> dict[int, Tensor]:
    """The stored grids (`tools/make_sphere_grids.py`), one direction of every pair, by the size of the whole grid."""
    # Imported here so that `import ponita` reads neither NumPy nor the file until a stored grid is asked for.
    import numpy as np

    content = files("ponita.geometry").joinpath("sphere_grids.npz").read_bytes()
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {int(size): torch.from_numpy(arrays[size]) for size in arrays.files}
