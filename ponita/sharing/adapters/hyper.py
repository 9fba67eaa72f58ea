"""Weights of bottlenecks made by one network for all tasks and layers (Hyperformer, Karimi Mahabadi et al., ACL 2021)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from ponita.sharing.adapters.bottleneck_sources import INITIAL_STD
from ponita.sharing.adapters.policies import TaskSource, reduced
from ponita.sharing.adapters.sites import Site, role

if TYPE_CHECKING:
    from ponita.sharing.adapters.bottleneck import BottleneckConfig


class Generators(nn.Module):
    """D, d, U and u of a bottleneck as linear functions of p numbers; U and u are zero at the start.

    Args:
        inputs: p.
        width: C.
        hidden: m.
    """

    def __init__(self, inputs: int, width: int, hidden: int) -> None:
        super().__init__()
        self.width, self.hidden = width, hidden
        sizes = {"down": hidden * width, "down_bias": hidden, "up": width * hidden, "up_bias": width}
        self.maps = nn.ModuleDict({name: nn.Linear(inputs, size) for name, size in sizes.items()})
        for name, linear in self.maps.items():
            nn.init.normal_(linear.weight, std=0.0 if name.startswith("up") else INITIAL_STD)
            nn.init.zeros_(linear.bias)

    def forward(self, code: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[p] -> D [m, C], d [m], U [C, m], u [C]."""
        down, down_bias, up, up_bias = (linear(code) for linear in self.maps.values())
        return down.view(self.hidden, self.width), down_bias, up.view(self.width, self.hidden), up_bias


class HyperSource(TaskSource):
    """Embeddings of task, layer and, in Hyperformer++, of the position in a block; a network of them; generators.

    Every site asks once in a forward pass, and gets weights of its own, so nothing is made twice.

    Raises:
        ValueError: if the sites differ in width.
    """

    def __init__(self, sites: Sequence[Site], config: BottleneckConfig) -> None:
        super().__init__(sites, config)
        widths = {site.out_features for site in self.behind}
        if len(widths) != 1:
            raise ValueError(
                f"one network makes the weights of all sites, but their widths are {sorted(widths)}; narrow target_modules to "
                "sites of one width, or use source='own'."
            )
        layers = list(dict.fromkeys(_block(site) for site in self.behind))
        positions = list(dict.fromkeys(role(site) for site in self.behind))
        self.place = {site.name: (layers.index(_block(site)), positions.index(role(site))) for site in self.behind}
        self.plus, size = config.hyper_plus, config.task_dim
        self.task_embedding = nn.Parameter(torch.randn(len(self.tasks), size))
        self.layer_embedding = nn.Parameter(torch.randn(len(layers), size))
        self.position_embedding = nn.Parameter(torch.randn(len(positions), size)) if self.plus else None
        self.hidden = nn.Linear((3 if self.plus else 2) * size, config.hyper_hidden)
        self.project = nn.Linear(config.hyper_hidden, config.hyper_proj)
        self.norm = nn.LayerNorm(config.hyper_proj, eps=1e-6)
        width, narrow = widths.pop(), reduced(self.behind[0], config.reduction_factor)
        self.generators = nn.ModuleList(
            Generators(config.hyper_proj, width, narrow) for _ in range(1 if self.plus else len(positions))
        )

    def bottleneck(self, site: str, h: Tensor) -> Tensor:
        layer, position = self.place[site]
        parts = [self.task_embedding[self.task], self.layer_embedding[layer]]
        if self.plus:
            parts.append(self.position_embedding[position])
        code = self.norm(self.project(torch.relu(self.hidden(torch.cat(parts)))))
        down, down_bias, up, up_bias = self.generators[0 if self.plus else position](code)
        return functional.linear(self.nonlinearity(functional.linear(h, down, down_bias)), up, up_bias)


def _block(site: Site) -> str:
    """The number in a site's name: that of its block."""
    found = re.search(r"\.(\d+)\.", site.name)
    return found[1] if found else ""
