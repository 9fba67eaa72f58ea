"""The stream family: `basis_conv` and its derivatives, the first and the second with an operator of their own.

`basis_conv` is dT/dg of the form T(g, x, basis, weight) of `ponita.ops.reference`. Its backward pass is one operator,
`basis_conv_backward`, and the backward pass of that is one again, `basis_conv_double_backward`: a force loss asks for
all gradients of the second derivative at once, and at once they share kernels and reads. From the third derivative on
all is composed of the partial derivatives of T, which close under differentiation.

Cotangents that are zero are None here, not tensors of zeros, and the terms they would multiply are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from ponita.geometry.edges import transpose
from ponita.ops import reference
from ponita.ops.backends import implementation
from ponita.ops.context import pad, save_inputs, saved
from ponita.ops.force_pass import in_force_pass

#: The arguments of T in order, then the terms of its derivative along (hx, hbasis, hweight), and of the derivative of
#: that along (cx, cbasis, cweight, cg): T with other arguments.
FORM = ("g", "x", "basis", "weight")
SECOND = tuple((*FORM[:i], f"h{name}", *FORM[i + 1 :]) for i, name in enumerate(FORM) if name != "g")
THIRD = tuple((*t[:i], f"c{name}", *t[i + 1 :]) for t in SECOND for i, name in enumerate(t) if name in FORM)


@custom_op("ponita::basis_conv", mutates_args=())
def basis_conv(x: Tensor, basis: Tensor, weight: Tensor, graph: Sequence[Tensor], two_way: int, backend: str) -> Tensor:
    """See `ponita.ops.reference.basis_conv`."""
    return implementation(backend).basis_conv(x, basis, weight, graph, two_way)


@custom_op("ponita::basis_gradient", mutates_args=())
def basis_gradient(x: Tensor, g: Tensor, weight: Tensor, graph: Sequence[Tensor], two_way: int, backend: str) -> Tensor:
    """See `ponita.ops.reference.basis_gradient`."""
    return implementation(backend).basis_gradient(x, g, weight, graph, two_way)


@custom_op("ponita::weight_gradient", mutates_args=())
def weight_gradient(x: Tensor, g: Tensor, basis: Tensor, graph: Sequence[Tensor], two_way: int, backend: str) -> Tensor:
    """See `ponita.ops.reference.weight_gradient`."""
    return implementation(backend).weight_gradient(x, g, basis, graph, two_way)


@custom_op("ponita::basis_conv_backward", mutates_args=())
def basis_conv_backward(
    x: Tensor,
    basis: Tensor,
    weight: Tensor,
    g: Tensor,
    wanted: Sequence[bool],
    graph: Sequence[Tensor],
    two_way: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `ponita.ops.reference.basis_conv_backward`."""
    return _fused("basis_conv_backward", backend)(x, basis, weight, g, wanted, graph, two_way)


