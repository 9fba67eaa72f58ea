import pytest
import torch

from ponita.data.batching import complete_edges
from ponita.geometry import EdgeSet, fully_connected, radius_graph
from ponita.geometry.edges import incidence, transpose


def shuffled_symmetric_graph(num_nodes=7, loops=True):
    edge_index = fully_connected(torch.zeros(num_nodes, dtype=torch.long), loops=loops)
    keep = torch.rand(num_nodes, num_nodes) < 0.6
    keep |= keep.T.clone()
    edge_index = edge_index[:, keep[edge_index[0], edge_index[1]]]
    return edge_index[:, torch.randperm(edge_index.shape[1])]


def test_edges_are_sorted_by_receiver_with_csr_offsets_and_order():
    edge_index = shuffled_symmetric_graph()
    edges = EdgeSet.from_edge_index(edge_index, 7)
    assert torch.equal(edges.edge_index, edge_index[:, edges.order])
    for node in range(7):
        start, end = edges.rowptr[node : node + 2]
        assert (edges.edge_index[1, start:end] == node).all()
    assert edges.rowptr[-1] == edges.num_edges


def test_sort_is_stable():
    edge_index = torch.tensor([[2, 0, 1, 0], [1, 0, 1, 1]])
    assert EdgeSet.from_edge_index(edge_index, 3).edge_index.tolist() == [[0, 2, 1, 0], [0, 1, 1, 1]]


@pytest.mark.parametrize("loops", [True, False])
def test_reverse_pair_and_flip_of_a_symmetric_graph(loops):
    edges = EdgeSet.from_edge_index(shuffled_symmetric_graph(loops=loops), 7)
    assert edges.is_symmetric
    sender, receiver = edges.edge_index
    assert torch.equal(edges.edge_index[:, edges.reverse], torch.stack([receiver, sender]))
    assert torch.equal(edges.pair, edges.pair[edges.reverse])
    is_loop = sender == receiver
    assert not edges.flip[is_loop].any()
    assert torch.equal(edges.flip[~is_loop], ~edges.flip[edges.reverse][~is_loop])
    assert torch.equal(edges.pair_index[:, edges.pair[~edges.flip]], edges.edge_index[:, ~edges.flip])
    assert edges.num_pairs == edges.num_two_way + int(is_loop.sum()) == (edges.num_edges + int(is_loop.sum())) // 2
    assert (edges.pair < edges.num_two_way).logical_not().equal(is_loop)


def test_pair_order_points_at_the_representative_in_the_given_edges():
    edge_index = shuffled_symmetric_graph()
    edges = EdgeSet.from_edge_index(edge_index, 7)
    assert torch.equal(edge_index[:, edges.pair_order], edges.pair_index)


@pytest.mark.parametrize(
    "edge_index",
    [
        [[0, 1, 2], [1, 0, 1]],  # 1->2 missing
        [[0, 0, 1], [1, 1, 0]],  # 0->1 twice, 1->0 once
    ],
)
def test_one_sided_graphs_have_a_pair_for_each_edge(edge_index):
    edges = EdgeSet.from_edge_index(torch.tensor(edge_index), 3)
    assert not edges.is_symmetric and edges.reverse is None
    assert edges.num_pairs == edges.num_edges == 3 and edges.num_two_way == 0
    assert not edges.flip.any()
    assert torch.equal(edges.pair_index, edges.edge_index)


def test_periodic_images_are_matched_by_opposite_shifts():
    # Two images of 1 seen from 0, and a neighbour of 0 that is its own image.
    edge_index = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]])
    shift = torch.tensor([[0, 0, 0], [3, 0, 0], [-3, 0, 0], [0, 0, 0], [3, -3, 0], [-3, 3, 0]], dtype=torch.float64)
    edges = EdgeSet.from_edge_index(edge_index, 2, shift)
    assert edges.is_symmetric and edges.num_two_way == edges.num_pairs == 3
    assert torch.equal(shift[edges.order][edges.reverse], -shift[edges.order])
    assert not EdgeSet.from_edge_index(edge_index, 2, shift.abs()).is_symmetric


def test_without_pairs_keeps_edges_and_drops_the_sharing():
    edges = EdgeSet.from_edge_index(shuffled_symmetric_graph(), 7)
    single = edges.without_pairs()
    assert single.num_pairs == edges.num_edges and single.num_two_way == 0 and single.is_symmetric
    assert torch.equal(single.pair_index, edges.edge_index) and torch.equal(single.pair_order, edges.order)


