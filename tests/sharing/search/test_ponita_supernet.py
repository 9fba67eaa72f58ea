"""All PONITA networks of a space in one: each is what it would be alone, and as equivariant."""

from functools import partial

import pytest
import torch

from ponita import Ponita
from ponita.geometry import fully_connected
from ponita.geometry.symmetry import grid_symmetry
from ponita.models import Potential, load, save
from ponita.sharing.search import (
    Choice,
    PonitaSupernet,
    SearchSpace,
    calibrate_supernet,
    extract_potential,
)
from ponita.testing import assert_equivariant

OPTIONS = {
    "hidden_channels": (4, 8),
    "num_layers": (1, 3),
    "widening": (1, 2),
    "basis_channels": (4, 6),
    "degree": (1, 2),
    "cutoff": (2.5, 4.0),
    "num_orientations": (6, 12),
}
EXACT = 1e-12
VARIANTS = {
    "mlp": {},
    "fused": {"kernel": "fused"},
    "layer scale": {"layer_scale": 0.5, "axis_smoothing": 0.0},
    "attention": {"attention_channels": 3},
    "vectors": {"in_vector_channels": 1, "out_vector_channels": 1, "pooling": None},
}
GENERATOR = torch.Generator().manual_seed(0)
POS = torch.randn(7, 3, generator=GENERATOR, dtype=torch.float64)
VEC = torch.randn(7, 1, 3, generator=GENERATOR, dtype=torch.float64)
X = torch.randn(7, 2, generator=GENERATOR, dtype=torch.float64)
BATCH = torch.tensor([0, 0, 0, 0, 1, 1, 1])
EDGES = fully_connected(BATCH)


def space(**options: tuple) -> SearchSpace:
    return SearchSpace(*(Choice(name, values) for name, values in (options or OPTIONS).items()))


def supernet(chosen: SearchSpace | None = None, **fixed: object) -> PonitaSupernet:
    torch.manual_seed(0)
    net = PonitaSupernet(chosen or space(), in_channels=2, **fixed).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net


def inputs(net: PonitaSupernet) -> dict[str, object]:
    vec = VEC if net.config["in_vector_channels"] else None
    return {"pos": POS, "edge_index": EDGES, "x": X, "vec": vec, "batch": BATCH}


def some(chosen: SearchSpace, number: int = 8) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(1)
    return [chosen.smallest(), chosen.largest(), *(chosen.sample(generator) for _ in range(number))]


def assert_same(first, second, tolerance=EXACT):
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_path_is_the_network_it_extracts_and_the_mixture_with_all_weight_on_it(variant):
    net = supernet(**VARIANTS[variant])
    seen = set()
    for architecture in some(net.space):
        given = inputs(net)
        sliced = net(**given, path=architecture)
        alone = net.extract(architecture)
        assert type(alone) is Ponita
        values = net.space.decode(architecture)
        assert {name: alone.config[name] for name in values} == values
        assert_same(sliced, alone(**given), 0)
        assert_same(sliced, net(**given, path=net.space.onehot(architecture, torch.float64)))
        seen.add(sliced.scalars.sum().item())
    assert len(seen) > 6


def test_spline_kernels_are_mixed_on_the_lattice_of_the_largest_cutoff():
    chosen = space(**{name: OPTIONS[name] for name in ("hidden_channels", "num_layers", "cutoff")})
    net = supernet(chosen, kernel="spline", num_orientations=12)
    given = inputs(net)
    for architecture in chosen.enumerate():
        sliced, mixed = (net(**given, path=p) for p in (architecture, chosen.onehot(architecture, torch.float64)))
        assert_same(sliced, net.extract(architecture)(**given), 0)
        # A network alone has its nodes on the lattice of its own cut-off, another interpolation of the same kernel.
        assert_same(sliced, mixed, EXACT if architecture[2] == 1 else 2e-2)