@custom_op("ponita::basis_conv_double_backward", mutates_args=())
def basis_conv_double_backward(
    x: Tensor,
    basis: Tensor,
    weight: Tensor,
    g: Tensor,
    hx: Tensor | None,
    hbasis: Tensor | None,
    hweight: Tensor | None,
    wanted: Sequence[bool],
    graph: Sequence[Tensor],
    two_way: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `ponita.ops.reference.basis_conv_double_backward`."""
    fused = _fused("basis_conv_double_backward", backend)
    return fused(x, basis, weight, g, hx, hbasis, hweight, wanted, graph, two_way)


def _fused(name: str, backend: str) -> Callable[..., tuple[Tensor, ...]]:
    """A backend's own operator, or the reference's on its pair family where the backend has none."""
    module = implementation(backend)
    composed = partial(getattr(reference, name), conv=module.pair_conv, product=module.pair_product)
    return getattr(module, name, composed)


@basis_conv.register_fake
def _(x, *_):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@basis_gradient.register_fake
def _(x, g, weight, graph, *_):
    return x.new_empty(graph[0].shape[0], x.shape[1], weight.shape[1])


@weight_gradient.register_fake
def _(x, g, basis, *_):
    return x.new_empty(x.shape[2], basis.shape[2])


@basis_conv_backward.register_fake
def _(x, basis, weight, g, wanted, *_):
    return _empty_gradients((x, basis, weight), wanted)


@basis_conv_double_backward.register_fake
def _(x, basis, weight, g, hx, hbasis, hweight, wanted, *_):
    return _empty_gradients((x, basis, weight, g), wanted)


def _empty_gradients(tensors, wanted):
    return tuple(t.new_empty(t.shape if want else (0,)) for t, want in zip(tensors, wanted, strict=True))


def _setup(ctx, inputs, output):
    save_inputs(ctx, inputs, output)
    ctx.set_materialize_grads(False)


def _basis_conv_backward(ctx, grad):
    (x, basis, weight), graph, _ = saved(ctx)
    need_x, need_basis, need_weight, *_ = ctx.needs_input_grad
    wanted = [need_x, need_basis, need_weight and not in_force_pass()]
    if grad is None or not any(wanted):
        return pad(ctx)
    return pad(ctx, *_given(wanted, basis_conv_backward(x, basis, weight, grad, wanted, graph, *ctx.options)))


def _basis_conv_backward_backward(ctx, *cotangents):
    (x, basis, weight, g), graph, _ = saved(ctx)
    produced, *options = ctx.options
    hx, hbasis, hweight = _given(produced, cotangents)
    along_x, along_basis, along_weight = (h is not None for h in (hx, hbasis, hweight))
    need_x, need_basis, need_weight, need_g, *_ = ctx.needs_input_grad
    wanted = [
        need_x and (along_basis or along_weight),
        need_basis and (along_x or along_weight),
        need_weight and (along_x or along_basis) and not in_force_pass(),
        need_g and (along_x or along_basis or along_weight),
    ]
    if not any(wanted):
        return pad(ctx)
    given = (x, basis, weight, g, hx, hbasis, hweight)
    return pad(ctx, *_given(wanted, basis_conv_double_backward(*given, wanted, graph, *options)))


def _basis_conv_double_backward_backward(ctx, *cotangents):
    tensors, graph, _ = saved(ctx)
    produced, *options = ctx.options
    names = ("x", "basis", "weight", "g", "hx", "hbasis", "hweight")
    values = dict(zip(names, tensors, strict=True))
    values |= zip(("cx", "cbasis", "cweight", "cg"), _given(produced, cotangents), strict=True)
    needed = zip(names, ctx.needs_input_grad, strict=False)
    return pad(ctx, *(_gradient(name, values, graph, options) if need else None for name, need in needed))


def _given(flags, values):
    """The values where flagged, None elsewhere."""
    return [value if flag else None for flag, value in zip(flags, values, strict=True)]


def _gradient(name: str, values: Mapping[str, Tensor | None], graph: Sequence[Tensor], options: Any) -> Tensor | None:
    """Gradient of the sum of the `THIRD` terms in one of their arguments, None where all are zero."""
    total = None
    for term in THIRD:
        if name in term and all(values[other] is not None for other in term if other != name):
            part = _partial(term.index(name), *(values[other] for other in term), graph, options)
            total = part if total is None else total + part
    return total


def _partial(place, g, x, basis, weight, graph, options):
    """dT in its first (g), second (x), third (basis) or fourth (weight) argument."""
    if place == 0:
        return basis_conv(x, basis, weight, graph, *options)
    if place == 1:
        return basis_conv(g, basis, weight, transpose(graph), *options)
    if place == 2:
        return basis_gradient(x, g, weight, graph, *options)
    return weight_gradient(x, g, basis, graph, *options)


def _basis_gradient_backward(ctx, grad):
    (x, g, weight), graph, back = saved(ctx)
    if grad is None:
        return pad(ctx)
    need_x, need_g, need_weight, *_ = ctx.needs_input_grad
    grad_x = basis_conv(g, grad, weight, back, *ctx.options) if need_x else None
    grad_g = basis_conv(x, grad, weight, graph, *ctx.options) if need_g else None
    grad_weight = weight_gradient(x, g, grad, graph, *ctx.options) if need_weight else None
    return pad(ctx, grad_x, grad_g, grad_weight)


def _weight_gradient_backward(ctx, grad):
    (x, g, basis), graph, back = saved(ctx)
    if grad is None:
        return pad(ctx)
    need_x, need_g, need_basis, *_ = ctx.needs_input_grad
    grad_x = basis_conv(g, basis, grad, back, *ctx.options) if need_x else None
    grad_g = basis_conv(x, basis, grad, graph, *ctx.options) if need_g else None
    grad_basis = basis_gradient(x, g, grad, graph, *ctx.options) if need_basis else None
    return pad(ctx, grad_x, grad_g, grad_basis)


for _operator, _backward in (
    (basis_conv, _basis_conv_backward),
    (basis_gradient, _basis_gradient_backward),
    (weight_gradient, _weight_gradient_backward),
    (basis_conv_backward, _basis_conv_backward_backward),
    (basis_conv_double_backward, _basis_conv_double_backward_backward),
):
    _operator.register_autograd(_backward, setup_context=_setup)
