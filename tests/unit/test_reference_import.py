"""The importer against an independent restatement of the published network, written from its description alone."""

import pytest
import torch
from support.graphs import random_graph
from support.reference_network import random_reference_state, reference_forward

from ponita.geometry import random_rotations, rotate, sphere_grid
from ponita.models import load_reference_checkpoint

SIZES = {"hidden": 8, "basis": 10, "layers": 3}
VARIANTS = {
    "plain": {},
    "last readout": {"multiple_readouts": False},
    "layer scale": {"layer_scale": 1e-6},
    "window": {"radius": 3.0},
    "prefix": {"prefix": "model."},
    "degree 2": {"degree": 2},
    "scalars only": {"in_vectors": 0, "out_vectors": 0},
    "vectors only": {"in_scalars": 0, "out_scalars": 0},
    "wide": {"widening": 2},
    "no orientations": {"bundle": False, "in_vectors": 0, "out_vectors": 0},
    "no orientations, window": {"bundle": False, "in_vectors": 0, "out_vectors": 0, "radius": 3.0},
}
GRIDS = {
    "antipodal, shuffled": lambda: sphere_grid(12)[torch.randperm(12)],
    "free": lambda: torch.nn.functional.normalize(torch.randn(7, 3, dtype=torch.float64), dim=1),
}


def both_networks(grid, pooling, channels):
    """Functions of the same inputs: ours on edges with self-loops, and the restatement, which adds its own."""
    channels = {"in_scalars": 3, "in_vectors": 2, "out_scalars": 2, "out_vectors": 1, **channels}
    options = {"degree": channels.get("degree", 3)}
    bundle = channels.get("bundle", True)
    grid = grid if bundle else None
    state = random_reference_state(**SIZES, **channels)
    model = load_reference_checkpoint(
        state,
        orientation_grid=grid,
        space="R3xS2" if bundle else "R3",
        in_vector_channels=channels["in_vectors"],
        out_vector_channels=channels["out_vectors"],
        pooling=pooling,
        **options,
    )
    inputs = random_graph((5, 4), scalars=channels["in_scalars"], vectors=channels["in_vectors"])
    inputs["pos"] = 1.3 * inputs["pos"]
    no_loops = inputs["edge_index"][:, inputs["edge_index"][0] != inputs["edge_index"][1]]

    def reference(pos):
        given = {k: inputs[k] for k in ("x", "vec", "batch") if k in inputs}
        return reference_forward(
            state, pos, no_loops, **given, grid=grid, out_vectors=channels["out_vectors"], pooling=pooling, **options
        )

    return (lambda pos: model(**{**inputs, "pos": pos})), reference, inputs["pos"]


@pytest.mark.parametrize("pooling", ["sum", None])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_imported_network_gives_the_same_numbers(variant, grid, pooling):
    ours, reference, pos = both_networks(GRIDS[grid](), pooling, VARIANTS[variant])
    with torch.no_grad():
        expected_scalars, expected_vectors = reference(pos)
        scalars, vectors = ours(pos)
    assert scalars.shape == expected_scalars.shape and vectors.shape == expected_vectors.shape
    assert float(expected_scalars.abs().sum() + expected_vectors.abs().sum()) > 0.1
    torch.testing.assert_close(scalars, expected_scalars, rtol=0, atol=1e-10)
    torch.testing.assert_close(vectors, expected_vectors, rtol=0, atol=1e-10)


def test_the_window_test_sees_edges_on_both_sides_of_the_cutoff():
    _, _, pos = both_networks(GRIDS["free"](), None, VARIANTS["window"])
    distance = torch.pdist(pos[:5])
    assert (distance < 3.0).any() and (distance > 3.0).any()


@pytest.mark.parametrize("grid", GRIDS)
def test_imported_network_has_the_same_forces(grid):
    ours, reference, pos = both_networks(GRIDS[grid](), "sum", {})
    forces = []
    for network in (ours, reference):
        moving = pos.clone().requires_grad_()
        forces.append(torch.autograd.grad(network(moving)[0].sum(), moving)[0])
    torch.testing.assert_close(*forces, rtol=0, atol=1e-10)


def test_antipodal_grids_of_the_reference_use_pairs_and_others_do_not():
    state = random_reference_state(in_scalars=1, in_vectors=0, out_scalars=1, out_vectors=0, **SIZES)
    load = lambda name: load_reference_checkpoint(state, orientation_grid=GRIDS[name]())  # noqa: E731
    assert load("antipodal, shuffled").stores_pairs and not load("free").stores_pairs


def test_a_training_checkpoint_and_float32_are_accepted():
    state = random_reference_state(
        in_scalars=1, in_vectors=0, out_scalars=1, out_vectors=0, **SIZES, prefix="model.", dtype=torch.float32
    )
    model = load_reference_checkpoint({"state_dict": state, "epoch": 3}, orientation_grid=sphere_grid(6))
    assert model.dtype == torch.float32 and not model.training


def test_a_missing_grid_is_said():
    state = random_reference_state(in_scalars=1, in_vectors=0, out_scalars=1, out_vectors=0, **SIZES)
    with pytest.warns(UserWarning, match="orientation_grid is missing: using the 20 directions"):
        assert load_reference_checkpoint(state).grid.shape == (20, 3)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"degree": 4}, "has 14 columns .* do not go with degree=4; pass degree=3"),
        ({}, {"in_vector_channels": 5}, "in_vector_channels=5.*3 inputs"),
        ({}, {"space": "R3", "orientation_grid": None}, "a bundle of orientations, not space='R3'"),
        ({"windowing_fn.p": torch.tensor(5.0), "windowing_fn.r_max": torch.tensor(3.0)}, {}, "windowing_fn.p=5.0"),
        (
            {"basis_fn.1.weight": None},
            {},
            r"not a state dict of the published PONITA code: \['basis_fn.1.weight'\] missing",
        ),
        ({"interaction_layers.1.norm.bias": None}, {}, r"missing \['blocks.1.norm.bias'\]"),
        ({"attention.weight": torch.ones(2)}, {}, r"unexpected \['attention.weight'\]"),
        ({"read_out_layers.0.weight": None, "read_out_layers.0.bias": None}, {}, r"read-outs after layers \[1, 2\]"),
        ({"x_embedder.weight": torch.ones(8, 3, 1)[:, :, 0][:, :2]}, {"in_vector_channels": 3}, "2 inputs"),
    ],
)
def test_other_state_dicts_are_refused(change, arguments, message):
    state = random_reference_state(in_scalars=3, in_vectors=0, out_scalars=1, out_vectors=0, **SIZES)
    state = {k: v for k, v in {**state, **change}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        load_reference_checkpoint(state, **{"orientation_grid": sphere_grid(6), **arguments})


def test_rotating_the_grid_of_an_imported_network_rotates_its_vectors():
    state = random_reference_state(in_scalars=3, in_vectors=2, out_scalars=0, out_vectors=1, **SIZES)
    inputs, grid = random_graph((6,)), GRIDS["free"]()
    rotation = random_rotations(1, dtype=torch.float64)[0]
    outputs = []
    for turn in (torch.eye(3, dtype=torch.float64), rotation):
        model = load_reference_checkpoint(
            state, orientation_grid=rotate(grid, turn), in_vector_channels=2, out_vector_channels=1
        )
        outputs.append(
            model(rotate(inputs["pos"], turn), inputs["edge_index"], inputs["x"], rotate(inputs["vec"], turn))
        )
    torch.testing.assert_close(outputs[1].vectors, rotate(outputs[0].vectors, rotation), rtol=0, atol=1e-12)
