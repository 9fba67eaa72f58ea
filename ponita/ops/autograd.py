"""Registration of the operators with torch. Every derivative is again an operator of the same family.

The names carry the forms of `ponita.ops.reference`. Exchanging sender and receiver transposes a convolution, so one
operator serves a convolution and its transpose, and the families close at any order of differentiation.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op

from ponita.ops import reference


@custom_op("ponita::pair_conv", mutates_args=())
def pair_conv(x: Tensor, kernel: Tensor, sender: Tensor, receiver: Tensor, two_way: int, backend: str) -> Tensor:
    """See `ponita.ops.reference.pair_conv`."""
    return reference.pair_conv(x, kernel, sender, receiver, two_way, backend)


@custom_op("ponita::pair_product", mutates_args=())
def pair_product(x: Tensor, g: Tensor, sender: Tensor, receiver: Tensor, two_way: int, backend: str) -> Tensor:
    """See `ponita.ops.reference.pair_product`."""
    return reference.pair_product(x, g, sender, receiver, two_way)


@custom_op("ponita::basis_conv", mutates_args=())
def basis_conv(
    x: Tensor, basis: Tensor, weight: Tensor, sender: Tensor, receiver: Tensor, two_way: int, backend: str
) -> Tensor:
    """See `ponita.ops.reference.basis_conv`."""
    return reference.basis_conv(x, basis, weight, sender, receiver, two_way, backend)


@custom_op("ponita::basis_gradient", mutates_args=())
def basis_gradient(
    x: Tensor, g: Tensor, weight: Tensor, sender: Tensor, receiver: Tensor, two_way: int, backend: str
) -> Tensor:
    """See `ponita.ops.reference.basis_gradient`."""
    return reference.basis_gradient(x, g, weight, sender, receiver, two_way)


@custom_op("ponita::weight_gradient", mutates_args=())
def weight_gradient(
    x: Tensor, g: Tensor, basis: Tensor, sender: Tensor, receiver: Tensor, two_way: int, backend: str
) -> Tensor:
    """See `ponita.ops.reference.weight_gradient`."""
    return reference.weight_gradient(x, g, basis, sender, receiver, two_way)


@custom_op("ponita::orientation_conv", mutates_args=())
def orientation_conv(x: Tensor, kernel: Tensor) -> Tensor:
    """See `ponita.ops.reference.orientation_conv`."""
    return reference.orientation_conv(x, kernel)


@custom_op("ponita::orientation_product", mutates_args=())
def orientation_product(x: Tensor, g: Tensor) -> Tensor:
    """See `ponita.ops.reference.orientation_product`."""
    return reference.orientation_product(x, g)


@pair_conv.register_fake
def _(x, kernel, sender, receiver, two_way, backend):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@pair_product.register_fake
def _(x, g, sender, receiver, two_way, backend):
    return x.new_empty(sender.shape[0], *x.shape[1:])


@basis_conv.register_fake
def _(x, basis, weight, sender, receiver, two_way, backend):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@basis_gradient.register_fake
def _(x, g, weight, sender, receiver, two_way, backend):
    return x.new_empty(sender.shape[0], x.shape[1], weight.shape[1])


@weight_gradient.register_fake
def _(x, g, basis, sender, receiver, two_way, backend):
    return x.new_empty(x.shape[2], basis.shape[2])


@orientation_conv.register_fake
def _(x, kernel):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@orientation_product.register_fake
def _(x, g):
    return x.new_empty(x.shape[1], x.shape[1], x.shape[2])


def _save(num_tensors: int):
    """A context that keeps the floating arguments for `backward` and the rest as they are."""

    def setup_context(ctx, inputs, output):
        sender, receiver, *ctx.options = inputs[num_tensors:]
        ctx.save_for_backward(*inputs[:num_tensors], sender, receiver)

    return setup_context


def _pair_conv_backward(ctx, grad):
    x, kernel, sender, receiver = ctx.saved_tensors
    need_x, need_kernel, *_ = ctx.needs_input_grad
    grad_x = pair_conv(grad, kernel, receiver, sender, *ctx.options) if need_x else None
    grad_kernel = pair_product(x, grad, sender, receiver, *ctx.options) if need_kernel else None
    return grad_x, grad_kernel, None, None, None, None


def _pair_product_backward(ctx, grad):
    x, g, sender, receiver = ctx.saved_tensors
    need_x, need_g, *_ = ctx.needs_input_grad
    grad_x = pair_conv(g, grad, receiver, sender, *ctx.options) if need_x else None
    grad_g = pair_conv(x, grad, sender, receiver, *ctx.options) if need_g else None
    return grad_x, grad_g, None, None, None, None


def _basis_conv_backward(ctx, grad):
    x, basis, weight, sender, receiver = ctx.saved_tensors
    need_x, need_basis, need_weight, *_ = ctx.needs_input_grad
    grad_x = basis_conv(grad, basis, weight, receiver, sender, *ctx.options) if need_x else None
    grad_basis = basis_gradient(x, grad, weight, sender, receiver, *ctx.options) if need_basis else None
    grad_weight = weight_gradient(x, grad, basis, sender, receiver, *ctx.options) if need_weight else None
    return grad_x, grad_basis, grad_weight, None, None, None, None


def _basis_gradient_backward(ctx, grad):
    x, g, weight, sender, receiver = ctx.saved_tensors
    need_x, need_g, need_weight, *_ = ctx.needs_input_grad
    grad_x = basis_conv(g, grad, weight, receiver, sender, *ctx.options) if need_x else None
    grad_g = basis_conv(x, grad, weight, sender, receiver, *ctx.options) if need_g else None
    grad_weight = weight_gradient(x, g, grad, sender, receiver, *ctx.options) if need_weight else None
    return grad_x, grad_g, grad_weight, None, None, None, None


def _weight_gradient_backward(ctx, grad):
    x, g, basis, sender, receiver = ctx.saved_tensors
    need_x, need_g, need_basis, *_ = ctx.needs_input_grad
    grad_x = basis_conv(g, basis, grad, receiver, sender, *ctx.options) if need_x else None
    grad_g = basis_conv(x, basis, grad, sender, receiver, *ctx.options) if need_g else None
    grad_basis = basis_gradient(x, g, grad, sender, receiver, *ctx.options) if need_basis else None
    return grad_x, grad_g, grad_basis, None, None, None, None


def _save_two(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _orientation_conv_backward(ctx, grad):
    x, kernel = ctx.saved_tensors
    grad_x = orientation_conv(grad, kernel.transpose(0, 1)) if ctx.needs_input_grad[0] else None
    grad_kernel = orientation_product(x, grad) if ctx.needs_input_grad[1] else None
    return grad_x, grad_kernel


def _orientation_product_backward(ctx, grad):
    x, g = ctx.saved_tensors
    grad_x = orientation_conv(g, grad.transpose(0, 1)) if ctx.needs_input_grad[0] else None
    grad_g = orientation_conv(x, grad) if ctx.needs_input_grad[1] else None
    return grad_x, grad_g


pair_conv.register_autograd(_pair_conv_backward, setup_context=_save(2))
pair_product.register_autograd(_pair_product_backward, setup_context=_save(2))
basis_conv.register_autograd(_basis_conv_backward, setup_context=_save(3))
basis_gradient.register_autograd(_basis_gradient_backward, setup_context=_save(3))
weight_gradient.register_autograd(_weight_gradient_backward, setup_context=_save(3))
orientation_conv.register_autograd(_orientation_conv_backward, setup_context=_save_two)
orientation_product.register_autograd(_orientation_product_backward, setup_context=_save_two)
