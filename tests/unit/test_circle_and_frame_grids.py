"""Grids on the circle and of frames: order, exactness, exact averages, and the groups that permute them."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from ponita.geometry import circle_grid, circle_symmetry, frame_grid, frame_symmetry, is_antipodal, random_rotations

CIRCLE_SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 30, 33, 64, 250)
FRAME_SIZES = (1, 12, 24, 60)


@pytest.mark.parametrize("num", CIRCLE_SIZES)
def test_circle_is_evenly_spaced_from_x_counter_clockwise(num):
    grid = circle_grid(num)
    assert grid.shape == (num, 2) and grid.dtype == torch.float64 and grid.device.type == "cpu"
    expected = [[math.cos(2 * math.pi * o / num), math.sin(2 * math.pi * o / num)] for o in range(num)]
    # The angles of the plain formula are rounded near 2 pi, which costs it some digits.
    assert (grid - torch.tensor(expected, dtype=torch.float64)).abs().max() < 1e-15
    assert (grid.norm(dim=1) - 1).abs().max() < 3e-16
    assert torch.equal(circle_grid(num), grid)


@pytest.mark.parametrize("num", [num for num in CIRCLE_SIZES if num % 2 == 0])
def test_even_circles_hold_the_exact_negative_half_a_turn_away(num):
    grid = circle_grid(num)
    assert is_antipodal(grid) and all(torch.equal(grid[o + num // 2], -grid[o]) for o in range(num // 2))


def test_odd_circles_are_not_antipodal_and_quarter_turns_are_exact():
    assert not any(is_antipodal(circle_grid(num)) for num in (1, 3, 33))
    grid = circle_grid(16)
    assert torch.equal(grid.roll(-4, 0), torch.stack([-grid[:, 1], grid[:, 0]], dim=1))
    assert circle_grid(4).tolist() == [[1, 0], [0, 1], [-1, 0], [0, -1]]
    assert all(math.copysign(1, x) == 1 for x in circle_grid(4).flatten().tolist() if x == 0)


@pytest.mark.parametrize("num", CIRCLE_SIZES)
def test_rotations_of_the_circle_shift_its_grid(num):
    grid, rotations = circle_grid(num), circle_symmetry(num)
    assert torch.equal(rotations[0], torch.eye(2, dtype=torch.float64))
    assert (torch.linalg.det(rotations) - 1).abs().max() < 1e-15
    for o, rotation in enumerate(rotations):
        assert (grid @ rotation.T - grid.roll(-o, 0)).abs().max() < 1e-15


@pytest.mark.parametrize("num", FRAME_SIZES)
def test_frames_are_distinct_rotations_that_their_symmetries_permute(num):
    grid, rotations = frame_grid(num), frame_symmetry(num)
    identity = torch.eye(3, dtype=torch.float64)
    assert grid.shape == rotations.shape == (num, 3, 3) and grid.dtype == torch.float64 and grid.device.type == "cpu"
    assert torch.equal(grid[0], identity) and torch.equal(rotations[0], identity)
    assert (grid @ grid.mT - identity).abs().max() < 1e-15 and (torch.linalg.det(grid) - 1).abs().max() < 1e-15
    turned = rotations[:, None] @ grid
    distance, image = (turned[:, :, None] - grid).abs().amax((-1, -2)).min(dim=-1)
    # The entries of the two smaller groups are 0 and 1: no rounding at all.
    assert distance.max() < (1e-15 if num == 60 else 1e-300)
    assert torch.equal(image.sort(dim=1).values, torch.arange(num).expand(num, num))


@pytest.mark.parametrize(("num", "degree"), [(12, 2), (24, 3), (60, 5)])
def test_frames_average_polynomials_of_the_frame_exactly(num, degree):
    # (u.R v)^k integrates to 1/(k+1) for even k, and to zero for odd k, for all unit vectors u and v.
    grid, u = frame_grid(num), random_rotations(20, dtype=torch.float64)
    seen = torch.einsum("nd,ode,ne->no", u[:, 0], grid, u[:, 1])
    for k, size in product(range(1, degree + 2), (num,)):
        error = (seen.pow(k).sum(1) / size - (0 if k % 2 else 1 / (k + 1))).abs().max()
        assert error < 1e-14 if k <= degree else error > 1e-3


def test_a_grid_is_a_fresh_copy():
    frame_grid(12).zero_()
    frame_grid(1).zero_()
    assert torch.equal(frame_grid(12)[0], frame_grid(1)[0]) and frame_grid(1)[0, 0, 0] == 1
    with torch.device("meta"):
        made = [circle_grid(5), circle_symmetry(5), frame_grid(1), frame_grid(24)]
    assert all(tensor.device.type == "cpu" for tensor in made)


@pytest.mark.parametrize("num", [0, -2, 2.0, "12", True, None])
def test_sizes_that_are_no_counts_are_refused(num):
    for function in (circle_grid, circle_symmetry):
        with pytest.raises(ValueError, match=r"num_orientations is .* expected an int of at least 1; any size"):
            function(num)


@pytest.mark.parametrize("num", [0, 2, 13, 48, 12.0, "12", True, None])
def test_frames_of_other_sizes_are_refused_with_the_sizes_there_are(num):
    for function in (frame_grid, frame_symmetry):
        with pytest.raises(
            ValueError, match=r"is .*12 \(tetrahedral\), 24 \(octahedral\) and 60 \(icosahedral\), or 1"
        ):
            function(num)
