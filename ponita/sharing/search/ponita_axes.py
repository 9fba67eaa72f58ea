"""What the axes of every parameter of a `Ponita` depend on."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from ponita.models import Ponita
from ponita.sharing.search.masks import Dim
from ponita.sharing.search.space import SearchSpace
from ponita.sharing.search.supernet import Axes

BLOCK = r"blocks\.\d+\."


def ponita_axes(network: Ponita, space: SearchSpace) -> dict[str, Axes]:
    """Axes by the name of the parameter; those of the largest network where a choice shapes them.

    Args:
        network: the largest.
        space: choices named as arguments of `Ponita`.
    """
    config = network.config

    def axis(*names: str, size_of: Callable[..., int] = lambda *sizes: math.prod(sizes)) -> Dim | int:
        chosen = [name for name in names if name in space]
        if not chosen:
            return size_of(*(config[name] for name in names))
        fixed = {name: config[name] for name in names}
        return Dim(
            space, *chosen, size_of=lambda *values: size_of(*(fixed | dict(zip(chosen, values, strict=True))).values())
        )

    def monomials(of: str) -> Dim | int:
        inputs = getattr(network, of).monomials.num_inputs
        return axis("degree", size_of=lambda degree: math.comb(inputs + degree, degree) - 1)

    channels, basis = axis("hidden_channels"), axis("basis_channels")
    inner = axis("hidden_channels", "widening")
    by_pattern: dict[str, Axes] = {
        r"lift\.embedding\.weight": (channels, network.lift.embedding.in_features),
        r"(fiber_)?basis\.linear_1\.bias": (channels,),
        r"(fiber_)?basis\.linear_2\.weight": (basis, channels),
        r"(fiber_)?basis\.linear_2\.bias": (basis,),
        BLOCK + r"conv\.(fiber_)?kernel\.weight": (channels, basis),
        BLOCK + r"(conv\.bias|norm\.weight|norm\.bias|linear_2\.bias|layer_scale)": (channels,),
        BLOCK + r"conv\.attention\.(key|query)\.weight": (config["attention_channels"], channels),
        BLOCK + r"conv\.attention\.(key|query)\.bias": (config["attention_channels"],),
        BLOCK + r"linear_1\.weight": (inner, channels),
        BLOCK + r"linear_1\.bias": (inner,),
        BLOCK + r"linear_2\.weight": (channels, inner),
        r"readouts\.\d+\.linear\.weight": (network.readouts["0"].linear.out_features, channels),
        r"readouts\.\d+\.linear\.bias": (network.readouts["0"].linear.out_features,),
    }
    for of in ("basis", "fiber_basis"):
        if getattr(network, of) is not None:
            by_pattern[rf"{of}\.linear_1\.weight"] = (channels, monomials(of))
    return {name: _match(name, by_pattern) for name, _ in network.named_parameters()}


def layer_of(name: str) -> int | None:
    """Which block a parameter belongs to, with its read-out."""
    found = re.search(r"(?:blocks|readouts)\.(\d+)\.", name)
    return None if found is None else int(found[1])


def _match(name: str, by_pattern: dict[str, Axes]) -> Axes:
    return next(axes for pattern, axes in by_pattern.items() if re.fullmatch(pattern, name))
