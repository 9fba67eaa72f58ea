"""Layers in models of PyTorch Geometric: Sequential, Batch, EdgeIndex, sampled subgraphs, transforms."""

from __future__ import annotations

import importlib.util
import pickle

import pytest
import torch
from support.graphs import random_graph, small_ponita
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader, NeighborLoader, NodeLoader
from torch_geometric.nn import Sequential
from torch_geometric.sampler import BaseSampler, SamplerOutput
from torch_geometric.transforms import AddSelfLoops, Compose
from torch_geometric.utils import k_hop_subgraph

from ponita.data import LiftEdges, PositionOrientation
from ponita.data.transforms import LiftedData
from ponita.geometry import get_space, random_rotations, rotate
from ponita.nn import Readout, calibrate, pool

SIZES = {"R3xS2": 12, "R2xS1": 5, "SE3": 12, "R3": 1}
HAS_SAMPLER = any(importlib.util.find_spec(name) for name in ("pyg_lib", "torch_sparse"))


def molecule(n, *, space="R3xS2", keep=0.6, seed=0):
    """A directed graph with edges in no order."""
    graph = random_graph((n,), seed=seed, loops=False)
    generator = torch.Generator().manual_seed(seed)
    edges = graph["edge_index"][:, torch.randperm(n * (n - 1), generator=generator)]
    chosen = edges[:, torch.rand(edges.shape[1], generator=generator) < keep]
    dim = get_space(space).dim
    return Data(
        pos=graph["pos"][:, :dim], x=graph["x"], vec=graph["vec"][..., :dim], edge_index=chosen, y=torch.tensor([seed])
    )


def layers_of(model):
    """The layers of a network in a Sequential; one vector channel more than the network where it has orientations."""
    has_fibre = model.fiber_basis is not None
    bases = "basis, fiber_basis" if has_fibre else "basis"
    parts = [(model.basis, "edge_invariants -> basis")]
    parts += [(model.fiber_basis, "fiber_invariants -> fiber_basis")] if has_fibre else []
    parts += [(model.lift, "x, vec, axes -> x")]
    parts += [(block, f"x, {bases}, edge_index -> x") for block in model.blocks]
    parts += [(model.readouts[str(len(model.blocks) - 1)], "x, axes -> scalars, vectors")]
    return Sequential("x, vec, axes, edge_invariants, fiber_invariants, edge_index", parts)


def evaluate(layers, data, space):
    """The Sequential on a graph, or batch, that `PositionOrientation` has seen."""
    if not space.has_fibre:
        axes = space.axes(data.pos.new_zeros(1, space.dim))
        return layers(data.x, None, axes, data.edge_invariants, None, data.edge_index)
    axes = space.axes(data.orientations[0])
    return layers(data.x, data.vec, axes, data.edge_invariants, data.fiber_invariants[0], data.edge_index)


def network(space, **options):
    vectors = {} if get_space(space).has_fibre else {"in_vector_channels": 0, "out_vector_channels": 0}
    options = {"num_orientations": SIZES[space], "readouts": "last", "pooling": None} | vectors | options
    return small_ponita(space=space, **options)


def outputs_of(model, data, **options):
    vec = data.vec if model.space.has_fibre and model.config["in_vector_channels"] else None
    return model(data.pos, data.edge_index, x=data.x, vec=vec, **options)


