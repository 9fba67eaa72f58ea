"""Lifted graphs against a double loop over edges and pairs of lifted points."""

from __future__ import annotations

import pytest
import torch

from ponita.geometry import EdgeSet, fully_connected, get_space, lift_edges, random_rotations


def positions(num_nodes, dim=3):
    return torch.randn(num_nodes, dim, dtype=torch.float64)


def random_edges(num_nodes, num_edges):
    """Directed edges with repetitions and self-loops, in no order."""
    return torch.randint(num_nodes, (2, num_edges))


def random_shifts(edge_index):
    """Image shifts on a small lattice, so that some edges repeat and some self-loops are images."""
    cell = torch.tensor([[4.0, 0.5, 0.0], [0.0, 5.0, 1.0]], dtype=torch.float64)
    return torch.randint(-1, 2, (edge_index.shape[1], 2)).double() @ cell


def by_brute_force(edge_index, edge_shift):
    """Lifted points (t, s, shift) and links (a, b, shift), a and b as points: sets of tuples."""
    rows = [(0.0,) * 3] * edge_index.shape[1] if edge_shift is None else [tuple(row) for row in edge_shift.tolist()]
    zero = (0.0,) * 3
    edges = {(s, t, shift) for (s, t), shift in zip(edge_index.T.tolist(), rows, strict=True)}
    edges = {edge for edge in edges if edge[0] != edge[1] or edge[2] != zero}
    points = {(t, s, shift) for s, t, shift in edges}
    links = set()
    for a in points:
        for b in points:
            links |= {(a, b, shift) for s, t, shift in edges if (s, t) == (a[0], b[0])}
            links |= {(a, b, zero)} if a[0] == b[0] else set()
    return points, links


def as_sets(lifted):
    """Lifted points (t, s, direction) and links (a, b, shift)."""
    directions = lifted.direction.tolist()
    points = list(zip(lifted.node.tolist(), lifted.neighbor.tolist(), map(tuple, directions), strict=True))
    num_links = lifted.lifted_edge_index.shape[1]
    shifts = (
        [(0.0,) * 3] * num_links
        if lifted.lifted_edge_shift is None
        else [tuple(s) for s in lifted.lifted_edge_shift.tolist()]
    )
    links = [(points[a], points[b], s) for (a, b), s in zip(lifted.lifted_edge_index.T.tolist(), shifts, strict=True)]
    assert len(set(points)) == len(points) and len(set(links)) == num_links
    return points, links


def pointing(points, pos):
    """Brute-force points with the direction in place of the shift."""
    named = {}
    for t, s, shift in points:
        toward = pos[s] + torch.tensor(shift, dtype=pos.dtype) - pos[t]
        named[t, s, shift] = (t, s, tuple((toward / toward.norm()).tolist()))
    return named


def rounded(points):
    return {(t, s, tuple(round(x, 12) + 0.0 for x in direction)) for t, s, direction in points}


def assert_lifted(pos, edge_index, edge_shift=None):
    lifted = lift_edges(pos, edge_index, edge_shift)
    points, links = as_sets(lifted)
    expected_points, expected_links = by_brute_force(edge_index, edge_shift)
    named = pointing(expected_points, pos)
    assert len(points) == len(expected_points) and len(links) == len(expected_links)
    assert rounded(points) == rounded(named.values())

    def keyed(links):
        return {(*rounded([a]), *rounded([b]), tuple(round(x, 9) + 0.0 for x in shift)) for a, b, shift in links}

    assert keyed(links) == keyed((named[a], named[b], shift) for a, b, shift in expected_links)
    assert (lifted.node.diff() >= 0).all() and (lifted.lifted_edge_index[1].diff() >= 0).all()
    assert lifted.lifted_edge_index.dtype == lifted.node.dtype == lifted.neighbor.dtype == torch.int64
    return lifted


@pytest.mark.parametrize(("num_nodes", "num_edges"), [(1, 1), (2, 3), (6, 9), (6, 40), (9, 12)])
def test_random_directed_graphs_with_isolated_nodes_loops_and_repetitions(num_nodes, num_edges):
    for _ in range(5):
        lifted = assert_lifted(positions(num_nodes), random_edges(num_nodes, num_edges))
        assert lifted.lifted_edge_shift is None


def test_symmetric_graphs_in_one_batch():
    batch = torch.tensor([0, 0, 0, 1, 2, 2])
    lifted = assert_lifted(positions(6), fully_connected(batch, loops=True))
    assert lifted.node.tolist() == [0, 0, 1, 1, 2, 2, 4, 5]
    assert lifted.neighbor.tolist() == [1, 2, 0, 2, 0, 1, 5, 4]
    assert EdgeSet.from_edge_index(lifted.lifted_edge_index, 8).is_symmetric


def test_a_graph_of_constant_degree_has_the_number_of_links_the_docs_give():
    # k edges into each of n nodes: k^2 (k + 1) links a node.
    lifted = lift_edges(positions(5), fully_connected(torch.zeros(5, dtype=torch.long)))
    assert lifted.lifted_edge_index.shape[1] == 5 * 4**2 * 5


def test_a_one_sided_edge_makes_one_point_that_hears_itself_only():
    # Node 0 sends to node 1, but has no point that could send.
    lifted = assert_lifted(positions(3), torch.tensor([[0], [1]]))
    assert (
        lifted.node.tolist() == [1]
        and lifted.neighbor.tolist() == [0]
        and lifted.lifted_edge_index.tolist() == [[0], [0]]
    )