@pytest.mark.parametrize("name", ["R3", "R2xS1", "cloud", "product"])
def test_networks_of_every_space_nest(name):
    options = {
        "R3": {"space": "R3"},
        "R2xS1": {"space": "R2xS1", "num_orientations": 8},
        "cloud": {"mode": "cloud"},
        "product": {"separable": False, "num_orientations": 6},
    }[name]
    net = supernet(space(hidden_channels=(4, 8), num_layers=(1, 2), basis_channels=(4, 6), degree=(1, 2)), **options)
    edges = EDGES[:, EDGES[0] != EDGES[1]]
    given = {**inputs(net), "pos": POS[:, : net.network.space.dim], "edge_index": edges}
    for architecture in net.space.enumerate():
        sliced = net(**given, path=architecture)
        assert_same(sliced, net.extract(architecture)(**given), 0)
        assert_same(sliced, net(**given, path=net.space.onehot(architecture, torch.float64)))


def test_numbers_of_weights_are_those_of_the_networks():
    net = supernet()
    for architecture in some(net.space, 20):
        number = sum(p.numel() for p in net.extract(architecture).parameters())
        assert int(net.num_parameters(architecture)) == number
        assert float(net.num_parameters(net.space.onehot(architecture))) == pytest.approx(number)
    mixed = {name: torch.full((2,), 0.5, dtype=torch.float64) for name in net.space}
    every = [float(net.num_parameters(a)) for a in net.space.enumerate()]
    assert float(net.num_parameters(mixed)) == pytest.approx(sum(every) / len(every))


def test_a_mixture_of_windows_is_the_mixture_of_outputs_and_of_widths_is_not():
    chosen = space(cutoff=(2.5, 4.0), hidden_channels=(4, 8))
    net = supernet(chosen, num_layers=1, num_orientations=6)
    with torch.no_grad():
        net.network.blocks[
            0
        ].linear_2.weight.zero_()  # what is left behind the convolution is linear in nothing: compare convolutions
    features = torch.randn(7, 6, 8, dtype=torch.float64)
    outputs = {}
    for name, weights in {"first": [1.0, 0.0], "second": [0.0, 1.0], "mixed": [0.3, 0.7]}.items():
        path = {
            "cutoff": torch.tensor(weights, dtype=torch.float64),
            "hidden_channels": torch.tensor([0.0, 1.0], dtype=torch.float64),
        }
        _, taps = net.taps(**inputs(net), path=path)
        outputs[name] = taps[0]["S"]
    assert outputs["mixed"].shape == features.shape
    torch.testing.assert_close(
        outputs["mixed"], 0.3 * outputs["first"] + 0.7 * outputs["second"], rtol=1e-12, atol=1e-12
    )
    net = supernet(chosen, num_layers=1, num_orientations=6)
    paths = [net.space.onehot((0, k), torch.float64) for k in (0, 1)]
    half = {**paths[0], "hidden_channels": torch.tensor([0.5, 0.5], dtype=torch.float64)}
    outputs = [net(**inputs(net), path=path).scalars for path in (*paths, half)]
    assert (outputs[2] - (outputs[0] + outputs[1]) / 2).abs().max() > 1e-3


def test_mixtures_have_the_gradients_of_their_weights():
    chosen = space(
        hidden_channels=(2, 4),
        num_layers=(1, 2),
        widening=(1, 2),
        basis_channels=(2, 3),
        degree=(1, 2),
        cutoff=(2.5, 4.0),
    )
    net = supernet(chosen, num_orientations=6)
    names = list(chosen)

    def loss(*weights):
        return net(**inputs(net), path=dict(zip(names, weights, strict=True))).scalars.square().sum()

    start = [torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True) for _ in names]
    assert torch.autograd.gradcheck(loss, start)


def test_gradients_of_a_path_are_those_of_the_network_in_its_corner():
    net = supernet()
    architecture = (0, 0, 1, 0, 1, 0, 0)
    net(**inputs(net), path=architecture).scalars.square().sum().backward()
    alone = net.extract(architecture)
    alone(**inputs(net)).scalars.square().sum().backward()
    corners = net.block(architecture)
    expected = {f"network.{name}": p.grad for name, p in alone.named_parameters()}
    for name, parameter in net.named_parameters():
        if name not in corners:
            assert parameter.grad is None
            continue
        torch.testing.assert_close(parameter.grad[corners[name]], expected[name])
        outside = parameter.grad.clone()
        outside[corners[name]] = 0
        assert not outside.any()


