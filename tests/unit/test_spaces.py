"""The spaces: what each invariant keeps, what it tells apart, and how grids turn. Float64 throughout."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from ponita.geometry import SPACES, check_orientations, get_space, is_antipodal, random_rotations
from ponita.ops import orientation_conv

NAMES = ("R2", "R3", "R2xS1", "R3xS2", "SE3")
FIBRED = NAMES[2:]
EXACT = 1e-12
SIZES = {"R2": (1,), "R3": (1,), "R2xS1": (1, 5, 8), "R3xS2": (5, 12, 16), "SE3": (1, 12, 60)}


def vector(*entries):
    return torch.tensor(entries, dtype=torch.float64)


def orientations(space, count):
    """Random points of the fibre: a column of a random rotation, or all of it."""
    rotations = random_rotations(count, dim=space.dim, dtype=torch.float64)
    return rotations if space.fibre == "frames" else rotations[..., 0]


def pairs(space, count):
    """Positions p_i, p_j and orientations o_i, o_j."""
    positions = torch.randn(2, count, space.dim, dtype=torch.float64)
    return *positions, orientations(space, count), orientations(space, count)


def act(space, rotation, translation, p_i, p_j, o_i, o_j):
    """A Euclidean motion of pairs."""
    turned = (p @ rotation.T + translation for p in (p_i, p_j))
    return *turned, *(rotation @ o if space.fibre == "frames" else o @ rotation.T for o in (o_i, o_j))


def full(space, p_i, p_j, o_i, o_j, complete=True, smoothing=0.0):
    return space.full_invariants(p_j - p_i, o_i, o_j, complete, smoothing)


def motion(space):
    return random_rotations(1, dim=space.dim, dtype=torch.float64)[0], torch.randn(space.dim, dtype=torch.float64)


def mirror(dim):
    return torch.diag(vector(*([1.0] * (dim - 1)), -1.0))


@pytest.mark.parametrize("name", NAMES)
def test_all_invariants_keep_their_value_under_motions(name):
    space = get_space(name)
    some, grid = pairs(space, 7), space.make_grid(SIZES[name][-1])
    r = some[1] - some[0]
    for complete, smoothing, _ in product((False, True), (0.0, 0.3), range(5)):
        rotation, translation = motion(space)
        moved, turned = act(space, rotation, translation, *some), space.rotate_grid(grid, rotation)
        checks = (
            (full(space, *some, complete, smoothing), full(space, *moved, complete, smoothing)),
            (
                space.pair_invariants(r, grid, smoothing),
                space.pair_invariants(moved[1] - moved[0], turned, smoothing),
            ),
            (space.fiber_invariants(grid, complete), space.fiber_invariants(turned, complete)),
        )
        for before, after in checks:
            assert before.shape == after.shape and (before.numel() == 0 or (before - after).abs().max() < EXACT)


@pytest.mark.parametrize(("name", "complete"), list(product(NAMES, (False, True))))
def test_widths_are_what_the_space_says(name, complete):
    space = get_space(name)
    grid, r = space.make_grid(SIZES[name][-1]), torch.randn(4, space.dim, dtype=torch.float64)
    size = len(grid)
    assert space.pair_invariants(r, grid).shape == (4, size, space.num_invariants)
    assert space.fiber_invariants(grid, complete).shape == (size, size, space.num_fiber_invariants(complete))
    assert full(space, *pairs(space, 4), complete).shape == (4, space.num_full_invariants(complete))
    assert space.axes(grid).shape == (size, space.dim, space.vector_components)
    assert space.has_fibre == (name in FIBRED)


@pytest.mark.parametrize(("name", "complete"), list(product(FIBRED, (False, True))))
def test_pair_and_fiber_invariants_are_parts_of_the_full_ones(name, complete):
    # All receivers and senders of a grid at once: leading dimensions broadcast.
    space = get_space(name)
    grid, r = space.make_grid(SIZES[name][-1]), torch.randn(4, space.dim, dtype=torch.float64)
    together = space.full_invariants(r[:, None, None], grid[None, None], grid[None, :, None], complete, 0.2)
    assert together.shape == (4, len(grid), len(grid), space.num_full_invariants(complete))
    same = together.diagonal(dim1=1, dim2=2).movedim(-1, 1)
    width = space.num_invariants
    torch.testing.assert_close(same[..., :width], space.pair_invariants(r, grid, 0.2), rtol=0, atol=EXACT)
    # Index [sender, receiver], as the convolution over orientations reads it.
    fiber = space.fiber_invariants(grid, complete)
    part = together[0, ..., width : width + fiber.shape[-1]]
    torch.testing.assert_close(part, fiber, rtol=0, atol=EXACT)


def test_the_invariants_of_the_plane_are_components_in_the_frame_of_the_receiver():
    space, grid = get_space("R2xS1"), get_space("R2xS1").make_grid(4)
    r, o = vector(3.0, 4.0), vector(0.6, 0.8)
    assert torch.allclose(space.pair_invariants(r[None], o[None]), vector(5.0, 0.0))
    assert torch.allclose(space.pair_invariants(vector(-4.0, 3.0)[None], o[None]), vector(0.0, 5.0))
    # The sender is a quarter turn counter-clockwise of the receiver: the angle from receiver to sender is +90 degrees.
    assert torch.equal(space.fiber_invariants(grid, complete=True)[1, 0], vector(0.0, 1.0))
    assert torch.equal(space.full_invariants(r, grid[0], grid[1], complete=True), vector(3.0, 4.0, 0.0, 1.0))
    x = torch.randn(2, 4, 1, dtype=torch.float64)
    shifted = orientation_conv(x, (space.fiber_invariants(grid, complete=True)[..., 1:] == 1).double())
    assert torch.equal(shifted * 4, x.roll(-1, 1))


def test_the_invariants_of_frames_are_the_pose_of_the_sender_in_the_frame_of_the_receiver():
    space = get_space("SE3")
    p_i, p_j, r_i, r_j = pairs(space, 3)
    pose = torch.linalg.solve(r_i, torch.cat([r_j, (p_j - p_i)[..., None]], dim=-1))
    expected = torch.cat([pose[..., 3], pose[..., :3].flatten(1)], dim=1)
    torch.testing.assert_close(full(space, p_i, p_j, r_i, r_j), expected, rtol=0, atol=EXACT)


def turned_by(space, orientation, w):
    """The orientation turned by exp of the skew matrix of w, for derivatives along the fibre."""
    x, y, z = (w[0], w[0], w[0]) if space.dim == 2 else w
    zero = torch.zeros_like(x)
    rows = [[zero, -x], [x, zero]] if space.dim == 2 else [[zero, -z, y], [z, zero, -x], [-y, x, zero]]
    return torch.linalg.matrix_exp(torch.stack([torch.stack(row) for row in rows])) @ orientation


@pytest.mark.parametrize(
    ("name", "complete", "rank"),
    [
        ("R2", True, 1),  # 4 - 3
        ("R3", True, 1),  # 6 - 5: a pair of points is fixed by the rotations about their line
        ("R2xS1", True, 3),  # 6 - 3
        ("R3xS2", True, 4),  # 10 - 6
        ("SE3", True, 6),  # 12 - 6
        ("R2xS1", False, 3),  # complete up to a sign
        ("R3xS2", False, 3),
    ],
)
def test_complete_invariants_separate_as_many_dimensions_as_pairs_have_beyond_the_group(name, complete, rank):
    space = get_space(name)
    num_angles = {2: 1, 3: 3}[space.dim]

    for p_i, p_j, o_i, o_j in zip(*pairs(space, 5), strict=True):

        def invariants(parameters, pair=(p_i, p_j, o_i, o_j)):
            a, b, u, v = parameters.split([space.dim, space.dim, num_angles, num_angles])
            p_i, p_j, o_i, o_j = pair
            return full(space, p_i + a, p_j + b, turned_by(space, o_i, u), turned_by(space, o_j, v), complete)

        zero = torch.zeros(2 * (space.dim + num_angles), dtype=torch.float64)
        values = torch.linalg.svdvals(torch.autograd.functional.jacobian(invariants, zero))
        assert int((values > 1e-8).sum()) == rank


def canonical_pair(space, numbers):
    """A pair with p_i = 0 and o_i at a fixed place that has the given complete invariants, from these alone."""
    zero = torch.zeros(space.dim, dtype=torch.float64)
    if space.fibre is None:
        return zero, torch.cat([numbers, zero[1:]]), zero, zero
    if space.fibre == "circle":
        return zero, numbers[:2], vector(1.0, 0.0), numbers[2:]
    if space.fibre == "frames":
        return zero, numbers[:3], torch.eye(3, dtype=torch.float64), numbers[3:].view(3, 3)
    along, across, cosine, shadow, volume = numbers.tolist()
    # r in the half plane of x > 0; on the axis any direction of o_j will do.
    x = (shadow - along * cosine) / across if across > EXACT else max(0.0, 1 - cosine**2) ** 0.5
    y = volume / across if across > EXACT else 0.0
    return zero, vector(across, 0.0, along), vector(0.0, 0.0, 1.0), vector(x, y, cosine)


def aligning_rotation(space, first, second):
    """The rotation that brings the vectors of one pair nearest to those of another (Kabsch)."""

    def spread(p_i, p_j, o_i, o_j):
        parts = [(p_j - p_i)[:, None]] + ([space.axes(o) for o in (o_i, o_j)] if space.has_fibre else [])
        return torch.cat(parts, dim=1)

    u, _, v = torch.linalg.svd(spread(*second) @ spread(*first).T)
    return u @ torch.diag(vector(*([1.0] * (space.dim - 1)), torch.linalg.det(u @ v))) @ v


def special_pairs(space):
    """Pairs on the axis, in one plane, and with equal positions, besides generic ones."""
    p_i, p_j, o_i, o_j = pairs(space, 6)
    if space.fibre == "sphere":
        p_j[1] = p_i[1] + 0.7 * o_i[1]
        p_j[2] = p_i[2] - 0.7 * o_i[2]
        o_j[3] = torch.nn.functional.normalize(p_j[3] - p_i[3] + 2 * o_i[3], dim=0)
        o_j[4] = -o_i[4]
    p_j[5] = p_i[5]
    return list(zip(p_i, p_j, o_i, o_j, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_pairs_with_equal_complete_invariants_are_related_by_a_motion(name):
    space = get_space(name)
    for pair in special_pairs(space):
        numbers = full(space, *pair)
        other = canonical_pair(space, numbers)
        torch.testing.assert_close(full(space, *other), numbers, rtol=0, atol=1e-7)
        rotation = aligning_rotation(space, other, pair)
        related = act(space, rotation, pair[0], *other)
        for a, b in zip(related, pair, strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-7) or not space.has_fibre
        # On R^d orientations mean nothing.
        torch.testing.assert_close(related[1], pair[1], rtol=0, atol=1e-7)


def test_counterexample_on_the_sphere():
    space, zero = get_space("R3xS2"), torch.zeros(3, dtype=torch.float64)
    x, y, z = torch.eye(3, dtype=torch.float64)
    published = [full(space, zero, x, z, o_j, complete=False) for o_j in (x, y, -y)]
    assert all(torch.equal(numbers, vector(0.0, 1.0, 0.0)) for numbers in published)
    # o_j.r = 1, 0, 0, and the volume z.(x cross o_j) = 0, 1, -1.
    complete = [full(space, zero, x, z, o_j)[3:].tolist() for o_j in (x, y, -y)]
    assert complete == [[1, 0], [0, 1], [0, -1]]


def test_counterexample_in_the_plane():
    space, zero, o_i = get_space("R2xS1"), torch.zeros(2, dtype=torch.float64), vector(1.0, 0.0)
    angle = torch.tensor(0.7, dtype=torch.float64)
    left, right = torch.stack([angle.cos(), angle.sin()]), torch.stack([angle.cos(), -angle.sin()])
    first, second = (full(space, zero, zero, o_i, o_j, complete=False) for o_j in (left, right))
    assert torch.equal(first, second)
    first, second = (full(space, zero, zero, o_i, o_j) for o_j in (left, right))
    assert torch.equal(first[3], angle.sin()) and torch.equal(second[3], -angle.sin())
    grid = torch.stack([left, right])
    published, complete = space.fiber_invariants(grid), space.fiber_invariants(grid, complete=True)
    assert torch.equal(published[0, 1], published[1, 0]) and complete[0, 1, 1] == -complete[1, 0, 1] != 0


@pytest.mark.parametrize(("name", "complete"), list(product(NAMES, (False, True))))
def test_reflections_keep_the_invariants_where_the_space_says_so(name, complete):
    space = get_space(name)
    some = pairs(space, 7)
    reflected = act(space, mirror(space.dim), torch.zeros(space.dim, dtype=torch.float64), *some)
    if space.fibre == "frames":
        # A frame's mirror image is no rotation; turn one axis round to have one.
        reflected = (*reflected[:2], *(o @ mirror(3) for o in reflected[2:]))
    before, after = full(space, *some, complete), full(space, *reflected, complete)
    assert ((before - after).abs().max() < EXACT) == space.mirror_invariant(complete)
    changed = {"R2xS1": [1, 3] if complete else [1], "R3xS2": [4] if complete else []}.get(name)
    if changed is not None:
        kept = [k for k in range(before.shape[1]) if k not in changed]
        assert (before - after)[:, kept].abs().max() < EXACT
        assert not changed or (before + after)[:, changed].abs().max() < EXACT


def test_bundle_networks_on_the_sphere_never_see_a_mirror():
    space = get_space("R3xS2")
    grid, r, reflection = space.make_grid(12), torch.randn(5, 3, dtype=torch.float64), mirror(3)
    turned = space.rotate_grid(grid, reflection)
    assert (space.pair_invariants(r, grid) - space.pair_invariants(r @ reflection, turned)).abs().max() < EXACT
    assert (space.fiber_invariants(grid, True) - space.fiber_invariants(turned, True)).abs().max() < EXACT


@pytest.mark.parametrize(("name", "num"), [(name, num) for name in NAMES for num in SIZES[name]])
def test_a_reversed_edge_at_the_opposite_orientation_has_the_same_invariants_where_the_space_says_so(name, num):
    space = get_space(name)
    grid, r = space.make_grid(num), torch.randn(5, space.dim, dtype=torch.float64)
    size = len(grid)
    there, back = (space.pair_invariants(v, grid, 0.1).roll(shift, 1) for v, shift in ((r, 0), (-r, size // 2)))
    assert ((there - back).abs().max() < EXACT) == space.reverses(grid)
    assert space.reverses(grid) == (not space.has_fibre or (name != "SE3" and size % 2 == 0))
    assert space.reverses(grid[:1].repeat(2, *[1] * (grid.dim() - 1))) == (not space.has_fibre)


@pytest.mark.parametrize("name", FIBRED)
def test_components_seen_at_orientations_are_invariant_and_give_the_vector_back(name):
    space = get_space(name)
    grid, v = space.make_grid(SIZES[name][-1]), torch.randn(6, space.dim, dtype=torch.float64)
    rotation, _ = motion(space)
    seen = torch.einsum("nd,odk->nok", v, space.axes(grid))
    turned = torch.einsum("nd,odk->nok", v @ rotation.T, space.axes(space.rotate_grid(grid, rotation)))
    assert (seen - turned).abs().max() < EXACT
    assert (space.axes(grid).norm(dim=1) - 1).abs().max() < EXACT
    back = torch.einsum("nok,odk->nd", seen, space.axes(grid)) * space.dim / (len(grid) * space.vector_components)
    assert (back - v).abs().max() < EXACT


def test_the_axes_of_a_frame_are_its_columns():
    space = get_space("SE3")
    frame = orientations(space, 1)
    for k in range(3):
        assert torch.equal(space.axes(frame)[0, :, k], frame[0] @ torch.eye(3, dtype=torch.float64)[k])


@pytest.mark.parametrize(
    ("name", "num"), [("R2", 4), ("R3", 4), ("R2xS1", 7), ("R2xS1", 8), ("R3xS2", 20), ("SE3", 24)]
)
def test_every_symmetry_of_a_grid_permutes_it(name, num):
    space = get_space(name)
    grid, rotations = space.make_grid(num), space.grid_symmetry(num)
    assert len(rotations) == {"R2xS1": num, "R3xS2": 60, "SE3": num}.get(name, 1)
    assert rotations.shape[1:] == (space.dim, space.dim) and torch.equal(rotations[0], torch.eye(space.dim).double())
    for rotation in rotations:
        turned = space.rotate_grid(grid, rotation)
        distance, image = (turned[:, None] - grid).flatten(2).abs().amax(-1).min(dim=1)
        assert distance.max() < 1e-15 and image.sort().values.tolist() == list(range(len(grid)))


def test_turning_a_grid_keeps_it_antipodal_to_the_bit_and_keeps_its_dtype():
    for name, num in (("R2xS1", 10), ("R3xS2", 16)):
        space = get_space(name)
        grid = space.make_grid(num)
        for dtype in (torch.float32, torch.float64):
            turned = space.rotate_grid(grid.to(dtype), motion(space)[0])
            assert turned.dtype == dtype and is_antipodal(turned)


def test_without_orientations_the_grid_is_one_row_of_zeros():
    for name in ("R2", "R3"):
        space = get_space(name)
        assert torch.equal(space.make_grid(20), torch.zeros(1, space.dim, dtype=torch.float64))
        r = torch.randn(3, space.dim, dtype=torch.float64)
        assert torch.equal(space.full_invariants(r, None, None), space.pair_invariants(r, space.make_grid(1))[:, 0])


@pytest.mark.parametrize(("name", "smoothing"), list(product(NAMES, (0.0, 0.1))))
def test_derivatives_are_finite_at_zero_displacement_and_on_axes(name, smoothing):
    space = get_space(name)
    grid = space.make_grid(12)
    r = torch.cat([torch.zeros(1, space.dim).double(), space.axes(grid)[..., 0] if space.has_fibre else grid])
    r = r.clone().requires_grad_()
    o = orientations(space, len(r)).requires_grad_()
    o_i = torch.cat([o[:1], grid]) if space.has_fibre else o
    for complete in (False, True):
        values = full(space, torch.zeros_like(r), r, o_i, o, complete, smoothing).square().sum()
        values = values + space.pair_invariants(r, grid, smoothing).pow(3).sum()
        gradients = torch.autograd.grad(values, (r, o), create_graph=True, allow_unused=True)
        total = sum((g * torch.rand_like(g)).sum() for g in gradients if g is not None)
        second = torch.autograd.grad(total, (r, o), allow_unused=True)
        assert all(bool(g.isfinite().all()) for g in (*gradients, *second) if g is not None)


def test_smoothing_rounds_the_axis_of_the_sphere_and_nothing_else():
    for name in NAMES:
        space = get_space(name)
        grid, some = space.make_grid(12), pairs(space, 4)
        sharp, smooth = (space.pair_invariants(some[0], grid, s) for s in (0.0, 0.5))
        full_sharp, full_smooth = (full(space, *some, True, s) for s in (0.0, 0.5))
        if name != "R3xS2":
            assert torch.equal(sharp, smooth) and torch.equal(full_sharp, full_smooth)
            continue
        for before, after in ((sharp, smooth), (full_sharp, full_smooth)):
            assert torch.equal(before[..., 0], after[..., 0]) and torch.equal(before[..., 2:], after[..., 2:])
            torch.testing.assert_close(after[..., 1], (before[..., 1].square() + 0.25).sqrt())


@pytest.mark.parametrize("name", FIBRED)
def test_orientations_of_a_space_are_accepted(name):
    space = get_space(name)
    for dtype in (torch.float32, torch.float64):
        check_orientations(orientations(space, 5).to(dtype), space)
        check_orientations(space.make_grid(12).to(dtype), space)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("R3", torch.eye(3), "direction was given, but space R3 has no orientation grid"),
        ("R2xS1", torch.eye(3), r"direction has shape \[3, 3\]; expected \[O, 2\] with O >= 1 for space R2xS1"),
        ("R3xS2", torch.zeros(0, 3), r"direction has shape \[0, 3\]; expected \[O, 3\]"),
        ("R3xS2", torch.tensor(1.0), r"direction has shape \[\]; expected \[O, 3\]"),
        ("SE3", torch.eye(3), r"direction has shape \[3, 3\]; expected \[O, 3, 3\]"),
        ("R3xS2", torch.eye(3).long(), "direction has dtype torch.int64; expected a floating dtype"),
        ("R3xS2", torch.diag(torch.tensor([1.0, 1, 1.1])), "not unit vectors: row 2 has length 1.1; divide"),
        ("R2xS1", torch.full((1, 2), torch.nan), "not unit vectors: row 0 has length nan"),
        ("SE3", torch.stack([torch.eye(3), 2 * torch.eye(3)]), "not rotations: R.T R of number 1 is off .* by 3;"),
        ("SE3", torch.stack([torch.eye(3), mirror(3).float()]), "not rotations: number 1 has determinant -1"),
    ],
)
def test_other_orientations_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        check_orientations(value, get_space(name), "direction")


def test_names():
    assert tuple(SPACES) == NAMES and all(get_space(name).name == name for name in NAMES)
    assert [get_space(name).dim for name in NAMES] == [2, 3, 2, 3, 3]
    with pytest.raises(ValueError, match=r"space='R4' is not implemented; choose one of \['R2', 'R2xS1', 'R3'"):
        get_space("R4")
