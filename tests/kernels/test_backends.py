"""Every backend against the reference, in value and in derivatives up to the third order."""

import pytest
import torch

from ponita.geometry import EdgeSet, fully_connected
from ponita.ops import autograd, backends, reference

SHAPES = [(1, 1), (1, 33), (2, 3), (12, 16), (20, 128)]
NODES, STRIDE = 42, 6


def backend(name):
    marks = [pytest.mark.scatter] if name == "scatter" else []
    return pytest.param(name, marks=marks)


@pytest.fixture(params=[backend("cpp"), backend("scatter")])
def name(request):
    if request.param in backends.unavailable():
        pytest.skip(backends.unavailable()[request.param])
    return request.param


def graphs():
    """Symmetric with loops, one-sided, without edges; the last node has none anywhere."""
    full = fully_connected(torch.zeros(5, dtype=torch.long), loops=True)
    sparse = full[:, torch.rand(full.shape[1], generator=torch.Generator().manual_seed(0)) < 0.6]
    return {"symmetric": full, "one-sided": sparse, "no edges": full[:, :0]}


def problem(kind, orientations, channels, dtype):
    """Endpoints of the pairs, and random arguments of all operators."""
    edges = EdgeSet.from_edge_index(graphs()[kind], 6)
    if orientations > 1 and orientations % 2:
        edges = edges.without_pairs()
    p = edges.num_pairs
    draw = lambda *shape: torch.randn(*shape, dtype=dtype)  # noqa: E731
    return {
        "x": draw(6, orientations, channels),
        "g": draw(6, orientations, channels),
        "kernel": draw(p, orientations, channels),
        "basis": draw(p, orientations, 4),
        "weight": draw(channels, 4),
        "weights": draw(p, orientations, 16),
        "table": draw(NODES, channels),
        "corner": torch.randint(0, NODES - 3 * STRIDE - 3, (p, orientations), dtype=torch.int32),
        "ends": (edges.graph, edges.num_two_way),
    }


def every_operator(module, given):
    """Results of all operators of a backend's module."""
    x, g, ends, corner = given["x"], given["g"], given["ends"], given["corner"]
    return {
        "pair_conv": module.pair_conv(x, given["kernel"], *ends),
        "pair_product": module.pair_product(x, g, *ends),
        "basis_conv": module.basis_conv(x, given["basis"], given["weight"], *ends),
        "basis_gradient": module.basis_gradient(x, g, given["weight"], *ends),
        "weight_gradient": module.weight_gradient(x, g, given["basis"], *ends),
        "spline_conv": module.spline_conv(x, given["weights"], given["table"], corner, STRIDE, *ends),
        "spline_weight_gradient": module.spline_weight_gradient(x, g, given["table"], corner, STRIDE, *ends),
        "spline_table_gradient": module.spline_table_gradient(x, g, given["weights"], corner, STRIDE, NODES, *ends),
    }


