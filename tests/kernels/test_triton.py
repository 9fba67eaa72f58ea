"""The Triton kernels against the reference: on a CUDA device, or interpreted on the CPU, in a process of its own.

Without a device this process runs only the checks that need none, among them the compilation of every kernel for
sm_90, and starts another one with TRITON_INTERPRET=1 for the rest.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ponita import ops
from ponita.geometry import EdgeSet, fully_connected
from ponita.geometry.edges import incidence
from ponita.ops import autograd, backends, reference

triton = pytest.importorskip("triton")
GPUTarget = pytest.importorskip("triton.backends.compiler").GPUTarget

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda"
runs_kernels = pytest.mark.skipif(not INTERPRETED and DEVICE == "cpu", reason="the interpreter's own process runs it")
needs_no_device = pytest.mark.skipif(INTERPRETED, reason="not in the interpreter's process")
NODES, STRIDE = 25, 6


def edge_set(kind):
    """Three points with loops and an isolated fourth; without the last edges; none; or 40 points around one."""
    if kind == "star":
        return EdgeSet.from_edge_index(torch.stack([torch.arange(1, 41), torch.zeros(40, dtype=torch.long)]), 41)
    full = fully_connected(torch.zeros(3, dtype=torch.long), loops=True)
    kept = {"symmetric": 9, "one-sided": 5, "no edges": 0}[kind]
    return EdgeSet.from_edge_index(full[:, :kept], 4)


def problem(kind, orientations, channels, dtype, basis=5):
    """The edges, and random arguments of all operators. Three corners share all samples; the last node has none."""
    edges = edge_set(kind)
    if orientations > 1 and orientations % 2:
        edges = edges.without_pairs()
    p, n = edges.num_pairs, edges.num_nodes
    draw = lambda *shape: torch.randn(*shape, dtype=dtype, device=DEVICE)  # noqa: E731
    return {
        "x": draw(n, orientations, channels),
        "g": draw(n, orientations, channels),
        "kernel": draw(p, orientations, channels),
        "basis": draw(p, orientations, basis),
        "weight": draw(channels, basis),
        "weights": draw(p, orientations, 16),
        "table": draw(NODES, channels),
        "corner": torch.randint(0, 3, (p, orientations), dtype=torch.int32, device=DEVICE),
        "ends": (edges.to(DEVICE).graph, edges.num_two_way),
    }


def with_incidence(given):
    """The same problem with the graph that devices other than the CPU have."""
    (sender, receiver, *_), two_way = given["ends"]
    ends, n = (sender, receiver), given["x"].shape[0]
    full = (*ends, *incidence(ends, two_way, n), *incidence(ends[::-1], two_way, n))
    return given | {"ends": (full, two_way)}


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


def in_double(given):
    """The same numbers in float64."""
    return {k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in given.items()}


@runs_kernels
@pytest.mark.parametrize(
    ("kind", "orientations", "channels", "basis", "dtype"),
    [
        ("symmetric", 1, 3, 5, torch.float64),
        ("symmetric", 2, 1, 1, torch.float32),
        ("symmetric", 12, 33, 70, torch.float32),
        ("symmetric", 20, 128, 5, torch.float16),
        ("symmetric", 12, 3, 33, torch.float64),
        ("one-sided", 1, 33, 5, torch.float16),
        ("one-sided", 5, 3, 5, torch.float64),
        ("one-sided", 5, 128, 33, torch.float32),
        ("one-sided", 20, 1, 130, torch.float16),
        ("no edges", 12, 3, 5, torch.float32),
    ],
)
def test_values_are_those_of_the_reference(kind, orientations, channels, basis, dtype):
    given = problem(kind, orientations, channels, dtype, basis)
    expected = every_operator(reference, in_double(given))
    tolerance = {torch.float16: 2e-3, torch.float32: 2e-6, torch.float64: 1e-14}[dtype]
    for operator, value in every_operator(backends.implementation("triton"), given).items():
        exact = expected[operator]
        assert value.dtype == dtype and value.shape == exact.shape and value.is_contiguous(), operator
        scale = float(exact.abs().max()) if exact.numel() else 0.0
        error = float((value.double() - exact).abs().max()) if exact.numel() else 0.0
        assert error <= tolerance * scale, f"{operator}: {error} of {scale}"  # NaN, an unwritten element, fails too


@runs_kernels
@pytest.mark.parametrize("orientations", [1, 2, 5])
def test_more_edges_than_a_tile_holds(orientations):
    given = problem("star", orientations, 3, torch.float64)
    ours = backends.implementation("triton")
    for operator in ("pair_conv", "basis_conv", "spline_conv"):
        names = {"pair_conv": ("kernel",), "basis_conv": ("basis", "weight")}.get(
            operator, ("weights", "table", "corner")
        )
        options = (STRIDE,) * (operator == "spline_conv")
        arguments = (given["x"], *(given[k] for k in names), *options, *given["ends"])
        torch.testing.assert_close(getattr(ours, operator)(*arguments), getattr(reference, operator)(*arguments))


@runs_kernels
def test_weight_gradient_over_long_runs(monkeypatch):
    ours = backends.implementation("triton")
    monkeypatch.setattr(ours, "RUNS", 2)
    given = problem("symmetric", 12, 70, torch.float64, 130)
    arguments = (given["x"], given["g"], given["basis"], *given["ends"])
    torch.testing.assert_close(ours.weight_gradient(*arguments), reference.weight_gradient(*arguments))


@runs_kernels
def test_strides_the_form_of_the_graph_and_the_run_change_no_bit():
    given, ours = problem("symmetric", 2, 3, torch.float32), backends.implementation("triton")
    expected = every_operator(ours, given)
    strided = dict(given, x=given["x"].transpose(0, 2).contiguous().transpose(0, 2))
    assert not strided["x"].is_contiguous()
    for other in (given, strided, with_incidence(given)):
        for operator, value in every_operator(ours, other).items():
            assert torch.equal(value, expected[operator]), operator


def pair_family(given, ends):
    return ("x", "kernel"), lambda x, k: autograd.pair_conv(x, k, *ends)


def stream_family(given, ends):
    return ("x", "basis", "weight"), lambda x, b, w: autograd.basis_conv(x, b, w, *ends)


def spline_family(given, ends):
    return ("x", "weights", "table"), lambda x, w, t: autograd.spline_conv(x, w, t, given["corner"], STRIDE, *ends)


@runs_kernels
@pytest.mark.parametrize("kind", ["symmetric", "one-sided"])
@pytest.mark.parametrize(("family", "orders"), [(pair_family, 3), (stream_family, 3), (spline_family, 2)])
def test_derivatives_are_those_of_the_reference(family, orders, kind):
    given, results = with_incidence(problem(kind, 2, 3, torch.float64)), []
    for name in ("torch", "triton"):
        arguments, function = family(given, (*given["ends"], name))
        inputs = [given[k].clone().requires_grad_() for k in arguments]
        value, derivatives = function(*inputs).sin().sum(), []
        for _ in range(orders):
            derivatives += torch.autograd.grad(value, inputs, create_graph=True)
            value = sum(d.square().sum() for d in derivatives[-len(inputs) :])
        results.append([d.detach() for d in derivatives])
    for expected, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


@runs_kernels
def test_users_reach_the_kernels_by_name():
    given, edges = problem("symmetric", 2, 3, torch.float64), edge_set("symmetric").to(DEVICE)
    ours, expected = (ops.pair_conv(given["x"], given["kernel"], edges, backend=b) for b in ("triton", "torch"))
    torch.testing.assert_close(ours, expected)


def test_dtypes_without_kernels_are_refused():
    given = problem("symmetric", 2, 3, torch.bfloat16)
    message = r"no torch\.bfloat16; expected one of float16, float32, float64, or use backend='torch'"
    with pytest.raises(ValueError, match=message):
        every_operator(backends.implementation("triton"), given)


@needs_no_device
def test_compiled_kernels_are_not_run_on_the_cpu():
    given = in_double(problem("symmetric", 2, 3, torch.float32))
    given = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
    graph, two_way = edge_set("symmetric").graph, given["ends"][1]
    with pytest.raises(ValueError, match="run on cuda, the tensors are on cpu; move them, or use backend='torch'"):
        backends.implementation("triton").pair_product(given["x"], given["g"], graph, two_way)


@needs_no_device
def test_the_rule_of_auto_on_cuda(monkeypatch):
    backends.resolve.cache_clear()
    assert backends.resolve("auto", "cuda") == "triton"
    with pytest.raises(ValueError, match="backend='triton' runs on cuda, the tensors are on cpu; use backend='auto'"):
        backends.resolve("triton", "cpu")
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    monkeypatch.setattr(backends, "unavailable", backends.unavailable.__wrapped__)
    backends.resolve.cache_clear()
    with pytest.warns(UserWarning, match="backend='auto' is 'torch', the slower one: triton is not installed"):
        assert backends.resolve("auto", "cuda") == "torch"
    backends.resolve.cache_clear()


class NoDevice:
    """As much of a driver as compiling takes."""

    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)


@needs_no_device
@pytest.mark.skipif(DEVICE == "cuda", reason="the other tests launch the kernels")
def test_kernels_are_compiled_once_whatever_the_graph(monkeypatch, tmp_path):
    ours, kernels = backends.implementation("triton"), {}

    def compile_only(kernel, grid, arguments, settings):
        kernel.warmup(*arguments, grid=grid, **settings)
        kernels[kernel.__name__] = kernel
        return arguments[0]

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(ours, "_launch", compile_only)
    monkeypatch.setattr(triton.runtime.driver, "_active", NoDevice())
    for kind in ("symmetric", "one-sided", "star"):
        given = with_incidence(problem(kind, 2, 3, torch.float32))
        every_operator(ours, given)
        tensors = [given[name] for name in ("x", "basis", "weight", "g", "x", "basis", "weight")]
        ours.basis_conv_double_backward(*tensors, [True] * 4, *given["ends"])
    compiled = {name: sum(len(cache[0]) for cache in kernel.device_caches.values()) for name, kernel in kernels.items()}
    # dx and dg are made at once on two-way pairs, else by two sets of terms
    assert compiled.pop("second_conv") == 3 and len(compiled) == 11 and set(compiled.values()) == {1}, compiled


def run(*arguments, **environment):
    """Run a Python module in a process of its own, the environment as here but for what is given."""
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=root, env=kept | environment, capture_output=True, text=True)


@needs_no_device
def test_interpreted_kernels():
    files = sorted(str(path) for path in Path(__file__).parent.glob("test_triton*.py"))
    done = run("pytest", "-q", "-p", "no:cacheprovider", *files, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 34, done.stdout


@needs_no_device
def test_every_kernel_compiles_for_sm_90_without_spills(tmp_path):
    done = run("ponita.csrc.triton.offline", TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n") == 1 + 3 * 14 and "too much" not in done.stdout
