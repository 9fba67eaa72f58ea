"""What the network says to inputs that cannot be right, and what it accepts."""

import pytest
import torch
from support.graphs import random_graph, small_ponita

from ponita import EdgeSet, Ponita
from ponita.data import collate

X = torch.randn(9, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": torch.randn(9, 2, dtype=torch.float64)}, r"pos has shape \[9, 2\]; expected \[N, 3\] for space R3xS2"),
        ({"pos": torch.randn(9, 3)}, "pos has dtype torch.float32, the model torch.float64"),
        (
            {"pos": torch.full((9, 3), torch.nan, dtype=torch.float64)},
            r"pos holds NaN or infinite values.*\[0, 1, 2, 3, 4\]",
        ),
        ({"pos": torch.zeros(9, 3, dtype=torch.float64)}, "points coincide: distance 0 between points"),
        ({"pos": torch.zeros(0, 3, dtype=torch.float64)}, "the graph is empty: pos has no points"),
        (
            {"edge_index": torch.tensor([[0, 20], [1, 0]])},
            "edge_index holds values from 0 to 20, out of range for 9 points",
        ),
        ({"edge_index": torch.zeros(3, 7, dtype=torch.long)}, r"edge_index has shape \[3, 7\]; expected \[2, E\]"),
        ({"x": None}, r"x is missing; expected shape \[9, 3\] since the model has in_channels=3"),
        ({"x": X[:, :2]}, r"x has shape \[9, 2\]; expected \[9, 3\]"),
        ({"x": X.float()}, "x has dtype torch.float32; expected torch.float64"),
        ({"vec": torch.randn(9, 2, dtype=torch.float64)}, r"vec has shape \[9, 2\]; expected \[9, 2, 3\]"),
        ({"batch": torch.zeros(4, dtype=torch.long)}, r"batch has shape \[4\].*expected \[9\]"),
        ({"batch": torch.zeros(9)}, "batch has shape .* dtype torch.float32; expected"),
        ({"edge_shift": torch.zeros(3, 3, dtype=torch.float64)}, r"edge_shift has shape \[3, 3\]; expected \[E, d\]"),
    ],
)
def test_bad_inputs_are_explained(graph, change, message):
    with pytest.raises(ValueError, match=message):
        small_ponita()(**{**graph, **change})


def test_unwanted_inputs_are_refused(graph):
    with pytest.raises(ValueError, match="vec was given, but the model was made with in_vector_channels=0"):
        small_ponita(in_vector_channels=0)(**graph)


def test_an_edge_set_of_another_graph_is_refused(graph):
    edges = EdgeSet.from_edge_index(torch.tensor([[0, 1], [1, 0]]), 2)
    with pytest.raises(ValueError, match="the EdgeSet is of 2 points; expected 9"):
        small_ponita()(**{**graph, "edge_index": edges})


def test_coincident_atoms_are_named_but_self_loops_and_images_are_not(graph):
    model = small_ponita()
    pos = graph["pos"].clone()
    pos[3] = pos[1]
    with pytest.raises(ValueError, match=r"points \[\[3, 1\]\]"):
        model(**{**graph, "pos": pos})
    one = {"pos": pos[:1], "x": X[:1], "vec": graph["vec"][:1], "edge_index": torch.zeros(2, 2, dtype=torch.long)}
    shift = torch.tensor([[1.0, 0, 0], [-1, 0, 0]], dtype=torch.float64)
    assert model(**one, edge_shift=shift).scalars.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": "R4"}, r"space='R4' is not implemented; choose one of \['R2', 'R2xS1', 'R3', 'R3xS2', 'SE3'\]"),
        ({"mode": "mesh"}, "mode='mesh' is not implemented"),
        ({"kernel": "fourier"}, "kernel='fourier' is not implemented; expected one of"),
        (
            {"kernel": "spline"},
            "kernel='spline' with .* cutoff=None, radius=None; it needs .* a finite reach: set cutoff",
        ),
        (
            {"kernel": "spline", "cutoff": 3.0, "lattice": (3, 8)},
            r"lattice=\(3, 8\); expected two numbers of nodes, at least 4",
        ),
        ({"readouts": "first"}, r"readouts='first' is not implemented; expected one of \['all', 'last'\]"),
        ({"pooling": "max"}, "pooling='max'"),
        ({"num_layers": 0}, "num_layers=0; expected at least 1"),
        (
            {"in_channels": 0, "in_vector_channels": 0},
            "in_channels=0, in_vector_channels=0; expected at least one channel",
        ),
        ({"space": "R3"}, "in_vector_channels=2 on a space without directions; use space='R3xS2'"),
        ({"num_orientations": 0}, "num_orientations"),
        ({"cutoff": -1.0}, "cutoff=-1.0"),
        ({"backend": "cuda"}, "backend='cuda'; expected 'auto' or one of"),
    ],
)
def test_bad_arguments_are_explained(change, message):
    with pytest.raises(ValueError, match=message):
        small_ponita(**change)


