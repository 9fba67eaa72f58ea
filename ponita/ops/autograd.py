"""Registration of the operators with torch. Every derivative is again an operator of the same family.

The names carry the forms of `ponita.ops.reference`. Exchanging sender and receiver transposes a convolution, so one
operator serves a convolution and its transpose, and the families close at any order of differentiation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import custom_op

from ponita.ops.backends import implementation
from ponita.ops.context import pad, save_inputs, saved
from ponita.ops.force_pass import in_force_pass
from ponita.ops.stream import (  # noqa: F401  (all registered operators can be had here)
    basis_conv,
    basis_conv_backward,
    basis_conv_double_backward,
    basis_gradient,
    weight_gradient,
)


@custom_op("ponita::pair_conv", mutates_args=())
def pair_conv(x: Tensor, kernel: Tensor, graph: Sequence[Tensor], two_way: int, backend: str) -> Tensor:
    """See `ponita.ops.reference.pair_conv`."""
    return implementation(backend).pair_conv(x, kernel, graph, two_way)


@custom_op("ponita::pair_product", mutates_args=())
def pair_product(x: Tensor, g: Tensor, graph: Sequence[Tensor], two_way: int, backend: str) -> Tensor:
    """See `ponita.ops.reference.pair_product`."""
    return implementation(backend).pair_product(x, g, graph, two_way)


@custom_op("ponita::spline_conv", mutates_args=())
def spline_conv(
    x: Tensor,
    weights: Tensor,
    table: Tensor,
    corner: Tensor,
    stride: int,
    graph: Sequence[Tensor],
    two_way: int,
    backend: str,
) -> Tensor:
    """See `ponita.ops.reference.spline_conv`."""
    return implementation(backend).spline_conv(x, weights, table, corner, stride, graph, two_way)


@custom_op("ponita::spline_weight_gradient", mutates_args=())
def spline_weight_gradient(
    x: Tensor,
    g: Tensor,
    table: Tensor,
    corner: Tensor,
    stride: int,
    graph: Sequence[Tensor],
    two_way: int,
    backend: str,
) -> Tensor:
    """See `ponita.ops.reference.spline_weight_gradient`."""
    return implementation(backend).spline_weight_gradient(x, g, table, corner, stride, graph, two_way)


@custom_op("ponita::spline_table_gradient", mutates_args=())
def spline_table_gradient(
    x: Tensor,
    g: Tensor,
    weights: Tensor,
    corner: Tensor,
    stride: int,
    num_nodes: int,
    graph: Sequence[Tensor],
    two_way: int,
    backend: str,
) -> Tensor:
    """See `ponita.ops.reference.spline_table_gradient`."""
    return implementation(backend).spline_table_gradient(x, g, weights, corner, stride, num_nodes, graph, two_way)


@custom_op("ponita::orientation_conv", mutates_args=())
def orientation_conv(x: Tensor, kernel: Tensor, backend: str) -> Tensor:
    """See `ponita.ops.reference.orientation_conv`."""
    return implementation(backend).orientation_conv(x, kernel)


@custom_op("ponita::orientation_product", mutates_args=())
def orientation_product(x: Tensor, g: Tensor, backend: str) -> Tensor:
    """See `ponita.ops.reference.orientation_product`."""
    return implementation(backend).orientation_product(x, g)


@pair_conv.register_fake
@spline_conv.register_fake
@orientation_conv.register_fake
def _(x, *_):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@pair_product.register_fake
def _(x, g, graph, *_):
    return x.new_empty(graph[0].shape[0], *x.shape[1:])


@spline_weight_gradient.register_fake
def _(x, g, table, corner, *_):
    return x.new_empty(*corner.shape, 16)


@spline_table_gradient.register_fake
def _(x, g, weights, corner, stride, num_nodes, *_):
    return x.new_empty(num_nodes, x.shape[2])


@orientation_product.register_fake
def _(x, g, *_):
    return x.new_empty(x.shape[1], x.shape[1], x.shape[2])


def _pair_conv_backward(ctx, grad):
    (x, kernel), graph, back = saved(ctx)
    need_x, need_kernel, *_ = ctx.needs_input_grad
    grad_x = pair_conv(grad, kernel, back, *ctx.options) if need_x else None
    grad_kernel = pair_product(x, grad, graph, *ctx.options) if need_kernel else None
    return pad(ctx, grad_x, grad_kernel)


def _pair_product_backward(ctx, grad):
    (x, g), graph, back = saved(ctx)
    need_x, need_g, *_ = ctx.needs_input_grad
    grad_x = pair_conv(g, grad, back, *ctx.options) if need_x else None
    grad_g = pair_conv(x, grad, graph, *ctx.options) if need_g else None
    return pad(ctx, grad_x, grad_g)


def _spline_conv_backward(ctx, grad):
    (x, weights, table, corner), graph, back = saved(ctx)
    stride, *rest = ctx.options
    need_x, need_weights, need_table, *_ = ctx.needs_input_grad
    need_table = need_table and not in_force_pass()
    ends, turned = (corner, stride, graph, *rest), (corner, stride, back, *rest)
    grad_x = spline_conv(grad, weights, table, *turned) if need_x else None
    grad_weights = spline_weight_gradient(x, grad, table, *ends) if need_weights else None
    grad_table = _table_gradient(x, grad, weights, table.shape[0], *ends) if need_table else None
    return pad(ctx, grad_x, grad_weights, grad_table)


def _spline_weight_gradient_backward(ctx, grad):
    (x, g, table, corner), graph, back = saved(ctx)
    stride, *rest = ctx.options
    need_x, need_g, need_table, *_ = ctx.needs_input_grad
    ends, turned = (corner, stride, graph, *rest), (corner, stride, back, *rest)
    grad_x = spline_conv(g, grad, table, *turned) if need_x else None
    grad_g = spline_conv(x, grad, table, *ends) if need_g else None
    grad_table = _table_gradient(x, g, grad, table.shape[0], *ends) if need_table else None
    return pad(ctx, grad_x, grad_g, grad_table)


def _spline_table_gradient_backward(ctx, grad):
    (x, g, weights, corner), graph, back = saved(ctx)
    stride, _, *rest = ctx.options
    need_x, need_g, need_weights, *_ = ctx.needs_input_grad
    ends, turned = (corner, stride, graph, *rest), (corner, stride, back, *rest)
    grad_x = spline_conv(g, weights, grad, *turned) if need_x else None
    grad_g = spline_conv(x, weights, grad, *ends) if need_g else None
    grad_weights = spline_weight_gradient(x, g, grad, *ends) if need_weights else None
    return pad(ctx, grad_x, grad_g, grad_weights)


def _table_gradient(x, g, weights, num_nodes, corner, stride, *rest):
    return spline_table_gradient(x, g, weights, corner, stride, num_nodes, *rest)


def _orientation_conv_backward(ctx, grad):
    x, kernel = ctx.saved_tensors
    need_x, need_kernel, _ = ctx.needs_input_grad
    need_kernel = need_kernel and not in_force_pass()
    grad_x = orientation_conv(grad, kernel.transpose(0, 1), *ctx.options) if need_x else None
    grad_kernel = orientation_product(x, grad, *ctx.options) if need_kernel else None
    return pad(ctx, grad_x, grad_kernel)


def _orientation_product_backward(ctx, grad):
    x, g = ctx.saved_tensors
    grad_x = orientation_conv(g, grad.transpose(0, 1), *ctx.options) if ctx.needs_input_grad[0] else None
    grad_g = orientation_conv(x, grad, *ctx.options) if ctx.needs_input_grad[1] else None
    return pad(ctx, grad_x, grad_g)


for _operator, _backward in (
    (pair_conv, _pair_conv_backward),
    (pair_product, _pair_product_backward),
    (spline_conv, _spline_conv_backward),
    (spline_weight_gradient, _spline_weight_gradient_backward),
    (spline_table_gradient, _spline_table_gradient_backward),
    (orientation_conv, _orientation_conv_backward),
    (orientation_product, _orientation_product_backward),
):
    _operator.register_autograd(_backward, setup_context=save_inputs)