@pytest.mark.parametrize("kind", ["sliced", "mixed"])
@pytest.mark.parametrize("architecture", [(0, 0, 0, 0, 0, 0, 0), (1, 0, 1, 0, 1, 1, 1), (0, 1, 0, 1, 0, 1, 1)])
def test_paths_commute_with_the_rotations_of_their_grid(architecture, kind):
    net = supernet(out_vector_channels=1, pooling=None)
    path = architecture if kind == "sliced" else net.space.onehot(architecture, torch.float64)
    rotations = grid_symmetry(net.space.decode(architecture)["num_orientations"])[:8]
    assert_equivariant(partial(net, path=path), inputs(net), rotations=rotations)
    shuffled = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q[None]
    with pytest.raises(AssertionError, match="not equivariant"):
        assert_equivariant(partial(net, path=path), inputs(net), rotations=shuffled)


def test_a_mixture_between_options_is_equivariant_too():
    net = supernet(out_vector_channels=1, pooling=None)
    path = {name: torch.tensor([0.4, 0.6], dtype=torch.float64) for name in net.space}
    path["num_orientations"] = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert_equivariant(partial(net, path=path), inputs(net), rotations=grid_symmetry(12)[:8])


def test_features_of_the_blocks_are_shown():
    net = supernet()
    for architecture in some(net.space, 3):
        values = net.space.decode(architecture)
        output, taps = net.taps(**inputs(net), path=architecture)
        assert_same(output, net(**inputs(net), path=architecture), 0)
        assert len(taps) == values["num_layers"]
        shape = (7, values["num_orientations"], values["hidden_channels"])
        assert all(tap[name].shape == shape for tap in taps for name in "SFU")
        assert not torch.equal(taps[0]["S"], taps[0]["F"])
    assert not any("spatial" in vars(block.conv) for block in net.network.blocks)


def test_a_path_stays_active_inside_and_not_outside():
    net = supernet()
    small = net.space.smallest()
    largest = net(**inputs(net))
    with pytest.raises(RuntimeError, match="stop"), net.activate(small):
        assert_same(net(**inputs(net)), net(**inputs(net), path=small), 0)
        raise RuntimeError("stop")
    assert_same(net(**inputs(net)), largest, 0)


def test_weights_changed_in_place_are_seen_by_every_path():
    net = supernet().requires_grad_(False)
    path = (0, 0, 0, 0, 0, 1, 0)
    before = net(**inputs(net), path=path).scalars.clone()
    with torch.no_grad():
        net.network.basis.linear_2.weight[0, 0] += 0.5
    after = net(**inputs(net), path=path).scalars
    assert not torch.equal(before, after)
    assert_same((after,), (net.extract(path)(**inputs(net)).scalars,), 0)


def potential(chosen: SearchSpace | None = None, **fixed: object) -> Potential:
    net = PonitaSupernet(chosen or space(), in_channels=2, **fixed)
    return Potential(net, [1, 8], self_loops=False).double()


NUMBERS = torch.tensor([8, 1, 1, 8, 1, 1, 8])


def test_a_potential_of_a_supernet_is_extracted_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    model = potential()
    model.set_normalization(-3.0, 2.5)
    model.reference_energies.copy_(torch.tensor([[-13.0, -200.0]]))
    report = calibrate_supernet(model, {"pos": POS, "numbers": NUMBERS, "batch": BATCH})
    assert set(report) == {f"network.network.blocks.{i}.conv" for i in range(3)}
    for architecture in some(space(), 3):
        with model.network.activate(architecture):
            found = model.energy_forces(POS, NUMBERS, batch=BATCH)
        alone = extract_potential(model, architecture)
        assert_same(found, alone.energy_forces(POS, NUMBERS, batch=BATCH), 1e-12)
        save(alone, tmp_path / "alone.ckpt")
        loaded = load(tmp_path / "alone.ckpt")
        assert_same(loaded.energy_forces(POS, NUMBERS, batch=BATCH), found, 1e-12)
    with pytest.raises(ValueError, match="extract_potential"):
        save(model, tmp_path / "supernet.ckpt")


