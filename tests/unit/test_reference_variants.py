"""Every kind of published network against its independent restatement: clouds, the plane, attention, conditioning."""

from __future__ import annotations

import pytest
import torch
from support.graphs import random_graph
from support.reference_network import random_reference_state, reference_forward
from support.reference_network_cloud import reference_cloud_forward
from support.reference_network_names import (
    averaged_checkpoint,
    diffusion_module,
    rapidash_scales,
    rapidash_single_readout,
)

from ponita.geometry import circle_grid, fully_connected, sphere_grid
from ponita.models import load_reference_checkpoint

SIZES = {"hidden": 8, "basis": 10, "layers": 2}
CHANNELS = {"in_scalars": 3, "in_vectors": 2, "out_scalars": 2, "out_vectors": 1}
SCALARS = {"in_scalars": 3, "in_vectors": 0, "out_scalars": 2, "out_vectors": 0}
CLOUD = {"bundle": False, "attributes": 3}
#: Both directions of these, within two graphs of 5 and 4 nodes; nodes 3 and 8 have no edges.
LINKS = torch.tensor([[0, 1], [1, 2], [0, 2], [2, 4], [5, 6], [6, 7]]).T


def free_directions(count, dim):
    return torch.nn.functional.normalize(torch.randn(count, dim, dtype=torch.float64), dim=1)


def graph_of(channels, dim=3, edge_index=None):
    """Two graphs of 5 and 4 points with the inputs a state has, and self-loops."""
    inputs = random_graph((5, 4), scalars=channels["in_scalars"], vectors=channels["in_vectors"])
    inputs = {k: v[..., :dim].contiguous() if k in ("pos", "vec") else v for k, v in inputs.items()}
    return inputs if edge_index is None else inputs | {"edge_index": edge_index}


def load(state, channels, **options):
    vectors = {f"{kind}_vector_channels": channels[f"{kind}_vectors"] for kind in ("in", "out")}
    return load_reference_checkpoint(state, **vectors, **options)


def assert_same(ours, expected):
    assert float(sum(part.abs().sum() for part in expected)) > 0.1
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def assert_bundle_agrees(state, channels, grid, inputs=None, pooling=None, extra=None, oracle=None, **options):
    """Load a state, or another writing of it, and compare on fully connected graphs with self-loops."""
    space = options.get("space", "R3xS2")
    inputs = graph_of(channels, int(space[1])) if inputs is None else inputs
    model = load(state, channels, pooling=pooling, **options)
    with torch.no_grad():
        expected = reference_forward(
            state if oracle is None else oracle,
            grid=grid,
            out_vectors=channels["out_vectors"],
            pooling=pooling,
            **inputs,
            **(extra or {}),
        )
        given = inputs | ({"condition": LEVELS} if (extra or {}).get("conditioned") else {})
        assert_same(model(**given), expected)
    return model


LEVELS = torch.tensor([[0.7], [-1.2]], dtype=torch.float64)


def with_levels(channels):
    """Inputs whose last scalar is the level of the graph."""
    inputs = graph_of(channels)
    inputs["x"][:, -1:] = LEVELS[inputs["batch"]]
    return inputs


@pytest.mark.parametrize("pooling", ["sum", None])
@pytest.mark.parametrize("radius", [None, 2.0])
@pytest.mark.parametrize("grid", [circle_grid(6), circle_grid(5), free_directions(4, 2)], ids=["even", "odd", "free"])
def test_planar_bundles(grid, radius, pooling):
    state = random_reference_state(**SIZES, **CHANNELS, radius=radius)
    assert_bundle_agrees(state, CHANNELS, grid, pooling=pooling, space="R2xS1", orientation_grid=grid)


@pytest.mark.parametrize("space", ["R2", "R3"])
def test_distances_alone(space):
    state = random_reference_state(**SIZES, **SCALARS, bundle=False, radius=2.0)
    assert_bundle_agrees(state, SCALARS, None, pooling="sum", space=space)


CLOUDS = {
    "plain": {},
    "last read-out, layer scale": {"multiple_readouts": False, "layer_scale": 1e-6},
    "degree 2": {"degree": 2},
    "prefix": {"prefix": "model."},
}
KINDS = {
    "scalars and vectors": CHANNELS,
    "scalars": SCALARS,
    "vectors": {"in_scalars": 0, "in_vectors": 2, "out_scalars": 0, "out_vectors": 1},
}