def test_links_follow_the_direction_of_the_base_edges():
    # 0 -> 1 -> 2: the point at 1 sends to the one at 2, not the other way round.
    lifted = assert_lifted(positions(3), torch.tensor([[0, 1], [1, 2]]))
    assert lifted.lifted_edge_index.tolist() == [[0, 0, 1], [0, 1, 1]]


@pytest.mark.parametrize("loops", [0, 4])
def test_graphs_without_edges_or_with_loops_only_have_no_lifted_points(loops):
    edge_index = torch.arange(loops).repeat(2, 1)
    for shift in (None, torch.zeros(loops, 3, dtype=torch.float64)):
        lifted = lift_edges(positions(4), edge_index, shift)
        assert lifted.node.shape == lifted.neighbor.shape == (0,)
        assert lifted.direction.shape == (0, 3) and lifted.lifted_edge_index.shape == (2, 0)
        assert shift is None if lifted.lifted_edge_shift is None else lifted.lifted_edge_shift.shape == (0, 3)


@pytest.mark.parametrize(("num_nodes", "num_edges"), [(1, 6), (3, 12), (5, 30)])
def test_periodic_images_are_points_and_links_of_their_own(num_nodes, num_edges):
    for _ in range(5):
        edge_index = random_edges(num_nodes, num_edges)
        assert_lifted(positions(num_nodes), edge_index, random_shifts(edge_index))


def test_an_edge_to_an_image_of_itself_is_not_a_loop():
    shift = torch.tensor([[3.0, 0, 0], [-3, 0, 0], [0, 0, 0], [3, 0, 0]], dtype=torch.float64)
    lifted = assert_lifted(positions(1), torch.zeros(2, 4, dtype=torch.long), shift)
    assert lifted.direction.tolist() == [[-1, 0, 0], [1, 0, 0]]
    # Each of the two points hears both, in the same cell and in the two next to it.
    assert lifted.lifted_edge_index.shape[1] == 2 * 3 * 2


def test_shifts_are_compared_up_to_rounding():
    shift = torch.tensor([[3.0, 0, 0], [3 + 1e-9, 0, 0], [3.01, 0, 0]], dtype=torch.float64)
    assert lift_edges(positions(2), torch.tensor([[0, 0, 0], [1, 1, 1]]), shift).node.tolist() == [1, 1]


def test_wrapping_points_into_a_cell_changes_nothing():
    pos, edge_index = positions(4), fully_connected(torch.zeros(4, dtype=torch.long))
    offset = torch.randn(4, 3, dtype=torch.float64)
    wrapped = lift_edges(pos + offset, edge_index, offset[edge_index[1]] - offset[edge_index[0]])
    plain = lift_edges(pos, edge_index)
    torch.testing.assert_close(wrapped.direction, plain.direction)
    sender, receiver = wrapped.node[wrapped.lifted_edge_index]
    moved = wrapped.lifted_edge_shift - (offset[receiver] - offset[sender])
    assert torch.equal(wrapped.lifted_edge_index, plain.lifted_edge_index) and moved.abs().max() < 1e-12


@pytest.mark.parametrize("dim", [2, 3])
def test_the_invariants_of_a_lifted_graph_do_not_change_under_motions(dim):
    space = get_space({2: "R2xS1", 3: "R3xS2"}[dim])
    pos, edge_index = positions(5, dim), random_edges(5, 12)
    rotation = random_rotations(1, dim=dim, dtype=torch.float64)[0]

    def invariants(pos):
        lifted = lift_edges(pos, edge_index)
        (a, b), place = lifted.lifted_edge_index, pos[lifted.node]
        return space.full_invariants(place[a] - place[b], lifted.direction[b], lifted.direction[a], complete=True)

    before, after = invariants(pos), invariants(pos @ rotation.T + torch.randn(dim, dtype=torch.float64))
    assert before.shape[1] == space.num_full_invariants(complete=True) and (before - after).abs().max() < 1e-12


def test_directions_and_shifts_are_differentiable():
    edge_index = torch.tensor([[0, 1, 2, 0, 0], [1, 2, 0, 0, 1]])
    shift = torch.tensor([[0, 0, 0], [5.0, 0, 0], [0, 0, 0], [0, 5, 0], [0, 0, 0]], dtype=torch.float64)
    pos, strain = positions(3).requires_grad_(), torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)

    def outputs(pos, strain):
        lifted = lift_edges(pos + pos @ strain, edge_index, shift + shift @ strain)
        return lifted.direction, lifted.lifted_edge_shift

    assert torch.autograd.gradcheck(outputs, (pos, strain))
    assert torch.autograd.gradgradcheck(outputs, (pos, strain))


def test_integers_of_32_bits_are_accepted():
    pos, edge_index = positions(4), random_edges(4, 9)
    for wide, narrow in zip(lift_edges(pos, edge_index)[:4], lift_edges(pos, edge_index.int())[:4], strict=True):
        assert wide.dtype == narrow.dtype and torch.equal(wide, narrow)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge_index": torch.tensor([[0], [7]])}, "values from 0 to 7, out of range for 4 points"),
        ({"edge_index": torch.zeros(3, 2, dtype=torch.long)}, r"edge_index has shape \[3, 2\]; expected \[2, E\]"),
        ({"edge_shift": torch.zeros(1, 3).double()}, r"edge_shift has shape \[1, 3\]; expected \[E, d\] = \[2, 3\]"),
        ({"pos": torch.ones(4, 3).double()}, r"points coincide: distance 0 between points \[\[0, 1\], \[1, 2\]\]"),
    ],
)
def test_bad_inputs_are_explained(change, message):
    arguments = {"pos": positions(4), "edge_index": torch.tensor([[0, 1], [1, 2]])}
    with pytest.raises(ValueError, match=message):
        lift_edges(**{**arguments, **change})