def test_grids_are_checked():
    model = small_ponita()
    with pytest.raises(ValueError, match=r"grid has shape \[5, 2\]; expected \[O, 3\]"):
        model.set_grid(torch.randn(5, 2))
    with pytest.raises(ValueError, match="not unit vectors"):
        model.set_grid(torch.ones(5, 3))
    with pytest.raises(ValueError, match="has no orientation grid"):
        small_ponita(space="R3", in_vector_channels=0, out_vector_channels=0).set_grid(torch.eye(3))


def test_the_same_weights_run_on_a_larger_grid(graph):
    model = small_ponita(num_orientations=12)
    from ponita.geometry import sphere_grid

    model.set_grid(sphere_grid(32))
    assert model.grid.shape == (32, 3) and model.stores_pairs and model(**graph).scalars.shape == (2, 2)


def test_shapes_of_all_kinds_of_output(graph):
    out = small_ponita()(**graph)
    assert out.scalars.shape == (2, 2) and out.vectors.shape == (2, 2, 3)
    out = small_ponita(pooling=None, out_channels=0, out_vector_channels=1)(**graph)
    assert out.scalars.shape == (9, 0) and out.vectors.shape == (9, 1, 3)
    only_vectors = random_graph((5,), scalars=0)
    assert small_ponita(in_channels=0, readouts="last")(**only_vectors).scalars.shape == (1, 2)


def test_a_single_point_and_graphs_without_edges_are_fine(graph):
    model = small_ponita()
    single = {k: v[:1] for k, v in graph.items() if k != "edge_index"}
    assert model(**single, edge_index=torch.zeros(2, 0, dtype=torch.long)).scalars.isfinite().all()


def test_num_graphs_counts_graphs_without_points(graph):
    assert small_ponita()(**graph, num_graphs=4).scalars.shape == (4, 2)


def test_making_a_network_draws_nothing_but_its_weights():
    torch.manual_seed(0)
    with torch.no_grad():
        first = Ponita(1, hidden_channels=4, basis_channels=4, num_orientations=16)
    assert torch.equal(first.grid, Ponita(1, hidden_channels=4, basis_channels=4, num_orientations=16).grid)


def test_collating_refuses_what_cannot_be_one_batch():
    from torch_geometric.data import Data

    flat, solid = Data(pos=torch.zeros(2, 2)), Data(pos=torch.zeros(3, 3))
    with pytest.raises(
        ValueError, match="mixes dimensions: graph 1 has positions in 2 dimensions, those before it in 3"
    ):
        collate([solid, flat])
    with pytest.raises(ValueError, match=r"graph 0 of the batch has pos of shape \[0, 3\]"):
        collate([Data(pos=torch.zeros(0, 3))])
    with pytest.raises(ValueError, match="the batch is empty"):
        collate([])
    assert collate([solid, solid]).num_graphs == 2
