"""The fused second derivative in Triton against the reference; `test_triton.py` runs this file in the interpreter."""

import itertools
import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ponita.geometry import EdgeSet, fully_connected
from ponita.geometry.edges import incidence
from ponita.ops import autograd, backends, reference

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda"
pytestmark = pytest.mark.skipif(not INTERPRETED and DEVICE == "cpu", reason="the interpreter's own process runs it")
COTANGENTS = [flags for flags in itertools.product([True, False], repeat=3) if any(flags)]


def graph_of(kind):
    """Senders, receivers, two-way pairs and nodes. "mixed", with pairs of one edge and of two, is no `EdgeSet`'s."""
    if kind == "mixed":
        return torch.tensor([0, 1, 2, 3, 1, 2]), torch.tensor([1, 2, 0, 1, 1, 3]), 3, 5
    if kind == "hub":  # to and from all others, more edges than a tile has rows, and a loop
        hub, others = torch.zeros(20, dtype=torch.long), torch.arange(1, 21)
        index = torch.stack([torch.cat([hub, others, hub[:1]]), torch.cat([others, hub, hub[:1]])])
        edges = EdgeSet.from_edge_index(index, 21)
    else:
        full = fully_connected(torch.zeros(3, dtype=torch.long), loops=True)
        edges = EdgeSet.from_edge_index(full[:, : {"symmetric": 9, "one-sided": 5, "no edges": 0}[kind]], 4)
    return *edges.pair_index, edges.num_two_way, edges.num_nodes


def problem(kind, orientations, channels, basis, dtype):
    """x, basis, weight, g; three cotangents; the graph's tensors and its number of two-way pairs."""
    sender, receiver, two_way, n = graph_of(kind)
    shapes = [(n, orientations, channels), (sender.shape[0], orientations, basis), (channels, basis)]
    tensors = [torch.randn(shape, dtype=dtype, device=DEVICE) for shape in (*shapes, shapes[0])]
    cotangents = [torch.randn(shape, dtype=dtype, device=DEVICE) for shape in shapes]
    ends = sender.to(DEVICE), receiver.to(DEVICE)
    lists = (*incidence(ends, two_way, n), *incidence(ends[::-1], two_way, n))
    return tensors, cotangents, ((*ends, *lists), two_way)


def second(module, tensors, cotangents, ends, flags=(True, True, True), wanted=(True,) * 4):
    """The gradients wanted of those that are not zero, with the cotangents flagged."""
    x, basis, weight = flags
    has_term = (basis or weight, x or weight, x or basis, True)
    wanted = [want and term for want, term in zip(wanted, has_term, strict=True)]
    given = [h if flag else None for h, flag in zip(cotangents, flags, strict=True)]
    return module.basis_conv_double_backward(*tensors, *given, wanted, *ends)


def assert_close(ours, expected, dtype):
    tolerance = {torch.float16: 3e-3, torch.float32: 2e-6, torch.float64: 1e-14}[dtype]
    for got, want in zip(ours, expected, strict=True):
        assert got.dtype == dtype and got.shape == want.shape and got.is_contiguous()
        if got.numel():
            assert float((got.double() - want).abs().max()) <= tolerance * float(want.abs().max())  # NaN fails too


@pytest.mark.parametrize(
    ("kind", "orientations", "channels", "basis", "dtype", "flags"),
    [
        ("symmetric", 1, 3, 5, torch.float64, (True, True, True)),
        ("symmetric", 12, 33, 70, torch.float32, (True, True, True)),
        ("symmetric", 20, 128, 5, torch.float16, (True, True, False)),
        ("symmetric", 2, 128, 5, torch.float32, (True, True, True)),
        ("hub", 2, 3, 5, torch.float64, (True, True, False)),
        ("one-sided", 1, 1, 130, torch.float32, (True, True, True)),
        ("one-sided", 5, 128, 5, torch.float32, (True, True, False)),
        ("no edges", 12, 3, 5, torch.float64, (True, True, True)),
    ],
)
def test_values_are_those_of_the_reference(kind, orientations, channels, basis, dtype, flags):
    tensors, cotangents, ends = problem(kind, orientations, channels, basis, dtype)
    exact = [t.double() for t in tensors], [t.double() for t in cotangents], ends
    ours = backends.implementation("triton")
    first = ours.basis_conv_backward(*tensors, [True] * 3, *ends)
    assert_close(first, reference.basis_conv_backward(*exact[0], [True] * 3, *ends), dtype)
    assert_close(second(ours, tensors, cotangents, ends, flags), second(reference, *exact, flags), dtype)


