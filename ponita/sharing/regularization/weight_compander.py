"""Weights as bounded functions of what trains (weight compander, Nguyen and others, arXiv 2306.16993)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

#: Kernels and channel mixers of the blocks of a `Ponita`; read-outs set the scale of energies and are left alone.
PATTERN = r".*blocks\.\d+\.(conv\.(fiber_)?kernel|linear_[12])"
#: How near the bound a weight may be when it is turned into a latent.
REACH = 0.999


class Squashing(NamedTuple):
    """An odd function with slope 1 at zero, its inverse, and what it tends to."""

    function: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    limit: float


FUNCTIONS = {
    "arctan": Squashing(torch.arctan, torch.tan, math.pi / 2),
    "tanh": Squashing(torch.tanh, torch.arctanh, 1.0),
    "softsign": Squashing(lambda v: v / (1 + v.abs()), lambda w: w / (1 - w.abs()), 1.0),
}


class Compander(nn.Module):
    """w = a f(v / b), elementwise: |w| stays below a times the limit of f, and the slope at zero is a / b.

    Gradient descent on v with rate lr moves w by -lr (a/b)² f'(v/b)² dL/dw: faster at zero, not at all at the bound. The
    formula is the one that we remember of the paper, whose text we could not see; f can be exchanged, and the initial
    values of a and b are ours.

    Args:
        scale: a.
        width: b.
        function: f, one of `FUNCTIONS`.
        learn: whether log a and log b train.

    Shape:
        v [...] -> w [...]
    """

    def __init__(self, scale: float, width: float, function: str = "arctan", learn: bool = True) -> None:
        super().__init__()
        self.function, self.squashing = function, FUNCTIONS[function]
        for name, value in (("log_scale", scale), ("log_width", width)):
            tensor = torch.tensor(math.log(value))
            if learn:
                setattr(self, name, nn.Parameter(tensor))  # no matrix, so `parameter_groups` lets it not decay
            else:
                self.register_buffer(name, tensor)

    def forward(self, v: Tensor) -> Tensor:
        return self.log_scale.exp() * self.squashing.function(v * (-self.log_width).exp())

    def right_inverse(self, w: Tensor) -> Tensor:
        """v with w = a f(v / b); of weights beyond the bound, as near to it as there is a v."""
        reach = REACH * self.squashing.limit
        return self.log_width.exp() * self.squashing.inverse((w / self.log_scale.exp()).clamp(-reach, reach))

    def extra_repr(self) -> str:
        return self.function

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "squashing"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.squashing = FUNCTIONS[self.function]


def compand(
    model: nn.Module,
    pattern: str = PATTERN,
    ratio: float = 1.0,
    bound: float = 1.1,
    function: str = "arctan",
    learn: bool = True,
) -> list[str]:
    """Replace weights of linear layers by companded ones of the same values.

    Calibrate the kernels before; `calibrate` refuses afterwards. A weight cannot be assigned to a companded layer through
    `weight.data`: change `parametrizations.weight.original`, or `uncompand` first.

    Args:
        model: any module.
        pattern: regular expression of the whole names of the layers.
        ratio: a / b, the slope at zero; above 1 small weights move faster than large ones.
        bound: largest possible weight of a layer, in multiples of its largest now.
        function: one of `FUNCTIONS`.
        learn: whether a and b train, by their logarithms.

    Returns:
        Names of the layers.

    Raises:
        ValueError: if nothing matches, a layer is not linear or companded already, or has no weights but zero.
    """
    if function not in FUNCTIONS:
        raise ValueError(f"function={function!r}; expected one of {list(FUNCTIONS)}.")
    if not ratio > 0 or not bound > 1 / REACH:
        raise ValueError(
            f"ratio={ratio}, bound={bound}; expected ratio > 0, and a bound above the largest weight, > 1."
        )
    layers = {name: module for name, module in model.named_modules() if re.fullmatch(pattern, name)}
    if not layers:
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        raise ValueError(
            f"pattern={pattern!r} matches no module of {type(model).__name__}; linear ones are {linear[:6]}..."
        )
    largest = {name: _largest(name, layer) for name, layer in layers.items()}
    for name, layer in layers.items():
        scale = bound * largest[name] / FUNCTIONS[function].limit
        compander = Compander(scale, scale / ratio, function, learn).to(layer.weight)
        parametrize.register_parametrization(layer, "weight", compander)
    return list(layers)


def uncompand(model: nn.Module) -> list[str]:
    """Put the weights that companded layers have now in their places.

    Copies of a companded model share classes that torch makes; only the model given is changed.

    Args:
        model: that `compand` changed.

    Returns:
        Names of the layers.

    Raises:
        ValueError: if no layer is companded.
    """
    layers = companded(model)
    if not layers:
        raise ValueError(f"no layer of {type(model).__name__} is companded; there is nothing to take out.")
    for layer in layers.values():
        weight = nn.Parameter(layer.weight.detach().clone())
        others = dict(layer._parameters)
        # torch's remove_parametrizations deletes the property of a class that copies of the layer still use.
        layer.__class__ = parametrize.type_before_parametrizations(layer)
        del layer._modules["parametrizations"]
        layer._parameters = {"weight": weight, **others}
    return list(layers)


def companded(model: nn.Module) -> dict[str, nn.Module]:
    """The companded layers of a model, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if parametrize.is_parametrized(module, "weight") and isinstance(module.parametrizations["weight"][0], Compander)
    }


def plain_state(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state dict that a model would have without companding.

    Args:
        state: of the companded model; or another one of it, such as an average.
        model: companded.
    """
    plain = dict(state)
    for name, layer in companded(model).items():
        start = f"{name}.parametrizations.weight."
        values = {key.removeprefix(f"{start}0."): plain.pop(key) for key in list(plain) if key.startswith(f"{start}0.")}
        latent = plain.pop(f"{start}original")
        weight = torch.func.functional_call(layer.parametrizations["weight"][0], values, (latent,))
        plain[f"{name}.weight"] = weight.detach()
    return plain


def _largest(name: str, layer: nn.Module) -> float:
    """Largest weight of a layer that can be companded."""
    if parametrize.is_parametrized(layer):
        raise ValueError(f"{name} is companded (or parametrised) already; call uncompand(model) first.")
    if type(layer) is not nn.Linear:
        raise ValueError(
            f"{name} is a {type(layer).__name__}; only plain linear layers are companded. Narrow the pattern, and merge or unload "
            "adapters before."
        )
    largest = float(layer.weight.detach().abs().max())
    if not 0 < largest < float("inf"):
        raise ValueError(
            f"the largest weight of {name} is {largest}; expected one above zero and finite, to set the bound by."
        )
    return largest
