"""Every homogeneous space, both modes: exact symmetries in float64, and what each network can tell apart."""

import math

import pytest
import torch
from support.graphs import random_graph, small_ponita

from ponita.geometry import EdgeSet, get_space, lift_edges, radius_graph, random_rotations, sphere_grid
from ponita.models import Potential
from ponita.nn import calibrate
from ponita.testing import assert_equivariant, equivariance_error

TOLERANCE = 1e-10
MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
#: Modes of networks by a name: options of `Ponita`.
BUNDLES = {
    "R2xS1, 8": {"space": "R2xS1", "num_orientations": 8},
    "R2xS1, 5, complete": {"space": "R2xS1", "num_orientations": 5, "invariants": "complete"},
    "R2xS1, 6, both orientations": {
        "space": "R2xS1",
        "num_orientations": 6,
        "invariants": "complete",
        "separable": False,
    },
    "R3xS2, 12": {"space": "R3xS2", "num_orientations": 12},
    "R3xS2, 6, both orientations": {"space": "R3xS2", "num_orientations": 6, "separable": False},
    "R3xS2, 6, complete": {"space": "R3xS2", "num_orientations": 6, "separable": False, "invariants": "complete"},
    "SE3, 12": {"space": "SE3", "num_orientations": 12},
    "SE3, 24": {"space": "SE3", "num_orientations": 24},
    "SE3, 60": {"space": "SE3", "num_orientations": 60},
}
CLOUDS = {
    "R2xS1": {"space": "R2xS1"},
    "R2xS1, complete": {"space": "R2xS1", "invariants": "complete"},
    "R3xS2": {"space": "R3xS2"},
    "R3xS2, complete": {"space": "R3xS2", "invariants": "complete"},
    "SE3": {"space": "SE3"},
}


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def planar(graph):
    """The same graph in the plane."""
    flat = {k: v[..., :2].contiguous() if k in ("pos", "vec") else v for k, v in graph.items()}
    return flat


def inputs_for(space, sizes=(5, 4), **options):
    graph = random_graph(sizes, **options)
    return planar(graph) if get_space(space).dim == 2 else graph


def cloud_inputs(space, sizes=(5, 4)):
    """A graph with a random orientation at every point."""
    graph = inputs_for(space, sizes)
    rotations = random_rotations(sum(sizes), dim=get_space(space).dim, dtype=torch.float64)
    return graph | {"orientations": rotations if space == "SE3" else rotations[:, :, 0].contiguous()}


@pytest.mark.parametrize("pooling", ["sum", None])
@pytest.mark.parametrize("options", BUNDLES.values(), ids=BUNDLES)
def test_joint_rotation_of_points_and_grid(options, pooling):
    model = small_ponita(**options, pooling=pooling, cutoff=3.0)
    graph = inputs_for(options["space"])
    rotations = random_rotations(3, dim=model.space.dim, dtype=torch.float64)
    assert_equivariant(model, graph, rotations=rotations, rotate_grid=True, tolerance=TOLERANCE)


@pytest.mark.parametrize("options", BUNDLES.values(), ids=BUNDLES)
def test_every_rotation_of_the_grid(options):
    model = small_ponita(**options)
    rotations = model.space.grid_symmetry(options["num_orientations"])
    assert rotations.shape[0] == (
        24
        if options["space"] == "R3xS2" and options["num_orientations"] == 6
        else 60
        if options["space"] == "R3xS2"
        else options["num_orientations"]
    )
    assert_equivariant(model, inputs_for(options["space"]), rotations=rotations, tolerance=TOLERANCE)


@pytest.mark.parametrize("options", BUNDLES.values(), ids=BUNDLES)
def test_a_generic_rotation_breaks_a_grid(options):
    # Otherwise the tests above would pass on a network that ignores the geometry.
    model, graph = small_ponita(**options), inputs_for(options["space"])
    rotations = random_rotations(2, dim=model.space.dim, dtype=torch.float64)
    assert equivariance_error(model, graph, rotations=rotations).max_abs > 1e-5


def test_planar_networks_without_orientations_are_exact():
    model = small_ponita(space="R2", in_vector_channels=0, out_vector_channels=0)
    rotations = random_rotations(5, dim=2, dtype=torch.float64)
    graph = inputs_for("R2", vectors=0)
    assert_equivariant(model, graph, rotations=torch.cat([rotations, rotations @ MIRROR[1:, 1:]]), tolerance=TOLERANCE)


@pytest.mark.parametrize("pooling", ["sum", "mean", None])
@pytest.mark.parametrize("options", CLOUDS.values(), ids=CLOUDS)
def test_clouds_with_given_orientations_are_exact(options, pooling):
    model = small_ponita(mode="cloud", **options, pooling=pooling, cutoff=4.0)
    graph = cloud_inputs(options["space"])
    rotations = random_rotations(4, dim=model.space.dim, dtype=torch.float64)
    assert_equivariant(model, graph, rotations=rotations, tolerance=TOLERANCE)


