"""Where adapters are put: submodules of a model that a pattern names."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from torch import nn

#: Linear maps of the blocks of a `Ponita`: kernels and the two channel mixers. For updates of weights.
LINEAR_SITES = r".*blocks\.\d+\.(conv\.(fiber_)?kernel|linear_[12])"
#: What a block adds up: outputs of its convolution and of its channel mixer. For bottlenecks.
OUTPUT_SITES = r".*blocks\.\d+\.(conv|linear_2)"
#: What makes the features that the first block gets.
LIFT_SITES = r"(.*\.)?lift"
#: LayerNorms of the blocks.
NORM_SITES = r".*blocks\.\d+\.norm"


class Site(NamedTuple):
    """A submodule that is adapted.

    Attributes:
        name: qualified, in the model without adapters.
        in_features: width of its input; 0 where it is not linear.
        out_features: width C of its output.
        dtype: of its weights.
        device: of its weights.
    """

    name: str
    in_features: int
    out_features: int
    dtype: torch.dtype
    device: torch.device


def role(site: Site) -> str:
    """The name of a site without the number of its block: conv.kernel of every block."""
    return ".".join(part for part in site.name.split(".") if not part.isdigit())


def find_sites(
    model: nn.Module, config: PeftConfig, matches: Callable[[PeftConfig, str], object] = check_target_module_exists
) -> list[Site]:
    """The submodules that `target_modules` of a configuration names, in the order of the model.

    Args:
        model: with or without adapters.
        config: a string there must match a whole name (as a regular expression), an entry of a list its end.
        matches: whether a name is one.

    Raises:
        ValueError: if there are none, or one is of a kind that cannot be adapted.
    """
    sites, inside = [], ()
    for name, module in model.named_modules():
        if name.startswith(inside) if inside else False:
            continue
        if isinstance(module, BaseTunerLayer):
            inside = (*inside, f"{name}.")
        if name and matches(config, name):
            sites.append(_site(name, module, config))
    if not sites:
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        raise ValueError(
            f"target_modules={config.target_modules!r} names no module of {type(model).__name__}. A string must match a "
            f"whole name, an entry of a list its end; linear modules here are {linear[:6]}..."
        )
    return sites


def check_rank(model: nn.Module, config: PeftConfig) -> None:
    """Raise ValueError for a rank that is larger than a site has inputs or outputs, which `peft` lets pass.

    Args:
        model: to be adapted.
        config: of the adapter; nothing is checked of one without a rank.
    """
    rank = getattr(config, "r", None)
    for site in find_sites(model, config):
        smallest = min(site.in_features, site.out_features)
        if isinstance(rank, int) and site.in_features and rank > smallest:
            raise ValueError(
                f"r={rank} is larger than {site.name} has inputs or outputs ({site.in_features}, {site.out_features}); choose r up "
                f"to {smallest}, or narrow target_modules."
            )


def _site(name: str, module: nn.Module, config: PeftConfig) -> Site:
    base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    weight = next(base.parameters(), None)
    if weight is None:
        raise ValueError(f"{name} ({type(base).__name__}) has no weights; it cannot be adapted. Narrow target_modules.")
    width = getattr(config, "dim", None) or _width(base)
    if width is None:
        raise ValueError(
            f"the width of the output of {name} ({type(base).__name__}) is not known; set dim, or narrow target_modules."
        )
    inputs = base.in_features if isinstance(base, nn.Linear) else 0
    return Site(name, inputs, width, weight.dtype, weight.device)


def _width(module: nn.Module) -> int | None:
    """Channels of the output: of a linear layer, or of a module with a bias of each channel."""
    if isinstance(module, nn.Linear):
        return module.out_features
    bias = getattr(module, "bias", None)
    if isinstance(bias, nn.Parameter) and bias.dim() == 1:
        return len(bias)
    embedding = getattr(module, "embedding", None)
    return embedding.out_features if isinstance(embedding, nn.Linear) else None
