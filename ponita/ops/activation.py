"""GELU with derivatives that are one pass over memory each.

Every derivative of f(x) = x Phi(x) is f^(n)(x) times a cotangent, so one operator, `gelu_gradient`, is closed under
differentiation. Torch composes the second derivative, which every force loss needs, from a dozen passes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.library import custom_op

from ponita.ops import backends

SUPPORTED = (torch.float32, torch.float64)
COMPILED_ORDERS = (2, 3)


def gelu(x: Tensor, backend: str = "auto") -> Tensor:
    """x Phi(x), with the normal distribution Phi (Hendrycks and Gimpel 2016; exact, not the tanh form).

    Args:
        x: any shape.
        backend: "auto" or a name of `ponita.ops.backends`; only "cpp" has a kernel of its own, for the second and third
            derivative in float32 and float64. All others use torch.

    Shape:
        as x.
    """
    if torch.compiler.is_compiling():  # torch fuses it there
        return torch.nn.functional.gelu(x)
    compiled = backends.resolve(backend, x.device.type) == "cpp" and x.dtype in SUPPORTED
    return _gelu(x, "cpp" if compiled else "torch")


@custom_op("ponita::gelu", mutates_args=())
def _gelu(x: Tensor, backend: str) -> Tensor:
    return torch.nn.functional.gelu(x)


@custom_op("ponita::gelu_gradient", mutates_args=())
def _gelu_gradient(x: Tensor, g: Tensor, order: int, backend: str) -> Tensor:
    """g f^(order)(x), order >= 1."""
    if order == 1:
        return torch.ops.aten.gelu_backward(g, x)
    if backend == "cpp" and order in COMPILED_ORDERS:
        return backends.implementation(backend).gelu_gradient(x, g, order)
    return g * _polynomial(x, order) * ((-0.5 * x.square()).exp() / math.sqrt(2 * math.pi))


def _polynomial(x: Tensor, order: int) -> Tensor:
    """p_n with f^(n) = p_n phi, n >= 2: p_2 = 2 - x^2 and p_(n+1) = p_n' - x p_n, as phi' = -x phi."""
    coefficients = [2.0, 0.0, -1.0]
    for _ in range(order - 2):
        slope = [*(k * c for k, c in enumerate(coefficients) if k), 0.0, 0.0]
        coefficients = [a - b for a, b in zip(slope, [0.0, *coefficients], strict=True)]
    value = torch.zeros_like(x)
    for c in reversed(coefficients):
        value = value * x + c
    return value


@_gelu.register_fake
@_gelu_gradient.register_fake
def _(x, *_):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
    ctx.options = [value for value in inputs if not isinstance(value, Tensor)]


def _gelu_backward(ctx, grad):
    (x,), (backend,) = ctx.saved_tensors, ctx.options
    return _gelu_gradient(x, grad, 1, backend), None


def _gelu_gradient_backward(ctx, grad):
    (x, g), (order, backend) = ctx.saved_tensors, ctx.options
    need_x, need_g, *_ = ctx.needs_input_grad
    grad_x = _gelu_gradient(x, g * grad, order + 1, backend) if need_x else None
    grad_g = _gelu_gradient(x, grad, order, backend) if need_g else None
    return grad_x, grad_g, None, None


_gelu.register_autograd(_gelu_backward, setup_context=_save)
_gelu_gradient.register_autograd(_gelu_gradient_backward, setup_context=_save)
