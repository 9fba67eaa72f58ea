import pytest
import torch
from support.graphs import random_graph, small_ponita
from torch import nn

from ponita.geometry import EdgeSet, bundle_invariants, fully_connected, orientation_invariants, safe_norm, sphere_grid
from ponita.nn import (
    ConvNeXtBlock,
    EdgeAttention,
    FiberBundleConv,
    KernelBasis,
    Lift,
    Monomials,
    PointCloudConv,
    PolynomialCutoff,
    Readout,
    calibrate,
    pool,
)
from ponita.ops import backends, gelu


def test_monomials_are_those_of_the_docstring():
    a, b = torch.tensor([2.0]), torch.tensor([3.0])
    expected = [a, b, a * a, a * b, b * b, a**3, a * a * b, a * b * b, b**3]
    assert torch.equal(Monomials(2, 3)(torch.stack([a, b], -1)), torch.stack(expected, -1))
    assert Monomials(2, 3).multiplicities().tolist() == [1, 1, 1, 2, 1, 1, 3, 3, 1]
    assert len(Monomials(1, 3)) == 3 and len(Monomials(3, 3)) == 19


@pytest.mark.parametrize(("num_inputs", "degree", "columns"), [(2, 3, 14), (1, 3, 3), (3, 3, 39), (2, 2, 6)])
def test_folding_tensor_powers_is_exact(num_inputs, degree, columns):
    inputs = torch.randn(7, num_inputs, dtype=torch.float64)
    power, powers = torch.ones(7, 1, dtype=torch.float64), []
    for _ in range(degree):
        power = torch.einsum("na,nb->nab", power, inputs).flatten(1)
        powers.append(power)
    redundant = torch.cat(powers, 1)
    assert redundant.shape[1] == columns
    weight = torch.randn(5, columns, dtype=torch.float64)
    monomials = Monomials(num_inputs, degree)
    torch.testing.assert_close(monomials(inputs) @ monomials.fold_tensor_powers(weight).T, redundant @ weight.T)


def test_first_layer_starts_with_the_variance_of_the_redundant_columns():
    weights = torch.stack([KernelBasis(2, 400, 4).linear_1.weight for _ in range(20)])
    variance = weights.square().mean((0, 1))
    torch.testing.assert_close(variance, Monomials(2, 3).multiplicities() / (3 * 14), rtol=0.1, atol=0)


def test_window_and_two_derivatives_vanish_at_the_cutoff():
    window = PolynomialCutoff(2.0)
    x = torch.tensor([0.0, 0.7, 2.0 - 1e-6, 2.0, 5.0, 1e6], dtype=torch.float64, requires_grad=True)
    w = window(x)
    first = torch.autograd.grad(w.sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), x)[0]
    u = 0.7 / 2
    torch.testing.assert_close(w[1], torch.tensor(1 - 28 * u**6 + 48 * u**7 - 21 * u**8, dtype=torch.float64))
    assert w[0] == 1 and (w[2:].abs() < 1e-9).all() and (w[3:] == 0).all()
    assert (first[2:].abs() < 1e-9).all() and (second[2:].abs() < 1e-3).all() and second.isfinite().all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_safe_norm_has_finite_derivatives_at_zero(smoothing):
    v = torch.tensor([[0.0, 0, 0], [3, 0, 4]], dtype=torch.float64, requires_grad=True)
    norm = safe_norm(v, smoothing)
    first = torch.autograd.grad(norm.sum(), v, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum() + first.sum(), v)[0]
    assert first.isfinite().all() and second.isfinite().all()
    torch.testing.assert_close(norm[1], torch.tensor((25 + smoothing**2) ** 0.5, dtype=torch.float64))
    assert norm[0] == smoothing


def test_bundle_invariants_are_the_parts_along_and_across():
    r, grid = torch.randn(6, 3, dtype=torch.float64), sphere_grid(6)
    along, across = bundle_invariants(r, grid).unbind(-1)
    torch.testing.assert_close(along, torch.einsum("ed,od->eo", r, grid))
    torch.testing.assert_close(across, torch.linalg.cross(r[:, None], grid[None].expand(6, -1, -1)).norm(dim=-1))
    opposite = bundle_invariants(-r, -grid)
    assert torch.equal(opposite, bundle_invariants(r, grid))