@pytest.mark.parametrize("pooling", ["sum", None])
@pytest.mark.parametrize("options", [o for o in CLOUDS.values() if o["space"] != "SE3"])
def test_clouds_lifted_from_edges_are_exact(options, pooling):
    model = small_ponita(mode="cloud", **options, pooling=pooling)
    graph = inputs_for(options["space"])
    rotations = random_rotations(4, dim=model.space.dim, dtype=torch.float64)
    assert_equivariant(model, graph, rotations=rotations, tolerance=TOLERANCE)


def test_lifting_keeps_the_shape_of_graphs_with_isolated_points_and_none_at_all():
    model = small_ponita(mode="cloud", pooling=None)
    graph = random_graph((3, 1, 1))
    out = model(**graph)
    assert out.scalars.shape == (5, 2) and out.vectors.shape == (5, 2, 3)
    assert bool((out.scalars[3:] == 0).all()) and bool(out.scalars[:3].abs().min() > 0)
    alone = {**graph, "edge_index": graph["edge_index"][:, :0]}
    assert model(**alone).scalars.shape == (5, 2)
    pooled = small_ponita(mode="cloud")(**alone, num_graphs=4)
    assert pooled.scalars.shape == (4, 2) and pooled.vectors.shape == (4, 2, 3)


@pytest.mark.parametrize("options", [*BUNDLES.values(), {"space": "R3xS2", "mode": "cloud"}])
def test_a_batch_equals_its_graphs_one_by_one(options):
    sizes = (4, 2, 3)
    together, model = inputs_for(options["space"], sizes), small_ponita(**options)
    outputs = model(**together)
    for number in range(len(sizes)):
        mask = together["batch"] == number
        first = int(mask.nonzero()[0])
        alone = {k: v[mask] for k, v in together.items() if k not in ("edge_index", "batch")}
        alone["edge_index"] = together["edge_index"][:, mask[together["edge_index"][0]]] - first
        for a, b in zip(model(**alone), outputs, strict=True):
            assert float((a[0] - b[number]).abs().max()) < TOLERANCE


