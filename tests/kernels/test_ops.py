"""Operators against their meaning written with loops over edges, and their derivatives of first and second order."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from ponita.geometry import EdgeSet
from ponita.ops import autograd, basis_conv, orientation_conv, pair_conv, segment_sum

SYMMETRIC = [[0, 1, 1, 2, 0, 2, 1, 3, 0], [1, 0, 2, 1, 2, 0, 1, 3, 0]]
ONE_SIDED = [[0, 1, 1, 2, 3], [1, 2, 2, 0, 3]]
GRAPHS = {"symmetric": SYMMETRIC, "one-sided": ONE_SIDED, "no edges": [[], []]}


def make_edges(kind: str) -> EdgeSet:
    return EdgeSet.from_edge_index(torch.tensor(GRAPHS[kind], dtype=torch.long).view(2, -1), 5)  # node 4 is isolated


def random_inputs(edges, orientations=4, channels=3, basis=2, dtype=torch.float64):
    x = torch.randn(edges.num_nodes, orientations, channels, dtype=dtype)
    phi = torch.randn(edges.num_pairs, orientations, basis, dtype=dtype)
    weight = torch.randn(channels, basis, dtype=dtype)
    return x, phi, weight


def loop_over_edges(x, kernel, edges):
    """The definition in design terms: y[i,o] = sum over e: j->i of kernel[pair(e), flip_e(o)] * x[j,o]."""
    out = torch.zeros_like(x)
    num_orientations = x.shape[1]
    for e in range(edges.num_edges):
        j, i = edges.edge_index[:, e].tolist()
        for o in range(num_orientations):
            read = (o + num_orientations // 2) % num_orientations if edges.flip[e] else o
            out[i, o] = out[i, o] + kernel[edges.pair[e], read] * x[j, o]
    return out


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("orientations", [1, 4])
def test_pair_conv_is_the_sum_over_edges(kind, orientations):
    edges = make_edges(kind)
    x, phi, weight = random_inputs(edges, orientations)
    expected = loop_over_edges(x, phi @ weight.T, edges)
    torch.testing.assert_close(pair_conv(x, phi @ weight.T, edges), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(basis_conv(x, phi, weight, edges), expected, rtol=0, atol=1e-14)


def test_odd_grids_work_on_one_sided_graphs():
    edges = make_edges("one-sided")
    x, phi, weight = random_inputs(edges, orientations=3)
    torch.testing.assert_close(pair_conv(x, phi @ weight.T, edges), loop_over_edges(x, phi @ weight.T, edges))


def test_orientation_conv_is_the_mean_over_orientations():
    x, kernel = torch.randn(5, 4, 3, dtype=torch.float64), torch.randn(4, 4, 3, dtype=torch.float64)
    expected = torch.zeros_like(x)
    for o in range(4):
        for p in range(4):
            expected[:, p] += kernel[o, p] * x[:, o] / 4
    torch.testing.assert_close(orientation_conv(x, kernel), expected, rtol=0, atol=1e-14)


def test_segment_sum_leaves_empty_segments_zero():
    values = torch.arange(6.0).view(3, 2)
    assert segment_sum(values, torch.tensor([2, 0, 2]), 4).tolist() == [[2, 3], [0, 0], [4, 6], [0, 0]]


@pytest.mark.parametrize("kind", ["symmetric", "one-sided"])
def test_first_and_second_derivatives_are_numerical_derivatives(kind):
    edges = make_edges(kind)
    x, phi, weight = (t.requires_grad_() for t in random_inputs(edges, orientations=2, channels=2))
    kernel = torch.randn(edges.num_pairs, 2, 2, dtype=torch.float64, requires_grad=True)
    fiber = torch.randn(2, 2, 2, dtype=torch.float64, requires_grad=True)
    for function, inputs in [
        (lambda x, k: pair_conv(x, k, edges), (x, kernel)),
        (lambda x, b, w: basis_conv(x, b, w, edges), (x, phi, weight)),
        (orientation_conv, (x, fiber)),
    ]:
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("name", ["pair_product", "basis_gradient", "weight_gradient"])
def test_gradient_operators_have_both_derivatives_themselves(name):
    edges = make_edges("symmetric")
    x, phi, weight = random_inputs(edges, orientations=2, channels=2)
    third = {"pair_product": (), "basis_gradient": (weight,), "weight_gradient": (phi,)}[name]
    inputs = [t.requires_grad_() for t in (x, torch.randn_like(x), *third)]
    operator = getattr(autograd, name)
    function = lambda *tensors: operator(*tensors, edges.graph, edges.num_two_way, "torch")  # noqa: E731
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def eager_pair_conv(x, kernel, edges):
    """Gather, multiply, scatter with torch's own autograd: a kernel row for every edge."""
    flipped = torch.where(edges.flip[:, None, None], kernel.roll(x.shape[1] // 2, 1)[edges.pair], kernel[edges.pair])
    return torch.zeros_like(x).index_add(0, edges.edge_index[1], flipped * x[edges.edge_index[0]])


def derivatives_up_to_third_order(conv, x, phi, weight, fiber):
    """All gradients of |d(sum sin(conv))/d(x, phi, weight, fiber)|^2, and of the square of those."""
    inputs = [t.detach().clone().requires_grad_() for t in (x, phi, weight, fiber)]
    energy = conv(*inputs).sin().sum()
    first = torch.autograd.grad(energy, inputs, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs, create_graph=True)
    third = torch.autograd.grad(sum(g.square().sum() for g in second), inputs)
    return [g.detach() for g in (*first, *second, *third)]


@pytest.mark.parametrize("kind", ["symmetric", "one-sided"])
@pytest.mark.parametrize("orientations", [1, 2, 12])
def test_three_orders_of_derivatives_agree_with_eager_autograd(kind, orientations):
    edges = make_edges(kind)
    inputs = (*random_inputs(edges, orientations), torch.randn(orientations, orientations, 3, dtype=torch.float64))

    def eager(x, b, w, f):
        return torch.einsum("noc,opc->npc", eager_pair_conv(x, b @ w.T, edges), f) / x.shape[1]

    expected = derivatives_up_to_third_order(eager, *inputs)
    for ours in (
        lambda x, b, w, f: orientation_conv(pair_conv(x, b @ w.T, edges), f),
        lambda x, b, w, f: orientation_conv(basis_conv(x, b, w, edges), f),
    ):
        for got, want in zip(derivatives_up_to_third_order(ours, *inputs), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10 * float(want.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operators_are_registered_correctly(dtype):
    edges = make_edges("symmetric")
    x, phi, weight = (t.requires_grad_() for t in random_inputs(edges, dtype=dtype))
    g, fiber = torch.randn_like(x).requires_grad_(), torch.randn(4, 4, 3, dtype=dtype, requires_grad=True)
    kernel = torch.randn(edges.num_pairs, 4, 3, dtype=dtype, requires_grad=True)
    rest = (edges.graph, edges.num_two_way, "torch")
    torch.library.opcheck(autograd.pair_conv, (x, kernel, *rest))
    torch.library.opcheck(autograd.pair_product, (x, g, *rest))
    torch.library.opcheck(autograd.basis_conv, (x, phi, weight, *rest))
    torch.library.opcheck(autograd.basis_gradient, (x, g, weight, *rest))
    torch.library.opcheck(autograd.weight_gradient, (x, g, phi, *rest))
    corner = torch.zeros(edges.num_pairs, 4, dtype=torch.int32)
    taps, table = torch.randn(edges.num_pairs, 4, 16, dtype=dtype, requires_grad=True), torch.randn(24, 3, dtype=dtype)
    table.requires_grad_()
    torch.library.opcheck(autograd.spline_conv, (x, taps, table, corner, 6, *rest))
    torch.library.opcheck(autograd.spline_weight_gradient, (x, g, table, corner, 6, *rest))
    torch.library.opcheck(autograd.spline_table_gradient, (x, g, taps, corner, 6, 24, *rest))
    torch.library.opcheck(autograd.orientation_conv, (x, fiber, "torch"))
    torch.library.opcheck(autograd.orientation_product, (x, g, "torch"))


def test_two_runs_are_bitwise_equal():
    edges = make_edges("symmetric")
    x, phi, weight = random_inputs(edges, dtype=torch.float32)
    assert torch.equal(basis_conv(x, phi, weight, edges), basis_conv(x, phi, weight, edges))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.randn(5, 4)}, r"x has shape \[5, 4\]; expected \[N, O, C\]"),
        ({"x": torch.randn(4, 4, 3)}, "with N = 5 points"),
        ({"kernel": torch.randn(9, 4, 3)}, r"kernel has shape \[9, 4, 3\]; expected \[P, O, C\] = \[6, 4, 3\]"),
        ({"kernel": torch.randn(6, 4, 3, dtype=torch.float64)}, "dtypes differ: x torch.float32, kernel torch.float64"),
        (
            {"x": torch.randn(5, 3, 3), "kernel": torch.randn(6, 3, 3)},
            "3 orientations, but the edges are stored as pairs",
        ),
        ({"backend": "cuda"}, "backend='cuda'; expected 'auto' or one of"),
    ],
)
def test_bad_arguments_are_explained(change, message):
    arguments = {"x": torch.randn(5, 4, 3), "kernel": torch.randn(6, 4, 3), "edges": make_edges("symmetric")} | change
    with pytest.raises(ValueError, match=message):
        pair_conv(**arguments)