@pytest.mark.parametrize("kind", ["symmetric", "one-sided", "no edges"])
@pytest.mark.parametrize(("orientations", "channels"), [*SHAPES, (5, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_those_of_the_reference(name, kind, orientations, channels, dtype):
    given = problem(kind, orientations, channels, dtype)
    exact = {k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in given.items()}
    expected, ours = every_operator(reference, exact), every_operator(backends.implementation(name), given)
    for operator, value in ours.items():
        assert value.dtype == dtype and value.shape == expected[operator].shape, operator
        tolerance = 1e-5 if dtype == torch.float32 else 1e-13
        torch.testing.assert_close(
            value.double(),
            expected[operator],
            rtol=tolerance,
            atol=10 * tolerance,
            msg=lambda m, o=operator: f"{o}: {m}",
        )


def test_strided_arguments_are_read_right(name):
    given = problem("symmetric", 2, 3, torch.float64)
    expected = every_operator(reference, given)
    given["x"] = given["x"].transpose(0, 2).contiguous().transpose(0, 2)
    given["kernel"] = given["kernel"].flip(0).flip(0).transpose(1, 2).contiguous().transpose(1, 2)
    assert not given["x"].is_contiguous()
    for operator, value in every_operator(backends.implementation(name), given).items():
        torch.testing.assert_close(value, expected[operator], rtol=1e-13, atol=1e-13)


def test_the_number_of_threads_and_the_run_change_no_bit(name, monkeypatch):
    if name == "cpp":
        monkeypatch.setattr(backends.implementation("cpp"), "THREAD_GRAIN", 0)
    given = problem("symmetric", 12, 16, torch.float32)
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 1, 2, 3):
            torch.set_num_threads(number)
            results.append(every_operator(backends.implementation(name), given))
    finally:
        torch.set_num_threads(threads)
    if name == "cpp":  # the products with a weight matrix are torch's own
        for operator in ("pair_conv", "pair_product", "spline_conv", "spline_weight_gradient", "spline_table_gradient"):
            assert all(torch.equal(results[0][operator], other[operator]) for other in results[1:]), operator


def chain(given, name):
    """A function of all floating arguments through both families, to differentiate."""
    ends = (*given["ends"], name)

    def function(x, kernel, weights, table):
        y = autograd.pair_conv(x, kernel, *ends)
        return autograd.spline_conv(y, weights, table, given["corner"], STRIDE, *ends)

    return function


@pytest.mark.parametrize("kind", ["symmetric", "one-sided"])
@pytest.mark.parametrize(("orientations", "channels"), [(1, 3), (2, 3), (12, 5)])
def test_three_orders_of_derivatives_are_those_of_the_reference(name, kind, orientations, channels):
    given = problem(kind, orientations, channels, torch.float64)
    results = []
    for backend_name in ("torch", name):
        inputs = [given[k].clone().requires_grad_() for k in ("x", "kernel", "weights", "table")]
        value = chain(given, backend_name)(*inputs).sin().sum()
        first = torch.autograd.grad(value, inputs, create_graph=True)
        second = torch.autograd.grad(sum(d.square().sum() for d in first), inputs, create_graph=True)
        third = torch.autograd.grad(sum(d.square().sum() for d in second), inputs)
        results.append([d.detach() for d in (*first, *second, *third)])
    for expected, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


def test_spline_derivatives_are_numerical_derivatives():
    given = problem("symmetric", 2, 2, torch.float64)
    inputs = [given[k][: 8 if k == "table" else None].clone().requires_grad_() for k in ("x", "weights", "table")]
    corner, ends = torch.zeros_like(given["corner"]), (*given["ends"], "torch")
    inputs[2] = given["table"][:24].clone().requires_grad_()
    function = lambda x, w, t: autograd.spline_conv(x, w, t, corner, 6, *ends)  # noqa: E731
    assert torch.autograd.gradcheck(function, inputs) and torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize(("orientations", "channels"), [(1, 1), (5, 3), (12, 33), (20, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_orientation_kernels_are_those_of_the_reference(orientations, channels, dtype):
    if "cpp" in backends.unavailable():
        pytest.skip(backends.unavailable()["cpp"])
    compiled, tolerance = backends.implementation("cpp"), 1e-5 if dtype == torch.float32 else 1e-13
    x, g = torch.randn(2, 7, orientations, channels, dtype=dtype)
    kernel = torch.randn(orientations, orientations, channels, dtype=dtype).transpose(0, 1)
    for operator, inputs in (("orientation_conv", (x, kernel)), ("orientation_product", (x, g))):
        ours, expected = (getattr(module, operator)(*inputs) for module in (compiled, reference))
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=10 * tolerance)
    inputs = [t.double().requires_grad_() for t in (x, kernel)]
    derivatives = []
    for backend_name in ("torch", "cpp"):
        value = autograd.orientation_conv(*inputs, backend_name).sin().sum()
        first = torch.autograd.grad(value, inputs, create_graph=True)
        derivatives.append([*first, *torch.autograd.grad(sum(d.square().sum() for d in first), inputs)])
    for expected, ours in zip(*derivatives, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_half_precision_is_refused_by_the_compiled_kernels():
    if "cpp" in backends.unavailable():
        pytest.skip(backends.unavailable()["cpp"])
    given = problem("symmetric", 2, 3, torch.float16)
    with pytest.raises(ValueError, match=r"no torch\.float16; expected float32 or float64, or use backend='torch'"):
        backends.implementation("cpp").pair_product(given["x"], given["g"], *given["ends"])


def test_auto_prefers_the_compiled_kernels_and_says_why_not(monkeypatch):
    backends.resolve.cache_clear()
    if "cpp" not in backends.unavailable():
        assert backends.resolve("auto", "cpu") == "cpp"
    assert backends.resolve("auto", "meta") == "torch"
    monkeypatch.setattr(backends, "unavailable", lambda: {"cpp": "no compiler was there"})
    backends.resolve.cache_clear()
    with pytest.warns(UserWarning, match="backend='auto' is 'torch', the slower one: no compiler was there"):
        assert backends.resolve("auto", "cpu") == "torch"
    with pytest.raises(ValueError, match="backend='cpp' is not available: no compiler was there"):
        backends.resolve("cpp", "cpu")
    backends.resolve.cache_clear()


def test_a_backend_is_not_used_on_a_device_it_is_not_for():
    if "cpp" in backends.unavailable():
        pytest.skip(backends.unavailable()["cpp"])
    with pytest.raises(ValueError, match="backend='cpp' runs on cpu, the tensors are on cuda; use backend='auto'"):
        backends.resolve("cpp", "cuda")
    with pytest.raises(ValueError, match="backend='mps'; expected 'auto' or one of"):
        backends.check("mps")