@pytest.mark.parametrize("kind", ["mixed", "one-sided"])
def test_any_cotangent_may_be_zero_and_any_gradient_unwanted(kind):
    given, ours = problem(kind, 2, 3, 5, torch.float64), backends.implementation("triton")
    for flags in COTANGENTS:
        for wanted in [(True,) * 4, (flags[0], False, False, not flags[0])]:
            results = (second(module, *given, flags, wanted) for module in (ours, reference))
            assert_close(*results, torch.float64)


def test_strides_the_form_of_the_graph_and_the_run_change_no_bit():
    tensors, cotangents, ends = problem("symmetric", 2, 33, 5, torch.float32)
    ours = backends.implementation("triton")
    expected = second(ours, tensors, cotangents, ends)
    strided = [h.transpose(0, 1).contiguous().transpose(0, 1) for h in cotangents]
    without_lists = ends[0][:2], ends[1]
    for other in ((cotangents, ends), (strided, ends), *[(cotangents, without_lists)] * (DEVICE == "cpu")):
        assert all(map(torch.equal, second(ours, tensors, *other), expected))


def test_three_orders_are_those_of_eager_autograd():
    (x, basis, weight, _), _, ends = problem("mixed", 2, 3, 2, torch.float64)
    results = []
    for function in (
        lambda x, b, w: autograd.basis_conv(x, b, w, *ends, "triton"),
        lambda x, b, w: reference.pair_conv(x, b @ w.T, *ends),
    ):
        inputs = [t.clone().requires_grad_() for t in (x, basis, weight)]
        value, derivatives = function(*inputs).sin().sum(), []
        for _ in range(3):
            derivatives += torch.autograd.grad(value, inputs, create_graph=True)
            value = sum(d.square().sum() for d in derivatives[-3:])
        results.append([d.detach() for d in derivatives])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


class Largest(TorchDispatchMode):
    """The number of elements of the largest floating tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.elements = max(self.elements, tensor.numel())
        return result


def regular(degree, orientations, channels, basis):
    """A complete graph without loops in float64, every point of which has `degree` neighbours."""
    points = torch.zeros(degree + 1, dtype=torch.long)
    edges = EdgeSet.from_edge_index(fully_connected(points), degree + 1)
    shapes = [(degree + 1, orientations, channels), (edges.num_pairs, orientations, basis), (channels, basis)]
    tensors, cotangents = (
        [torch.randn(shape, dtype=torch.float64, device=DEVICE) for shape in some]
        for some in ((*shapes, shapes[0]), shapes)
    )
    return tensors, cotangents, (edges.to(DEVICE).graph, edges.num_two_way)


def test_no_kernel_of_the_pairs_is_stored(monkeypatch):
    ours = backends.implementation("triton")
    monkeypatch.setattr(ours, "RUNS", 2)
    tensors, cotangents, ends = regular(8, 4, 64, 5)
    with Largest() as made:
        ours.basis_conv(*tensors[:3], *ends)
        ours.basis_conv_backward(*tensors, [True] * 3, *ends)
        second(ours, tensors, cotangents, ends)
    pairs = tensors[1].shape[0]
    assert pairs * 4 * 5 <= made.elements < pairs * 4 * 64


@pytest.mark.skipif(not INTERPRETED, reason="counted by the interpreter")
def test_products_of_matrices_in_the_kernels(monkeypatch):
    """Seven times 2 P O B C for a force loss, at sizes that fill the tiles; operator by operator it would be nine."""
    from triton.runtime.interpreter import InterpreterBuilder

    original, count = InterpreterBuilder.create_dot, []

    def counted(self, a, b, *rest):
        count.append(2 * a.data.size * b.data.shape[-1])
        return original(self, a, b, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", counted)
    tensors, cotangents, ends = regular(8, 16, 16, 16)
    second(backends.implementation("triton"), tensors, cotangents, ends, (True, True, False))
    assert sum(count) == 7 * 2 * tensors[1].numel() * 16