def test_convolutions_and_block_are_usable_alone():
    grid, inputs = sphere_grid(12).float(), random_graph((5,), dtype=torch.float32)
    edges = EdgeSet.from_edge_index(inputs["edge_index"], 5)
    r = inputs["pos"][edges.pair_index[0]] - inputs["pos"][edges.pair_index[1]]
    basis, fiber = KernelBasis(2, 16, 8), KernelBasis(1, 16, 8)
    x = torch.randn(5, 12, 4)
    bases = basis(bundle_invariants(r, grid)), fiber(orientation_invariants(grid))
    assert FiberBundleConv(4, 8)(x, *bases, edges).shape == x.shape
    assert PointCloudConv(4, 8)(x, bases[0], edges).shape == x.shape
    assert ConvNeXtBlock(FiberBundleConv(4, 8), 4, layer_scale=1e-6)(x, *bases, edges).sub(x).abs().max() < 1e-4


def test_lift_repeats_scalars_and_projects_vectors_and_readout_inverts_it():
    grid = sphere_grid(20)
    lift, readout = Lift(1, 1, 2).double(), Readout(2, 1, 1).double()
    nn.init.eye_(lift.embedding.weight)
    nn.init.eye_(readout.linear.weight)
    nn.init.zeros_(readout.linear.bias)
    x, vec = torch.randn(4, 1, dtype=torch.float64), torch.randn(4, 1, 3, dtype=torch.float64)
    features = lift(x, vec, grid)
    torch.testing.assert_close(features[:, :, 0], x.expand(-1, 20))
    torch.testing.assert_close(features[:, :, 1], vec[:, 0] @ grid.T)
    scalars, vectors = readout(features, grid)
    torch.testing.assert_close(scalars, x)
    torch.testing.assert_close(vectors, vec / 3, rtol=0, atol=1e-14)  # (1/O) sum_o (v.o) o = v/3


def test_pooling_gives_zero_to_graphs_without_points():
    values, batch = torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 2])
    assert pool(values, batch, 3, "sum").tolist() == [[4], [0], [5]]
    assert pool(values, batch, 3, "mean").tolist() == [[2], [0], [5]]


@pytest.mark.parametrize("space", ["R3xS2", "R3"])
def test_calibration_makes_every_convolution_keep_the_standard_deviation(space):
    vectors = 2 if space == "R3xS2" else 0
    model = small_ponita(space=space, in_vector_channels=vectors, out_vector_channels=vectors)
    for block in model.blocks:
        nn.init.zeros_(block.conv.bias)
    inputs = random_graph((5, 4), vectors=vectors)
    report = calibrate(model, inputs)
    assert set(report) == {"blocks.0.conv", "blocks.1.conv"} and all(
        len(r) == 1 + bool(vectors) for r in report.values()
    )
    ratios = []
    for block in model.blocks:
        block.conv.register_forward_hook(
            lambda _, inputs, output: ratios.append((output.std() / inputs[0].std()).item())
        )
    with torch.no_grad():
        model(**inputs)
    assert ratios == pytest.approx([1.0, 1.0], abs=1e-9)


def test_calibration_is_reproducible_and_leaves_no_hooks():
    inputs = random_graph((5, 4))
    states = []
    for _ in range(2):
        torch.manual_seed(1)
        model = small_ponita()
        calibrate(model, inputs)
        assert not any(m._forward_pre_hooks for m in model.modules())
        states.append(model.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_calibration_explains_what_it_cannot_do():
    with pytest.raises(ValueError, match="Linear holds no FiberBundleConv or PointCloudConv"):
        calibrate(nn.Linear(1, 1), {})
    single = random_graph((1,), loops=False)
    with pytest.raises(ValueError, match=r"standard deviations .* Calibrate on a batch with edges"):
        calibrate(small_ponita(), single)


def test_attention_weighs_the_edges_into_a_point_to_one_and_takes_no_pairs():
    edges = EdgeSet.from_edge_index(fully_connected(torch.zeros(4, dtype=torch.long)), 4)
    attention, x = EdgeAttention(6, 5).double(), torch.randn(4, 3, 6, dtype=torch.float64)
    weights = attention(x, edges).detach()
    total = torch.zeros(4, 3, dtype=torch.float64).index_add_(0, edges.edge_index[1], weights)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-12) and float(weights.std()) > 1e-3
    j, i = edges.edge_index[:, 0]
    logits = [(attention.key(x[s]) * attention.query(x[i])).sum(-1) / 5**0.5 for s in range(4) if s != i]
    expected = logits[int(j) - int(j > i)].exp() / torch.stack(logits).exp().sum(0)
    assert torch.allclose(weights[0], expected)
    conv = PointCloudConv(6, 4, attention_channels=5).double()
    with pytest.raises(ValueError, match="stored as pairs, but attention differs"):
        conv(torch.randn(4, 2, 6, dtype=torch.float64), torch.randn(6, 2, 4, dtype=torch.float64), edges)


