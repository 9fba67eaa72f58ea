"""The first and the second derivative of the stream family, each one operator: values, flags, costs, third order."""

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ponita.geometry import EdgeSet
from ponita.geometry.edges import transpose
from ponita.ops import autograd, backends, force_pass, reference, stream

SYMMETRIC = [[0, 1, 1, 2, 0, 2, 1, 3, 0], [1, 0, 2, 1, 2, 0, 1, 3, 0]]
ONE_SIDED = [[0, 1, 1, 2, 3], [1, 2, 2, 0, 3]]
GRAPHS = {"symmetric": SYMMETRIC, "one-sided": ONE_SIDED, "no edges": [[], []]}
COTANGENTS = [flags for flags in itertools.product([False, True], repeat=3) if any(flags)]


def problem(kind, orientations=4, channels=3, basis=2, dtype=torch.float64):
    """x, basis, weight, g; three cotangents; the graph. Node 4 is isolated."""
    edges = EdgeSet.from_edge_index(torch.tensor(GRAPHS[kind], dtype=torch.long).view(2, -1), 5)
    shapes = [(5, orientations, channels), (edges.num_pairs, orientations, basis), (channels, basis)]
    tensors = [torch.randn(shape, dtype=dtype) for shape in (*shapes, shapes[0])]
    return tensors, [torch.randn(shape, dtype=dtype) for shape in shapes], edges


def with_terms(flags):
    """The gradients in x, basis, weight and g that are not zero where cotangents of dx, dbasis, dweight are given."""
    x, basis, weight = flags
    return [basis or weight, x or weight, x or basis, True]


def eager_gradients(tensors, cotangents, edges):
    """What torch's own autograd makes of the pair convolution with the kernel basis weight^T, differentiated twice."""
    x, basis, weight, g = (t.clone().requires_grad_() for t in tensors)
    y = reference.pair_conv(x, basis @ weight.T, edges.graph, edges.num_two_way)
    first = torch.autograd.grad(y, (x, basis, weight), g, create_graph=True)
    along = sum((d * h).sum() for d, h in zip(first, cotangents, strict=True) if h is not None)
    return torch.autograd.grad(along, (x, basis, weight, g), allow_unused=True)


@pytest.mark.parametrize("backend", ["torch", "cpp", pytest.param("scatter", marks=pytest.mark.scatter)])
@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("orientations", [1, 4])
def test_the_second_derivative_is_that_of_eager_autograd_whichever_cotangents_are_zero(backend, kind, orientations):
    if backend in backends.unavailable():
        pytest.skip(backends.unavailable()[backend])
    tensors, cotangents, edges = problem(kind, orientations)
    for flags in COTANGENTS:
        given = [h if flag else None for h, flag in zip(cotangents, flags, strict=True)]
        ends = (with_terms(flags), edges.graph, edges.num_two_way, backend)
        ours = autograd.basis_conv_double_backward(*tensors, *given, *ends)
        for got, want, wanted in zip(ours, eager_gradients(tensors, given, edges), with_terms(flags), strict=True):
            if wanted:
                torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
            else:
                assert got.numel() == 0 and (want is None or not want.any())


def test_gradients_that_are_not_wanted_are_empty_and_change_no_other():
    tensors, cotangents, edges = problem("symmetric")
    ends = (edges.graph, edges.num_two_way, "torch")
    first = autograd.basis_conv_backward(*tensors, [True] * 3, *ends)
    second = autograd.basis_conv_double_backward(*tensors, *cotangents, [True] * 4, *ends)
    for place in range(4):
        wanted = [other == place for other in range(4)]
        alone = autograd.basis_conv_double_backward(*tensors, *cotangents, wanted, *ends)
        assert torch.equal(alone[place], second[place]) and sum(t.numel() for t in alone) == alone[place].numel()
        if place < 3:
            alone = autograd.basis_conv_backward(*tensors, wanted[:3], *ends)
            assert torch.equal(alone[place], first[place]) and sum(t.numel() for t in alone) == alone[place].numel()


def recorded(monkeypatch, name):
    """Let calls of an operator of the reference leave their arguments in the list returned."""
    calls, original = [], getattr(reference, name)

    def record(*arguments, **options):
        calls.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(reference, name, record)
    return calls


def test_a_force_loss_is_one_call_an_order_without_the_weights_in_the_first(monkeypatch):
    first, second = (recorded(monkeypatch, f"basis_conv_{name}") for name in ("backward", "double_backward"))
    (x, basis, weight, g), _, edges = problem("symmetric")
    inputs = [t.requires_grad_() for t in (x, basis, weight)]
    y = autograd.basis_conv(*inputs, edges.graph, edges.num_two_way, "torch")
    with force_pass():
        grad_x, grad_basis = torch.autograd.grad((y * g).sum(), (x, basis), create_graph=True)
    assert [call[4] for call in first] == [[True, True, False]]
    (grad_x.square().sum() + grad_basis.square().sum()).backward()
    ((*_, hx, hbasis, hweight, wanted, _, _),) = second
    assert hx is not None and hbasis is not None and hweight is None
    assert list(wanted) == [True, True, True, False]  # g needs none
    assert all(t.grad is not None for t in inputs)