def assert_equal(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("space", SIZES)
def test_layers_in_sequential_on_a_batch_are_the_network(space):
    model, transform = network(space), PositionOrientation(space, SIZES[space])
    graphs = [molecule(n, space=space, seed=n) for n in (5, 3, 6)]
    layers = layers_of(model)
    batch = Batch.from_data_list([transform(graph) for graph in graphs])
    expected = outputs_of(model, batch)
    assert_equal(evaluate(layers, batch, model.space), expected)
    assert_equal(torch.cat([outputs_of(model, g).scalars for g in graphs])[None], expected[:1])


def test_blocks_learn_in_sequential():
    model, data = network("R3xS2"), PositionOrientation(num_orientations=12)(molecule(5))
    scalars, vectors = evaluate(layers_of(model), data, model.space)
    (scalars.sum() + vectors.square().sum()).backward()
    untouched = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not untouched


def test_calibration_reaches_layers_in_sequential():
    model, data = network("R3xS2"), PositionOrientation(num_orientations=12)(molecule(6))
    arguments = {"axes": data.orientations[0], "fiber_invariants": data.fiber_invariants[0]}
    arguments |= {name: data[name] for name in ("x", "vec", "edge_invariants", "edge_index")}
    report = calibrate(layers_of(model), arguments)
    assert len(report) == 2 and all(len(factors) == 2 for factors in report.values())


@pytest.mark.parametrize("order", [None, "row", "col"])
def test_edge_index_class(order):
    model, data = network("R3xS2"), molecule(6, keep=1.0)
    expected = outputs_of(model, data)
    edges = EdgeIndex(data.edge_index, sparse_size=(6, 6), is_undirected=True)
    if order is not None:
        edges = edges.sort_by(order).values
        edges.fill_cache_()
    data.edge_index = edges
    assert_equal(outputs_of(model, data), expected)
    transformed = PositionOrientation(num_orientations=12)(data)
    assert type(transformed.edge_invariants) is torch.Tensor
    actual = evaluate(layers_of(model), transformed, model.space)
    assert all(type(part) is torch.Tensor for part in actual)
    assert_equal(actual, expected)
    batch = Batch.from_data_list([transformed, transformed])
    assert isinstance(batch.edge_index, EdgeIndex)
    assert_equal((part[6:] for part in evaluate(layers_of(model), batch, model.space)), expected)
    assert LiftEdges()(data).edge_index.shape == (2, 6 * 5 * 5 * 6)


class InNeighbors(BaseSampler):
    """All edges into the seeds, and into their senders, for as many hops as the network has layers."""

    edge_permutation = None

    def __init__(self, edge_index, num_nodes, hops):
        self.edge_index, self.num_nodes, self.hops = edge_index, num_nodes, hops

    def sample_from_nodes(self, index, **kwargs):
        node, edges = list(index.node.tolist()), []
        frontier = set(node)
        for _ in range(self.hops):
            into = [e for e in range(self.edge_index.shape[1]) if int(self.edge_index[1, e]) in frontier]
            edges += [e for e in into if e not in edges]
            frontier = {int(self.edge_index[0, e]) for e in into} - set(node)
            node += sorted(frontier)
        edge = torch.tensor(edges, dtype=torch.long)
        place = torch.full((self.num_nodes,), -1)
        place[node] = torch.arange(len(node))
        row, col = place[self.edge_index[:, edge]]
        return SamplerOutput(node=torch.tensor(node), row=row, col=col, edge=edge, metadata=(index.input_id, None))

    def sample_from_edges(self, index, **kwargs):
        raise NotImplementedError


def one_way_graph(n=30):
    """Two senders for every node, so that two hops reach a part of the graph, and no edge with its reverse."""
    nodes = torch.arange(n)
    edge_index = torch.stack([torch.cat([(nodes + 1) % n, (nodes + 4) % n]), nodes.repeat(2)])
    data = molecule(n)
    data.edge_index = edge_index[:, torch.randperm(2 * n)]
    return data


@pytest.mark.parametrize("when", ["before sampling", "after sampling"])
def test_subgraphs_of_a_node_loader_give_the_seeds_what_the_graph_gives(when):
    model, data = network("R3xS2"), one_way_graph()
    transform, layers = PositionOrientation(num_orientations=12), layers_of(model)
    expected = outputs_of(model, data)
    source, late = (transform(data), None) if when == "before sampling" else (data, transform)
    loader = NodeLoader(source, InNeighbors(data.edge_index, 30, hops=2), batch_size=4, transform=late)
    seen = 0
    for part in loader:
        assert part.num_nodes < 30
        seeds = part.n_id[: part.batch_size]
        for actual in (evaluate(layers, part, model.space), outputs_of(model, part)):
            assert_equal([rows[: part.batch_size] for rows in actual], [rows[seeds] for rows in expected])
        seen += part.batch_size
    assert seen == 30


@pytest.mark.skipif(not HAS_SAMPLER, reason="NeighborLoader needs pyg-lib or torch-sparse")
def test_subgraphs_of_a_neighbor_loader():
    model, data = network("R3xS2"), one_way_graph()
    expected, layers = outputs_of(model, data), layers_of(model)
    source = PositionOrientation(num_orientations=12)(data)
    for part in NeighborLoader(source, num_neighbors=[-1, -1], batch_size=4):
        actual = evaluate(layers, part, model.space)
        assert_equal(
            [rows[: part.batch_size] for rows in actual],
            [rows[part.n_id[: part.batch_size]] for rows in expected],
        )


def test_k_hop_subgraph_whose_edges_have_no_reverse():
    model, data = network("R3xS2"), one_way_graph()
    node, edge_index, place, kept = k_hop_subgraph(3, 2, data.edge_index, relabel_nodes=True, directed=True)
    part = Data(pos=data.pos[node], x=data.x[node], vec=data.vec[node], edge_index=edge_index)
    assert 0 < kept.sum() < 30
    assert_equal(*([rows[index] for rows in outputs_of(model, of)] for index, of in ((place, part), ([3], data))))


def test_attributes_are_the_invariants_of_every_edge_in_order():
    data = molecule(5)
    edges = data.edge_index
    data.edge_shift = torch.randn(edges.shape[1], 3, dtype=torch.float64)
    before = data.keys()
    out = PositionOrientation(num_orientations=8, axis_smoothing=0.0)(data)
    assert data.keys() == before
    for e, (j, i) in enumerate(edges.T.tolist()):
        r = data.pos[j] - data.pos[i] + data.edge_shift[e]
        along = out.orientations[0] @ r
        across = (r - along[:, None] * out.orientations[0]).norm(dim=1)
        torch.testing.assert_close(out.edge_invariants[e], torch.stack([along, across], -1))
    torch.testing.assert_close(out.fiber_invariants[0, :, :, 0], out.orientations[0] @ out.orientations[0].T)
    rounded = PositionOrientation(num_orientations=8)(data).edge_invariants
    torch.testing.assert_close(rounded[..., 1], (out.edge_invariants[..., 1].square() + 0.01).sqrt())


def test_complete_invariants_of_orientations_in_the_plane():
    data = molecule(4, space="R2xS1")
    paper, complete = (PositionOrientation("R2xS1", 5, complete=c)(data) for c in (False, True))
    assert paper.fiber_invariants.shape == (1, 5, 5, 1) and complete.fiber_invariants.shape == (1, 5, 5, 2)


@pytest.mark.parametrize("num_edges", [4, 7])
def test_invariants_follow_their_edges_through_pyg(num_edges):
    """Also in a graph with as many edges as nodes, where an attribute could be taken for one of nodes."""
    data = molecule(4, keep=1.0)
    data.edge_index = data.edge_index[:, :num_edges]
    out = PositionOrientation(num_orientations=6)(data)
    assert out.is_edge_attr("edge_invariants") and not out.is_node_attr("edge_invariants")
    part = out.edge_subgraph(torch.tensor([2, 0]))
    assert torch.equal(part.edge_invariants, out.edge_invariants[[2, 0]])
    batch = Batch.from_data_list([out, out, out])
    assert batch.orientations.shape == (3, 6, 3) and batch.fiber_invariants.shape == (3, 6, 6, 1)
    assert batch.edge_invariants.shape == (3 * num_edges, 6, 2)
    again = batch.to_data_list()[2]
    assert torch.equal(again.edge_invariants, out.edge_invariants) and torch.equal(again.orientations, out.orientations)


def test_cutoff_replaces_edges_and_what_they_carry():
    data = molecule(6)
    data.edge_attr = torch.randn(data.num_edges, 2)
    out = PositionOrientation(num_orientations=6, cutoff=1.5)(data)
    distance = torch.cdist(data.pos, data.pos)
    expected = ((distance < 1.5) & (distance > 0)).nonzero().T
    assert torch.equal(out.edge_index.flip(0), expected) and "edge_attr" not in out and "edge_attr" in data
    assert out.edge_invariants.shape[0] == expected.shape[1]


def test_positions_alone_are_enough():
    out = PositionOrientation("R3", cutoff=9.0)(Data(pos=torch.randn(4, 3)))
    assert out.edge_invariants.shape == (12, 1, 1) and "orientations" not in out and "fiber_invariants" not in out


def test_invariants_inside_a_model_are_differentiable_in_the_positions():
    data, transform = molecule(5), PositionOrientation(num_orientations=12)
    pos = data.pos.clone().requires_grad_()
    inside = transform.edge_invariants(pos, data.edge_index)
    assert torch.equal(inside, transform(data).edge_invariants)
    assert torch.autograd.gradcheck(lambda p: transform.edge_invariants(p, data.edge_index), pos)
    moved = transform.edge_invariants(data.pos, data.edge_index, torch.ones(data.num_edges, 3, dtype=torch.float64))
    assert not torch.equal(moved, inside)


def test_transforms_compose_print_and_travel_to_workers():
    chain = Compose([AddSelfLoops(), PositionOrientation(num_orientations=12, cutoff=None), LiftEdges()])
    assert repr(chain.transforms[1]) == "PositionOrientation(R3xS2, orientations=12)"
    assert repr(PositionOrientation("R2xS1", 4, cutoff=2)) == "PositionOrientation(R2xS1, orientations=4, cutoff=2)"
    copy, data = pickle.loads(pickle.dumps(chain)), molecule(5)
    assert torch.equal(copy(data).edge_invariants, chain(data).edge_invariants)


def lifted_outputs(model, data):
    """The layers of a cloud network on the points of a lifted graph, their outputs at the base nodes."""
    axes = model.space.axes(data.orientations)[:, None]
    out = layers_of(model)(data.x, data.vec, axes, data.edge_invariants, None, data.edge_index)
    return [pool(part, data.base_index, len(data.base_batch), "mean") for part in out]


@pytest.mark.parametrize(
    ("space", "complete"), [("R3xS2", False), ("R3xS2", True), ("R2xS1", True)], ids=["R3xS2", "complete", "R2xS1"]
)
def test_lifted_graphs_are_what_cloud_networks_see(space, complete):
    invariants = "complete" if complete else "paper"
    model = small_ponita(space=space, mode="cloud", invariants=invariants, pooling=None, readouts="last")
    # The second graph ends with a node that no edge enters, which has no point.
    graphs = [molecule(5, space=space), molecule(4, space=space, seed=1), molecule(3, space=space, seed=2)]
    graphs[1].edge_index = graphs[1].edge_index[:, graphs[1].edge_index[1] < 3]
    expected = [outputs_of(model, graph) for graph in graphs]
    transform = LiftEdges(space, complete)
    batch = next(iter(DataLoader([transform(graph) for graph in graphs], batch_size=3)))
    assert isinstance(batch, LiftedData) and batch.num_base_nodes.tolist() == [5, 4, 3]
    assert batch.base_batch.tolist() == [0] * 5 + [1] * 4 + [2] * 3
    assert_equal(lifted_outputs(model, batch), [torch.cat(parts) for parts in zip(*expected, strict=True)])
    assert_equal(lifted_outputs(model, batch.to_data_list()[2]), expected[2])


def test_layers_on_a_lifted_graph_are_exactly_equivariant():
    model, transform = small_ponita(mode="cloud", pooling=None, readouts="last"), LiftEdges()
    turn = random_rotations(1, dtype=torch.float64)[0]
    data = molecule(5)
    turned = data.clone()
    turned.pos, turned.vec = rotate(data.pos, turn), rotate(data.vec, turn)
    (scalars, vectors), (same, along) = (lifted_outputs(model, transform(of)) for of in (data, turned))
    assert_equal((same, along), (scalars, rotate(vectors, turn)))


def test_lifted_graphs_with_images_carry_the_shift():
    data = molecule(4)
    data.edge_shift = 4.0 * torch.randint(-1, 2, (data.num_edges, 3)).double()
    data.edge_shift[0], data.edge_shift[1:3] = 0.0, torch.tensor([[4.0, 0, 0], [0, -4.0, 0]])
    model = small_ponita(mode="cloud", pooling=None, readouts="last")
    lifted = LiftEdges()(data)
    assert lifted.edge_shift.shape == (lifted.num_edges, 3)
    assert_equal(lifted_outputs(model, lifted), outputs_of(model, data, edge_shift=data.edge_shift))


def test_what_lifting_keeps_repeats_and_leaves_out():
    data = molecule(4)
    data.edge_attr, data.names = torch.randn(data.num_edges, 2), ["C", "H", "O", "N"]
    data.target = torch.randn(4, 3)
    out = LiftEdges(at_nodes=["target"])(data)
    node = out.base_index
    assert out.num_nodes == data.num_edges == len(node) and out.num_base_nodes == 4
    assert torch.equal(out.x, data.x[node]) and out.names == [data.names[i] for i in node]
    assert torch.equal(out.target, data.target) and torch.equal(out.y, data.y) and "edge_attr" not in out
    torch.testing.assert_close(out.orientations.norm(dim=1), torch.ones(len(node), dtype=torch.float64))
    explicit = LiftEdges(at_nodes=["x"])(Data(pos=data.pos, x=data.x, edge_index=data.edge_index, num_nodes=4))
    assert explicit.num_nodes == data.num_edges


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PositionOrientation("S2"), "choose one of"),
        (lambda: PositionOrientation(num_orientations=0), "at least 1"),
        (lambda: PositionOrientation(cutoff=-1.0), "expected a positive length"),
        (lambda: PositionOrientation("R2xS1", 4)(molecule(3)), r"pos of shape \[3, 3\]; expected pos \[N, 2\]"),
        (lambda: PositionOrientation()(Data(x=torch.ones(3, 1))), "the graph has no pos; expected pos"),
        (lambda: PositionOrientation()(Data(pos=torch.randn(3, 3))), "no edge_index"),
        (lambda: PositionOrientation(cutoff=1.0)(Data(pos=torch.randn(3, 3), edge_shift=0)), "periodic"),
        (lambda: LiftEdges("SE3"), "an edge gives one direction: choose 'R3xS2' or 'R2xS1'"),
        (lambda: LiftEdges("R3"), "an edge gives one direction"),
        (lambda: LiftEdges()(Batch.from_data_list([molecule(3)])), "lift every graph, then batch"),
    ],
)
def test_errors_say_what_was_expected(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_readout_without_scalars_is_a_vector_head():
    scalars, vectors = Readout(4, out_channels=0, out_vector_channels=1)(torch.randn(5, 6, 4), torch.randn(6, 3))
    assert scalars.shape == (5, 0) and vectors.shape == (5, 1, 3)