def test_attention_weighs_spline_messages_like_others():
    options = {"attention_channels": 4, "cutoff": 3.0, "axis_smoothing": 0.1, "pooling": None}
    model, graph = small_ponita(**options), random_graph((5,))
    table = model.tabulate((96, 64), batch=graph)
    assert not model.stores_pairs and table.tabulation.forces < 1e-3
    plain = small_ponita(cutoff=3.0, pooling=None)
    plain.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        assert float((plain(**graph).scalars - model(**graph).scalars).abs().max()) > 1e-3


def test_kernels_depend_on_the_condition_of_their_graph_alone():
    graph, condition = random_graph((3, 4)), torch.tensor([[0.1], [0.7]], dtype=torch.float64)
    for options in (
        {},
        {"mode": "cloud"},
        {"separable": False},
        {"space": "R3", "in_vector_channels": 0, "out_vector_channels": 0},
    ):
        inputs = {k: v for k, v in graph.items() if k != "vec" or options.get("space") != "R3"}
        model = small_ponita(conditioning_channels=1, **options)
        first = model(**inputs, condition=condition).scalars
        second = model(**inputs, condition=condition + torch.tensor([[0.0], [0.5]], dtype=torch.float64)).scalars
        assert (
            torch.allclose(first[0], second[0], atol=1e-12)
            and float((first[1] - second[1]).abs().max().detach()) > 1e-4
        )
    with pytest.raises(ValueError, match="condition is missing, but the network has conditioning_channels=1"):
        model(**inputs)
    with pytest.raises(ValueError, match=r"condition has shape \[2, 2\]; expected \[G, 1\]"):
        model(**inputs, condition=condition.expand(2, 2))
    with pytest.raises(ValueError, match="condition is given, but the network has conditioning_channels=0"):
        small_ponita()(**graph, condition=condition)


@pytest.mark.parametrize("degree", [2, 3, 4, 5])
def test_every_derivative_of_gelu_is_that_of_torch(degree):
    x = torch.linspace(-9, 9, 37, dtype=torch.float64, requires_grad=True)
    for backend in ("torch", *(name for name in ("cpp",) if name in backends.available())):
        ours, theirs = gelu(x, backend), torch.nn.functional.gelu(x)
        for _ in range(degree):
            (ours,) = torch.autograd.grad(ours, x, torch.ones_like(x), create_graph=True)
            (theirs,) = torch.autograd.grad(theirs, x, torch.ones_like(x), create_graph=True)
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_gelu_derivatives_pass_through_both_arguments():
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(gelu, (x,))
    g = torch.randn(5, dtype=torch.float64, requires_grad=True)
    for order in (1, 2, 3, 4):
        for backend in backends.available():
            if backend in ("torch", "cpp"):
                torch.library.opcheck(torch.ops.ponita.gelu_gradient.default, (x, g, order, backend))
    single = torch.linspace(-100, 100, 4001, requires_grad=True)
    (slope,) = torch.autograd.grad(gelu(single), single, torch.ones(4001), create_graph=True)
    (curvature,) = torch.autograd.grad(slope, single, torch.ones(4001))
    squared = single.detach().double() ** 2
    exact = torch.exp(-0.5 * squared) / (2 * torch.pi) ** 0.5 * (2 - squared)
    assert float((curvature - exact).abs().max()) < 3e-7


@pytest.mark.parametrize("options", [{}, {"attention_channels": 4}, {"num_orientations": 5}])
def test_fused_kernels_are_the_same_network_and_keep_less(options):
    from ponita.tasks.bench.memory import saved_bytes

    graph = random_graph((6, 5))
    plain, fused = (small_ponita(kernel=kernel, **options) for kernel in ("mlp", "fused"))
    fused.load_state_dict(plain.state_dict())
    results = []
    for model in (plain, fused):
        pos = graph["pos"].clone().requires_grad_()
        out = model(**{**graph, "pos": pos})
        (forces,) = torch.autograd.grad(out.scalars.sum(), pos, create_graph=True)
        gradients = torch.autograd.grad(forces.square().sum(), list(model.parameters()), allow_unused=True)
        results.append([out.scalars, forces, *(g for g in gradients if g is not None)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    sizes = [saved_bytes(lambda m=m: m(**graph).scalars) for m in (plain, fused)]
    assert sizes[1] < sizes[0]