def cloud_networks(space, channels, pooling, edge_index, **options):
    """Functions of the positions: ours and the restatement."""
    state = random_reference_state(**SIZES, **channels, **CLOUD, **options)
    degree = {"degree": options.get("degree", 3)}
    model = load(state, channels, space=space, mode="cloud", pooling=pooling, **degree)
    inputs = graph_of(channels, int(space[1]), edge_index)
    plain = {k.removeprefix("model."): v for k, v in state.items()}

    def reference(pos):
        outputs = {"out_vectors": channels["out_vectors"], "pooling": pooling} | degree
        return reference_cloud_forward(plain, **(inputs | {"pos": pos}), **outputs)

    return (lambda pos: model(**(inputs | {"pos": pos}))), reference, inputs["pos"]


@pytest.mark.parametrize("pooling", ["sum", None])
@pytest.mark.parametrize("options", CLOUDS.values(), ids=CLOUDS)
@pytest.mark.parametrize("channels", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("space", ["R3xS2", "R2xS1"])
def test_clouds_of_directed_edges(space, channels, options, pooling):
    both_ways = torch.cat([LINKS, LINKS.flip(0)], dim=1)
    ours, reference, pos = cloud_networks(space, channels, pooling, both_ways, **options)
    with torch.no_grad():
        assert_same(ours(pos), reference(pos))


@pytest.mark.parametrize("space", ["R3xS2", "R2xS1"])
def test_clouds_with_a_window_on_graphs_that_hold_every_pair_within_it(space):
    batch = torch.tensor([0] * 5 + [1] * 4)
    ours, reference, pos = cloud_networks(space, CHANNELS, None, fully_connected(batch, loops=True), radius=2.0)
    lengths = torch.pdist(pos[:5])
    assert (lengths < 2.0).any() and (lengths > 2.0).any()
    with torch.no_grad():
        assert_same(ours(pos), reference(pos))


def test_forces_of_a_cloud():
    both_ways = torch.cat([LINKS, LINKS.flip(0)], dim=1)
    networks = cloud_networks("R3xS2", CHANNELS, "sum", both_ways)
    forces = []
    for network in networks[:2]:
        pos = networks[2].clone().requires_grad_()
        forces.append(torch.autograd.grad(network(pos)[0].sum(), pos)[0])
    assert float(forces[1].abs().max()) > 0.1
    torch.testing.assert_close(*forces, rtol=0, atol=1e-10)


@pytest.mark.parametrize("pooling", ["sum", None])
@pytest.mark.parametrize("attention", [None, 5])
@pytest.mark.parametrize("conditioned", [True, False])
def test_the_options_of_the_rewrite(conditioned, attention, pooling):
    grid = sphere_grid(12)
    attributes = 3 if conditioned else 2
    state = random_reference_state(**SIZES, **CHANNELS, attributes=attributes, attention=attention)
    inputs, extra = with_levels(CHANNELS), {"conditioned": conditioned}
    model = assert_bundle_agrees(state, CHANNELS, grid, inputs, pooling, extra, orientation_grid=grid)
    assert model.config["conditioning_channels"] == conditioned and model.config["attention_channels"] == attention
    assert model.config["in_channels"] == 3  # the level is among the scalars as well


def test_the_published_attention_differs_by_what_it_adds_to_its_sums():
    # It counts weights from the largest of the batch, so that uneven ones lose more than 1e-6.
    state, grid = random_reference_state(**SIZES, **CHANNELS, attention=5), sphere_grid(6)
    state = {k: 0.1 * v if "key_transform" in k else v for k, v in state.items()}
    inputs = graph_of(CHANNELS)
    model = load(state, CHANNELS, orientation_grid=grid)
    published = {"grid": grid, "out_vectors": 1, "pooling": "sum", "attention_epsilon": 1e-6}
    with torch.no_grad():
        for ours, theirs in zip(model(**inputs), reference_forward(state, **inputs, **published), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
            assert float((ours - theirs).abs().max()) > 1e-9


@pytest.mark.parametrize("conditioned", [True, False])
def test_basis_functions_numbered_by_scale(conditioned):
    state, grid = random_reference_state(**SIZES, **CHANNELS, attributes=2 + conditioned), sphere_grid(6)
    inputs, extra = with_levels(CHANNELS), {"conditioned": conditioned}
    renamed = diffusion_module(rapidash_scales(state))
    assert_bundle_agrees(renamed, CHANNELS, grid, inputs, None, extra, oracle=state, orientation_grid=grid)


@pytest.mark.parametrize("basis_hidden", [None, 3])
def test_single_read_out_with_a_stored_grid(basis_hidden):
    state = random_reference_state(**SIZES, **CHANNELS, multiple_readouts=False, basis_hidden=basis_hidden)
    grid = free_directions(7, 3)
    assert_bundle_agrees(rapidash_single_readout(state, grid), CHANNELS, grid, oracle=state)


def test_single_read_out_without_orientations():
    state = random_reference_state(**SIZES, **SCALARS, bundle=False, multiple_readouts=False)
    assert_bundle_agrees(rapidash_single_readout(state, None), SCALARS, None, oracle=state, space="R3")


@pytest.mark.parametrize("name", ["ori_grid", "sphere_grid"])
def test_a_stored_grid_is_used_unless_another_is_given(name):
    state, stored, given = random_reference_state(**SIZES, **SCALARS), free_directions(5, 3), free_directions(6, 3)
    state |= {name: stored, "_mask_default": torch.ones(1, 1)}
    assert torch.equal(load(state, SCALARS).grid, stored)
    assert torch.equal(load(state, SCALARS, orientation_grid=given).grid, given)


@pytest.mark.parametrize("prefix", ["model.", "net.", "model.model."])
def test_prefixes_of_training_modules(prefix):
    state, grid = random_reference_state(**SIZES, **SCALARS), sphere_grid(6)
    module = {f"{prefix}{name}": value for name, value in state.items()} | {"criterion.weight": torch.ones(2)}
    assert_bundle_agrees({"state_dict": module}, SCALARS, grid, oracle=state, orientation_grid=grid)


@pytest.mark.parametrize("radius", [None, 2.0])
def test_averaged_weights(radius):
    options = {**SIZES, **CHANNELS, "layers": 11, "layer_scale": 1.0, "radius": radius}  # layer 10 is sorted before 2
    state, averages, grid = random_reference_state(**options), random_reference_state(**options, seed=1), sphere_grid(6)
    checkpoint = averaged_checkpoint(state, averages)
    assert_bundle_agrees(checkpoint, CHANNELS, grid, oracle=averages, orientation_grid=grid, ema=True)
    assert_bundle_agrees(checkpoint, CHANNELS, grid, oracle=state, orientation_grid=grid)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("optimizer_states"), r"no optimizer_states\[0\]\['ema'\]. Pass the whole"),
        (lambda c: c["optimizer_states"][0].pop("ema"), r"no optimizer_states\[0\]\['ema'\]"),
        (
            lambda c: c["optimizer_states"][0].update(ema=c["optimizer_states"][0]["ema"][:-1]),
            r"holds 30 tensors, the network 31 param",
        ),
        (
            lambda c: c["optimizer_states"][0].update(ema=c["optimizer_states"][0]["ema"][::-1]),
            "the shapes of .* differ",
        ),
    ],
)
def test_averages_that_are_not_there_or_do_not_fit(change, message):
    state = random_reference_state(**SIZES, **SCALARS)
    checkpoint = averaged_checkpoint(state, state)
    change(checkpoint)
    with pytest.raises(ValueError, match=message):
        load(checkpoint, SCALARS, orientation_grid=sphere_grid(6), ema=True)