def test_arguments_without_gradients_and_outputs_without_use_cost_nothing(monkeypatch):
    calls = recorded(monkeypatch, "basis_conv_double_backward")
    (x, basis, weight, g), _, edges = problem("symmetric")
    ends = (edges.graph, edges.num_two_way, "torch")
    g.requires_grad_(), basis.requires_grad_()
    y = autograd.basis_conv(x, basis, weight, *ends)
    (grad_basis,) = torch.autograd.grad(y, basis, g, create_graph=True)
    torch.autograd.grad(grad_basis.square().sum(), g)
    assert [list(call[7]) for call in calls] == [[False, False, False, True]]
    assert calls[0][4] is None and calls[0][6] is None


def test_nothing_is_computed_behind_a_gradient_that_is_zero(monkeypatch):
    calls = recorded(monkeypatch, "basis_conv_backward")
    (x, basis, weight, g), (_, other, _), edges = problem("symmetric")
    ends = (edges.graph, edges.num_two_way, "torch")
    x.requires_grad_(), g.requires_grad_()
    between = autograd.basis_conv(x, basis, weight, *ends)
    (grad,) = torch.autograd.grad(autograd.basis_conv(between, other, weight, *ends), between, g, create_graph=True)
    assert len(calls) == 1
    behind, _ = torch.autograd.grad(grad.square().sum(), (x, g), allow_unused=True)
    assert behind is None and len(calls) == 1  # dx of a convolution does not depend on its x


@pytest.mark.parametrize("kind", ["symmetric", "one-sided"])
def test_the_third_and_the_fourth_derivative_are_those_of_eager_autograd(kind):
    tensors, cotangents, edges = problem(kind)
    for flags in [(True, True, True), (True, True, False), (False, True, False)]:
        given = [h if flag else None for h, flag in zip(cotangents, flags, strict=True)]
        results = []
        for fused in (True, False):
            inputs = [t.clone().requires_grad_() for t in tensors]
            along = [None if h is None else h.clone().requires_grad_() for h in given]
            if fused:
                ends = (with_terms(flags), edges.graph, edges.num_two_way, "torch")
                second = stream.basis_conv_double_backward(*inputs, *along, *ends)
            else:
                second = composed(*inputs, *along, edges)
            value = sum(t.sin().sum() for t in second if t.numel())
            wanted = [*inputs, *(h for h in along if h is not None)]
            options = {"allow_unused": True, "materialize_grads": True}
            third = torch.autograd.grad(value, wanted, create_graph=True, **options)
            fourth = torch.autograd.grad(sum(t.square().sum() for t in third), wanted, **options)
            results.append([t.detach() for t in (*third, *fourth)])
        for got, want in zip(*results, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10 * float(want.abs().max()))


def composed(x, basis, weight, g, hx, hbasis, hweight, edges):
    """The second derivative term by term, of operations that torch differentiates."""
    ends, back = (edges.graph, edges.num_two_way), (transpose(edges.graph), edges.num_two_way)
    conv, q = reference.pair_conv, reference.pair_product
    zero = torch.zeros_like
    hx, hbasis, hweight = (zero(t) if h is None else h for t, h in ((x, hx), (basis, hbasis), (weight, hweight)))
    k1, k2 = basis @ weight.T, hbasis @ weight.T + basis @ hweight.T
    return (
        conv(g, k2, *back),
        q(hx, g, *ends) @ weight + q(x, g, *ends) @ hweight,
        torch.einsum("poc,pob->cb", q(hx, g, *ends), basis) + torch.einsum("poc,pob->cb", q(x, g, *ends), hbasis),
        conv(hx, k1, *ends) + conv(x, k2, *ends),
    )


@pytest.mark.parametrize("flags", [(True, True, True), (False, True, False)])
def test_the_fused_operators_are_registered_correctly(flags):
    tensors, cotangents, edges = problem("symmetric")
    inputs = [t.requires_grad_() for t in tensors]
    given = [h.requires_grad_() if flag else None for h, flag in zip(cotangents, flags, strict=True)]
    ends = (edges.graph, edges.num_two_way, "torch")
    torch.library.opcheck(autograd.basis_conv_backward, (*inputs, list(flags), *ends))
    torch.library.opcheck(autograd.basis_conv_double_backward, (*inputs, *given, with_terms(flags), *ends))


def test_a_compiled_force_loss_has_the_gradients_of_the_eager_one():
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        pytest.skip("this torch cannot trace torch.autograd.grad")
    (x, basis, weight, _), _, edges = problem("symmetric")
    graph, two_way, weight = edges.graph, edges.num_two_way, weight.requires_grad_()

    def loss(x):
        y = stream.basis_conv(x, basis * x.mean(), weight, graph, two_way, "torch")
        with force_pass():
            (force,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        return force.square().sum()

    results = []
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
            results.append(torch.autograd.grad(function(x.clone().requires_grad_()), weight)[0])
    torch._dynamo.reset()
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("flags", "wanted", "units"),
    [
        ((True, True, True), [True, True, True, True], 7),
        ((True, True, False), [True, True, True, True], 5),
        ((True, True, False), [False, True, True, False], 3),
        ((False, True, False), [True, False, True, True], 2),
    ],
)
def test_products_of_matrices_in_the_composition(flags, wanted, units):
    """In units of one product of [P * O, B] with [B, C]; single operators make 9, 6, 3 and 3."""
    tensors, cotangents, edges = problem("symmetric", channels=8, basis=16)
    given = [h if flag else None for h, flag in zip(cotangents, flags, strict=True)]
    with FlopCounterMode(display=False) as counter:
        reference.basis_conv_double_backward(*tensors, *given, wanted, edges.graph, edges.num_two_way)
    assert counter.get_total_flops() == units * 2 * edges.num_pairs * 4 * 8 * 16