def test_no_edges():
    edges = EdgeSet.from_edge_index(torch.zeros(2, 0, dtype=torch.long), 3)
    assert edges.num_edges == edges.num_pairs == 0 and edges.rowptr.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("edge_index", "message"),
    [
        (torch.zeros(3, 4, dtype=torch.long), r"shape \[3, 4\]; expected \[2, E\]"),
        (torch.zeros(4, dtype=torch.long), r"shape \[4\]; expected \[2, E\]"),
        (torch.zeros(2, 4), "dtype torch.float32; expected torch.int64"),
        (torch.tensor([[0, 5], [1, 0]]), "values from 0 to 5, out of range for 3 points"),
        (torch.tensor([[0, -1], [1, 0]]), "values from -1 to 1, out of range"),
    ],
)
def test_bad_edge_index_is_explained(edge_index, message):
    with pytest.raises(ValueError, match=message):
        EdgeSet.from_edge_index(edge_index, 3)


def test_fully_connected_lists_all_ordered_pairs_of_each_graph():
    batch = torch.tensor([0, 0, 0, 2, 2])
    expected = {(j, i) for i in range(5) for j in range(5) if batch[i] == batch[j]}
    assert set(map(tuple, fully_connected(batch, loops=True).T.tolist())) == expected
    assert set(map(tuple, fully_connected(batch).T.tolist())) == {(j, i) for j, i in expected if i != j}
    assert (fully_connected(batch)[1].diff() >= 0).all()


def test_radius_graph_keeps_near_pairs_of_the_same_graph():
    pos, batch = torch.rand(20, 3) * 3, torch.arange(2).repeat_interleave(10)
    edge_index = radius_graph(pos, 1.2, batch)
    near = (torch.cdist(pos, pos) < 1.2) & (batch[:, None] == batch) & ~torch.eye(20, dtype=torch.bool)
    assert torch.equal(
        torch.zeros(20, 20, dtype=torch.bool).index_put((edge_index[1], edge_index[0]), torch.tensor(True)), near
    )
    assert EdgeSet.from_edge_index(edge_index, 20).is_symmetric
    with pytest.raises(ValueError, match="cutoff=0"):
        radius_graph(pos, 0)


def test_incidence_lists_the_edges_into_each_node_and_transposition_those_out_of_it():
    edges = EdgeSet.from_edge_index(shuffled_symmetric_graph(), 7)
    ends = tuple(edges.pair_index)
    sender, receiver = edges.edge_index
    for graph, here, there in ((ends, receiver, sender), (ends[::-1], sender, receiver)):
        rowptr, neighbor, slot = incidence(graph, edges.num_two_way, 7)
        for node in range(7):
            part = slice(rowptr[node], rowptr[node + 1])
            listed = sorted(zip(neighbor[part].tolist(), slot[part].tolist(), strict=True))
            into = (here == node).nonzero()[:, 0]
            # An edge out of a node reads the pair as the edge into it does: the flip belongs to the direction.
            expected = sorted((int(there[e]), 2 * int(edges.pair[e]) + int(edges.flip[e])) for e in into)
            assert listed == expected
    wide = (*ends, 1, 2, 3, 4, 5, 6)
    assert transpose(wide)[2:] == (4, 5, 6, 1, 2, 3) and transpose(wide)[0] is ends[1]
    assert transpose(ends)[1] is ends[0] and len(edges.graph) == 2


def test_edges_without_loops_are_those_between_points_and_count_the_loops():
    edge_index = torch.tensor([[0, 1, 2, 2, 1, 1, 0], [1, 0, 2, 1, 2, 1, 0]])
    edges = EdgeSet.from_edge_index(edge_index, 4)
    between, loops = edges.without_loops
    expected = EdgeSet.from_edge_index(edge_index[:, edge_index[0] != edge_index[1]], 4)
    assert loops.tolist() == [1, 1, 1, 0]
    for name in ("edge_index", "rowptr", "reverse", "pair", "flip", "pair_index"):
        assert torch.equal(getattr(between, name), getattr(expected, name)), name
    assert torch.equal(edge_index[:, between.pair_order], between.pair_index)
    assert between.without_loops == (between, None)
    one_sided = edges.without_pairs()
    assert one_sided.without_loops == (one_sided, None)


def test_reverses_are_not_looked_for_where_they_are_not_wanted():
    edge_index = torch.tensor([[0, 1], [1, 0]])
    edges = EdgeSet.from_edge_index(edge_index, 2, pairs=False)
    assert not edges.is_symmetric and edges.num_pairs == 2 and edges.num_two_way == 0


@pytest.mark.parametrize("pairs", [True, False])
@pytest.mark.parametrize("loops", [True, False])
def test_complete_graphs_are_those_that_are_searched(loops, pairs):
    edges = complete_edges((4, 1, 3), loops, pairs)
    batch = torch.tensor([0] * 4 + [1] + [2] * 3)
    searched = EdgeSet.from_edge_index(fully_connected(batch, loops=loops), 8)
    searched = searched if pairs else searched.without_pairs()
    assert (edges.num_nodes, edges.num_two_way) == (searched.num_nodes, searched.num_two_way)
    for name in ("edge_index", "order", "rowptr", "reverse", "pair_index", "pair", "flip", "pair_order"):
        assert torch.equal(getattr(edges, name), getattr(searched, name)), name
