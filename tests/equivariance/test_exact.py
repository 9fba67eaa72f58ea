"""Symmetries that hold exactly, in float64 to 1e-10."""

import pytest
import torch
from support.graphs import random_graph, small_ponita

from ponita.geometry import EdgeSet, grid_symmetry, random_rotations
from ponita.testing import assert_equivariant

TOLERANCE = 1e-10
REFLECTION = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(params=["sum", None])
def pooling(request):
    return request.param


def difference(model, first, second):
    return max(float((a - b).abs().max()) for a, b in zip(model(**first), model(**second), strict=True))


@pytest.mark.parametrize("num_orientations", [5, 6, 12, 16, 20])
def test_joint_rotation_of_points_and_grid(num_orientations, pooling, graph):
    model = small_ponita(num_orientations=num_orientations, pooling=pooling, cutoff=3.0)
    rotations = random_rotations(3, dtype=torch.float64)
    assert_equivariant(model, graph, rotations=rotations, rotate_grid=True, tolerance=TOLERANCE)
    assert_equivariant(model, graph, rotations=rotations @ REFLECTION, rotate_grid=True, tolerance=TOLERANCE)


@pytest.mark.parametrize(("num_orientations", "order"), [(6, 24), (8, 24), (12, 60), (20, 60)])
def test_every_rotation_of_the_grid(num_orientations, order, pooling, graph):
    rotations = grid_symmetry(num_orientations)
    assert rotations.shape[0] == order
    model = small_ponita(num_orientations=num_orientations, pooling=pooling)
    assert_equivariant(model, graph, rotations=rotations, tolerance=TOLERANCE)


@pytest.mark.parametrize("num_orientations", [6, 12, 16, 20])
def test_inversion_of_an_antipodal_grid_and_with_it_all_mirror_images(num_orientations, pooling, graph):
    model = small_ponita(num_orientations=num_orientations, pooling=pooling)
    assert_equivariant(model, graph, rotations=-grid_symmetry(num_orientations), tolerance=TOLERANCE)


def test_all_rotations_and_reflections_without_orientations(pooling):
    graph = random_graph((5, 4), vectors=0)
    model = small_ponita(space="R3", in_vector_channels=0, out_vector_channels=0, pooling=pooling)
    rotations = random_rotations(5, dtype=torch.float64)
    assert_equivariant(model, graph, rotations=torch.cat([rotations, -rotations]), tolerance=TOLERANCE)


def test_a_generic_rotation_breaks_a_coarse_grid(graph):
    # Otherwise the tests above would pass on a network that ignores the geometry.
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(small_ponita(num_orientations=6), graph, rotations=random_rotations(2), tolerance=1e-4)


def test_translations(pooling, graph):
    model = small_ponita(pooling=pooling)
    moved = {**graph, "pos": graph["pos"] + torch.tensor([10.0, -3.0, 5.0], dtype=torch.float64)}
    assert difference(model, graph, moved) < TOLERANCE


@pytest.mark.parametrize("num_orientations", [5, 12])
def test_permutations_of_nodes_and_edges(num_orientations, graph):
    model = small_ponita(num_orientations=num_orientations, pooling=None)
    n, num_edges = graph["pos"].shape[0], graph["edge_index"].shape[1]
    nodes, edges = torch.randperm(n), torch.randperm(num_edges)
    permuted = {k: v[nodes] for k, v in graph.items() if k != "edge_index"}
    permuted["edge_index"] = torch.argsort(nodes)[graph["edge_index"]][:, edges]
    for a, b in zip(model(**permuted), model(**graph), strict=True):
        assert float((a - b[nodes]).abs().max()) < TOLERANCE
    pooled = small_ponita(num_orientations=num_orientations)
    assert difference(pooled, permuted, graph) < TOLERANCE


def test_permutation_of_the_grid(graph):
    model = small_ponita(num_orientations=12)
    expected = model(**graph)
    model.set_grid(model.grid[torch.randperm(12)])
    assert not model.stores_pairs
    for a, b in zip(model(**graph), expected, strict=True):
        assert float((a - b).abs().max()) < TOLERANCE


@pytest.mark.parametrize("space", ["R3xS2", "R3"])
def test_a_batch_equals_its_graphs_one_by_one(space):
    sizes, vectors = (4, 1, 6), 2 if space == "R3xS2" else 0
    together = random_graph(sizes, vectors=vectors)
    model = small_ponita(space=space, in_vector_channels=vectors, out_vector_channels=vectors)
    outputs = model(**together)
    for number in range(len(sizes)):
        mask = together["batch"] == number
        first = int(mask.nonzero()[0])
        alone = {k: v[mask] for k, v in together.items() if k not in ("edge_index", "batch")}
        alone["edge_index"] = together["edge_index"][:, mask[together["edge_index"][0]]] - first
        for a, b in zip(model(**alone), outputs, strict=True):
            assert float((a[0] - b[number]).abs().max()) < TOLERANCE if a.numel() else True


@pytest.mark.parametrize("num_orientations", [12, 20])
def test_stored_pairs_change_nothing(num_orientations, graph):
    model = small_ponita(num_orientations=num_orientations, pooling=None)
    edges = EdgeSet.from_edge_index(graph["edge_index"], graph["pos"].shape[0])
    assert model.stores_pairs and edges.num_pairs < edges.num_edges
    for a, b in zip(
        model(**{**graph, "edge_index": edges}), model(**{**graph, "edge_index": edges.without_pairs()}), strict=True
    ):
        assert float((a - b).abs().max()) < TOLERANCE


def test_one_sided_graphs_are_equivariant_too(graph):
    model = small_ponita(num_orientations=12)
    one_sided = {**graph, "edge_index": graph["edge_index"][:, torch.rand(graph["edge_index"].shape[1]) < 0.5]}
    assert not EdgeSet.from_edge_index(one_sided["edge_index"], 9).is_symmetric
    assert_equivariant(model, one_sided, rotations=grid_symmetry(12)[::7], tolerance=TOLERANCE)


def test_image_shifts_are_the_same_as_moved_neighbours():
    graph = random_graph((4,), loops=False)
    graph.pop("batch")
    model = small_ponita(pooling=None)
    offset = torch.randn(4, 3, dtype=torch.float64)  # wrap each point by its own vector and undo it on the edges
    j, i = graph["edge_index"]
    wrapped = {**graph, "pos": graph["pos"] + offset, "edge_shift": offset[i] - offset[j]}
    assert difference(model, graph, wrapped) < TOLERANCE