STATES = {
    "bundle": lambda: random_reference_state(**SIZES, **SCALARS),
    "distances": lambda: random_reference_state(**SIZES, **SCALARS, bundle=False),
    "cloud": lambda: random_reference_state(**SIZES, **SCALARS, **CLOUD),
    "conditioned": lambda: random_reference_state(**SIZES, **SCALARS, attributes=3),
    "attention": lambda: random_reference_state(**SIZES, **SCALARS, attention=5),
}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("bundle", {"mode": "cloud"}, "2 invariants .* a fibre basis.*mode='cloud'; pass space='R3xS2' or .*'bundle'"),
        ("bundle", {"space": "R2"}, "a bundle of orientations, not space='R2'.*pass space='R3xS2' or 'R2xS1'"),
        ("bundle", {"space": "SE3"}, "a bundle of orientations, not space='SE3'"),
        ("distances", {}, "1 invariants .* no fibre basis: a network on distances.*pass space='R3' or 'R2'"),
        ("distances", {"mode": "cloud"}, "a network on distances, not space='R3xS2' with mode='cloud'"),
        ("cloud", {}, "3 invariants .* no fibre basis: a cloud .*mode='bundle'; pass .* and mode='cloud'"),
        ("cloud", {"space": "R3", "mode": "cloud"}, "a cloud of points with directions, not space='R3'"),
        ("conditioned", {"space": "R2xS1"}, "conditioned on its last feature, not space='R2xS1'"),
        ("attention", {"space": "R2xS1"}, "R2xS1.*key_transform.* changes under rotations"),
        ("bundle", {"space": "R4"}, "space='R4' is not implemented"),
        ("bundle", {"degree": 2}, "14 columns and fiber.* 3, .* degree=2; pass degree=3.*one less"),
        ("distances", {"space": "R3", "degree": 2}, "3 columns, .* degree=2; pass degree=1 or degree=3. The"),
        ("cloud", {"mode": "cloud", "degree": 2}, "39 columns, .* degree=2; pass degree=3. The"),
        ("cloud", {"mode": "cloud", "orientation_grid": sphere_grid(6)}, "cloud mode has no grid"),
        ("distances", {"space": "R3", "orientation_grid": sphere_grid(6)}, "R3 has no orientation grid"),
        ("bundle", {"orientation_grid": circle_grid(6)}, r"orientation_grid has shape \[6, 2\]; expected \[O, 3\]"),
    ],
)
def test_what_does_not_fit_says_what_to_pass(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        load(STATES[name](), SCALARS, **arguments)


def test_a_stored_grid_of_another_dimension():
    with pytest.raises(ValueError, match=r"the stored grid has shape \[4, 2\]"):
        load(STATES["bundle"]() | {"ori_grid": circle_grid(4)}, SCALARS)


@pytest.mark.parametrize("change", [lambda s: s | {"interaction_layers.0.bottleneck.0.weight": torch.ones(2)}, None])
def test_dense_networks_have_no_counterpart(change):
    rename = lambda s: {k.replace("read_out_layers", "readout_layers"): v for k, v in s.items()}  # noqa: E731
    with pytest.raises(ValueError, match=r"name of the dense network \(PonitaFC\)"):
        load((change or rename)(STATES["bundle"]()), SCALARS)


def test_networks_of_several_scales_are_not_implemented():
    with pytest.raises(ValueError, match=r"basis functions of 2 scales, \[0, 1\]; expected one"):
        load(rapidash_scales(STATES["bundle"](), scales=2), SCALARS)


def test_two_different_networks_in_one_module():
    module = diffusion_module(STATES["bundle"]())
    module["net.x_embedder.weight"] = module["net.x_embedder.weight"] + 1
    with pytest.raises(ValueError, match=r"several networks with different weights, at \['net.', 'model.model.'\]"):
        load(module, SCALARS)


@pytest.mark.parametrize("space", ["R2xS1", "R3xS2"])
@pytest.mark.parametrize("width", [9, 20])
def test_basis_functions_wider_than_the_network(width, space):
    state = random_reference_state(**SIZES, **SCALARS, basis_hidden=width)
    with pytest.raises(ValueError, match=rf"basis_hidden_dim={width} is larger than hidden_dim=8"):
        load(state, SCALARS, space=space, orientation_grid=circle_grid(4) if space == "R2xS1" else sphere_grid(6))


def single_readout(**options):
    return rapidash_single_readout(random_reference_state(**SIZES, **SCALARS, multiple_readouts=False, **options), None)


def test_a_read_out_after_the_sum_has_its_bias_once():
    state, grid = single_readout(), sphere_grid(6)
    with pytest.raises(ValueError, match=r"`readout`.* bias counts once a graph, here once a point"):
        load(state, SCALARS, orientation_grid=grid)
    state["readout.bias"].zero_()
    assert load(state, SCALARS, orientation_grid=grid).pooling == "sum"


def test_networks_equivariant_under_translations_alone():
    for options, arguments in (({**CLOUD}, {"mode": "cloud"}), ({"attributes": 5}, {})):
        with pytest.raises(ValueError, match="equivariant under translations alone"):
            load(single_readout(**options), SCALARS, pooling=None, **arguments)


def test_names_of_the_rewrites_in_the_plane():
    for state in (rapidash_scales(STATES["bundle"]()), single_readout()):
        with pytest.raises(ValueError, match=r"R2xS1.* with .*, a name of the rewrites"):
            load(state, SCALARS, space="R2xS1", pooling=None, orientation_grid=circle_grid(4))


def test_a_missing_planar_grid_is_said():
    with pytest.warns(UserWarning, match=r"20 directions of circle_grid\(20\).*circle_grid of the right size"):
        assert load(STATES["bundle"](), SCALARS, space="R2xS1").grid.shape == (20, 2)