def tetrahedral_molecule():
    """Four different points around a fifth, and the mirror image."""
    pos = torch.tensor([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    pos = pos * torch.tensor([1.0, 1.1, 1.2, 1.3, 1.4], dtype=torch.float64)[:, None]
    x = torch.eye(5, dtype=torch.float64)
    edge_index = radius_graph(pos, 10.0)
    return {"pos": pos, "x": x, "edge_index": edge_index}


def mirror_difference(**options):
    """How different mirror images are to a network, relative to the output; grids are mirrored along."""
    model = small_ponita(in_channels=5, in_vector_channels=0, out_vector_channels=0, readouts="last", **options)
    one = tetrahedral_molecule()
    calibrate(model, one)
    first = model(**one).scalars
    if options.get("mode") != "cloud" and options["space"] == "R3xS2":
        model.set_grid(model.grid @ MIRROR)
    second = model(**{**one, "pos": one["pos"] @ MIRROR}).scalars
    return float((first - second).norm() / first.norm())


def test_mirror_images_are_told_apart_by_complete_clouds_and_frames_only():
    assert mirror_difference(space="R3xS2") < TOLERANCE
    assert mirror_difference(space="R3xS2", separable=False, num_orientations=6) < TOLERANCE
    assert mirror_difference(space="R3xS2", mode="cloud") < TOLERANCE
    assert mirror_difference(space="R3xS2", mode="cloud", invariants="complete") > 1e-6
    assert mirror_difference(space="R3xS2", separable=False, num_orientations=6, invariants="complete") > 1e-6
    # The mirrored molecule turned by any rotation of the grid is still another molecule to a network of frames.
    assert mirror_difference(space="SE3", num_orientations=12) > 1e-6


@pytest.mark.parametrize(
    ("space", "pair"),
    [
        ("R3xS2", [[0.0, 0, 1], [1.0, 0, 0], [0.0, 1, 0]]),
        ("R2xS1", [[1.0, 0], [math.cos(0.7), math.sin(0.7)], [math.cos(0.7), -math.sin(0.7)]]),
    ],
)
def test_the_papers_invariants_confuse_what_the_complete_ones_tell_apart(space, pair):
    # Two points; only the orientation of the second differs. Messages to the first see the same paper invariants.
    receiver, one, other = torch.tensor(pair, dtype=torch.float64)
    pos = torch.zeros(2, receiver.numel(), dtype=torch.float64)
    pos[1, 0] = 1.0
    edge = torch.tensor([[1], [0]])
    for invariants, differs in (("paper", False), ("complete", True)):
        options = {"space": space, "mode": "cloud", "invariants": invariants, "pooling": None}
        model = small_ponita(in_channels=1, in_vector_channels=0, out_vector_channels=0, **options)
        outputs = [
            model(pos, edge, x=torch.ones(2, 1, dtype=torch.float64), orientations=torch.stack([receiver, o])).scalars[
                0
            ]
            for o in (one, other)
        ]
        assert (float((outputs[0] - outputs[1]).abs().max()) > 1e-6) == differs


def test_a_kernel_of_both_orientations_is_the_sum_over_points_with_orientations(graph):
    # By its definition: y[i,p] = (1/O) sum_j sum_o k(i,p; j,o) x[j,o], in loops over nodes and orientations.
    model = small_ponita(num_orientations=6, separable=False, invariants="complete", num_layers=1, cutoff=3.0)
    edge_index = graph["edge_index"][:, ::2]  # one-sided, in no order
    conv, grid = model.blocks[0].conv, model.grid
    features = torch.randn(9, 6, 8, dtype=torch.float64)
    expected = conv.bias.expand(9, 6, 8).clone()
    for j, i in edge_index.T.tolist():
        r = graph["pos"][j] - graph["pos"][i]
        for p in range(6):
            invariants = model.space.full_invariants(r.expand(6, 3), grid[p].expand(6, 3), grid, True, 0.1)
            kernel = conv.kernel(model.basis(invariants)) * model.window(r.norm()[None])
            expected[i, p] += (kernel * features[j]).mean(0)
    from ponita.models.points import product_points

    points = product_points(graph["pos"], EdgeSet.from_edge_index(edge_index, 9), None, grid)
    (basis,) = model.kernel_bases(points)
    found = conv(features.reshape(54, 1, 8), basis, points.edges).reshape(9, 6, 8)
    assert torch.allclose(found, expected, atol=TOLERANCE)


def test_averaging_over_grids_lowers_the_error():
    graph = random_graph((8,) * 3)
    torch.manual_seed(3)
    model = small_ponita(num_orientations=6, hidden_channels=16, pooling=None)
    calibrate(model, graph)
    rotations = random_rotations(6, dtype=torch.float64)
    errors = [equivariance_error(model.average_over_grids(n), graph, rotations=rotations) for n in (1, 4, 64)]
    assert errors[0] == equivariance_error(model, graph, rotations=rotations)
    assert errors[1].scalars < 0.6 * errors[0].scalars and errors[2].scalars < 0.15 * errors[0].scalars
    assert torch.equal(model.grid, sphere_grid(6))


def test_averaging_planar_grids_is_a_finer_grid():
    graph = inputs_for("R2xS1")
    model = small_ponita(space="R2xS1", num_orientations=4, pooling=None)
    rotation = torch.tensor(
        [[math.cos(math.pi / 8), -math.sin(math.pi / 8)], [math.sin(math.pi / 8), math.cos(math.pi / 8)]]
    )
    assert_equivariant(model.average_over_grids(4), graph, rotations=rotation[None].double(), tolerance=1e-6)


def test_averages_need_a_grid():
    with pytest.raises(ValueError, match="no grid to average over"):
        small_ponita(mode="cloud").average_over_grids(2)
    with pytest.raises(ValueError, match="average over 0 grids"):
        small_ponita().average_over_grids(0)


def test_points_at_one_position_with_different_orientations_are_different_points():
    graph = random_graph((5,), loops=False)
    lifted = lift_edges(graph["pos"], graph["edge_index"])
    model = small_ponita(mode="cloud", pooling=None)
    given = model(
        graph["pos"][lifted.node],
        lifted.lifted_edge_index,
        x=graph["x"][lifted.node],
        vec=graph["vec"][lifted.node],
        orientations=lifted.direction,
    )
    mean = torch.zeros(5, 2, dtype=torch.float64).index_add_(0, lifted.node, given.scalars) / 4
    assert torch.allclose(mean, model(**graph).scalars, atol=TOLERANCE)


def test_a_potential_can_be_averaged_over_grids():
    network = small_ponita(
        in_channels=2, in_vector_channels=0, out_channels=1, out_vector_channels=0, num_orientations=6
    )
    potential, numbers = Potential(network, [1, 8]), torch.tensor([8, 1, 1])
    pos, rotation = torch.randn(3, 3, dtype=torch.float64), random_rotations(1, dtype=torch.float64)[0]

    def change():
        return float((potential(pos @ rotation.T, numbers) - potential(pos, numbers)).abs())

    before = change()
    potential.network = network.average_over_grids(64)
    assert change() < 0.5 * before
    with torch.enable_grad():
        assert potential.energy_forces(pos, numbers).forces.shape == (3, 3)