def test_forces_of_every_path_are_derivatives_of_its_energy():
    torch.manual_seed(0)
    model = potential()
    for architecture in some(space(), 2):
        with model.network.activate(architecture):
            forces = model.energy_forces(POS, NUMBERS, batch=BATCH).forces
            step = torch.zeros_like(POS)
            step[2, 1] = 1e-5
            ahead, behind = (model(POS + sign * step, NUMBERS, batch=BATCH).sum().detach() for sign in (1, -1))
        assert float(forces[2, 1]) == pytest.approx(float((behind - ahead) / 2e-5), abs=1e-7)


def test_calibration_rescales_the_largest_once_and_is_required():
    torch.manual_seed(0)
    model = potential()
    assert not bool(model.network.calibrated)
    calibrate_supernet(model, {"pos": POS, "numbers": NUMBERS, "batch": BATCH})
    assert bool(model.network.calibrated)
    kernel = model.network.network.blocks[0].conv.kernel.weight.clone()
    model(POS, NUMBERS, batch=BATCH)
    with model.network.activate(space().smallest()):
        model(POS, NUMBERS, batch=BATCH)
    assert torch.equal(kernel, model.network.network.blocks[0].conv.kernel.weight)
    restored = potential()
    restored.load_state_dict(model.state_dict())
    assert bool(restored.network.calibrated)


def test_shared_parameters_are_those_that_every_network_has():
    net = supernet()
    names = {id(p): name for name, p in net.named_parameters()}
    shared = {names[id(p)] for p in net.shared_parameters()}
    assert "network.blocks.0.linear_1.weight" in shared and "network.blocks.1.linear_1.weight" not in shared
    without = {names[id(p)] for p in net.shared_parameters("basis_channels")}
    assert shared - without == {
        *(f"network.{of}.linear_2.{part}" for of in ("basis", "fiber_basis") for part in ("weight", "bias")),
        "network.blocks.0.conv.kernel.weight",
        "network.blocks.0.conv.fiber_kernel.weight",
    }
    assert {names[id(p)] for p in net.shared_parameters("num_orientations")} == shared
    deep = {names[id(p)] for p in net.choice_parameters("num_layers", 1)}
    assert deep - {names[id(p)] for p in net.choice_parameters("num_layers", 0)} == {
        name for name in names.values() if ".1." in name or ".2." in name
    }


REFUSED = {
    "no nesting": (lambda: PonitaSupernet(SearchSpace(Choice("space", ("R3", "R3xS2"))), in_channels=1), "do not nest"),
    "fixed and chosen": (
        lambda: PonitaSupernet(space(), in_channels=1, degree=2),
        r"\['degree'\] are chosen and fixed",
    ),
    "last read-out": (
        lambda: PonitaSupernet(space(), in_channels=1, readouts="last"),
        "share read-outs only with 'all'",
    ),
    "outside": (lambda: supernet()(**inputs(supernet()), path=(9,) * 7), "is not in the space"),
    "orientations": (
        lambda: supernet()(**inputs(supernet()), path={n: torch.tensor([0.5, 0.5]).double() for n in OPTIONS}),
        r"num_orientations has weights \[0.5, 0.5\].*cannot be mixed",
    ),
    "too deep": (lambda: supernet().restrict(SearchSpace(Choice("degree", (1, 2)))), "expected those of the supernet"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_named(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        make()


def test_a_restricted_supernet_takes_no_other_paths():
    net = supernet()
    net.restrict(net.space.restrict(hidden_channels=[0]))
    with pytest.raises(ValueError, match="is not in the space"):
        net(**inputs(net), path=(1,) * 7)
    path = net.space.largest()
    assert_same(net(**inputs(net)), net.extract(path)(**inputs(net)), 0)
    calibrate_supernet(net, inputs(net))
    assert bool(net.calibrated) and net.path == path and (1,) * 7 not in net.space
