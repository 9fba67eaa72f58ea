"""Which tasks use which weights of a bottleneck."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from ponita.sharing.adapters.sites import LIFT_SITES, Site
from ponita.sharing.adapters.source import Source

if TYPE_CHECKING:
    from ponita.sharing.adapters.bottleneck import BottleneckConfig

#: What tasks have in common.
SHARES = ("all", "none", "up", "down")
NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


class TaskSource(Source):
    """Base of the sources of bottlenecks: the current task, its vector, and the formula.

    Args:
        sites: behind which bottlenecks stand; that of the lift has the vector of the task.
        config: of the adapter.
    """

    def __init__(self, sites: Sequence[Site], config: BottleneckConfig) -> None:
        super().__init__(sites)
        self.tasks = tuple(config.tasks)
        self.task: int | None = 0 if len(self.tasks) == 1 else None
        self.nonlinearity = NONLINEARITIES[config.nonlinearity]
        lifts = [site for site in sites if config.task_vector and re.fullmatch(LIFT_SITES, site.name)]
        self.lift = lifts[0].name if lifts else None
        self.vectors = nn.ParameterList(
            nn.Parameter(torch.zeros(site.out_features)) for site in lifts for _ in self.tasks
        )
        self.behind = [site for site in sites if site.name != self.lift]

    def choose(self, task: str | None) -> None:
        """Use the weights of a task; of none where None."""
        self.task = None if task is None else self.tasks.index(task)

    def update(self, site: str, h: Tensor) -> Tensor:
        if self.task is None:
            raise ValueError(f"no task is chosen; run the model in task_scope(model, NAME), one of {list(self.tasks)}.")
        if site == self.lift:
            return self.vectors[self.task]
        return self.bottleneck(site, h)

    def bottleneck(self, site: str, h: Tensor) -> Tensor:
        """U s(D h + d) + u of a site, for the current task."""
        raise NotImplementedError


class MapSource(TaskSource):
    """Two maps of each site, of one or of all tasks.

    Args:
        sites: behind which bottlenecks stand.
        config: of the adapter.
    """

    def __init__(self, sites: Sequence[Site], config: BottleneckConfig) -> None:
        super().__init__(sites, config)
        self.prepare(config)
        tasks, share = len(self.tasks), config.share
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.number = {site.name: number for number, site in enumerate(self.behind)}
        for site in self.behind:
            width, hidden = site.out_features, reduced(site, config.reduction_factor)
            downs = range(1 if share in ("all", "down") else tasks)
            ups = range(1 if share in ("all", "up") else tasks)
            self.down.append(nn.ModuleList(self.make_map(site, width, hidden, False) for _ in downs))
            self.up.append(nn.ModuleList(self.make_map(site, hidden, width, True) for _ in ups))

    def prepare(self, config: BottleneckConfig) -> None:
        """Hook before the maps are made."""

    def make_map(self, site: Site, inputs: int, outputs: int, zero: bool) -> nn.Module:
        """An affine map; `zero` where it must give zero at the start."""
        raise NotImplementedError

    def bottleneck(self, site: str, h: Tensor) -> Tensor:
        number = self.number[site]
        down, up = (self._of_task(maps[number]) for maps in (self.down, self.up))
        return up(self.nonlinearity(down(h)))

    def _of_task(self, maps: nn.ModuleList) -> nn.Module:
        return maps[0] if len(maps) == 1 else maps[self.task]


def reduced(site: Site, factor: int) -> int:
    """Hidden channels m of a bottleneck.

    Raises:
        ValueError: if none are left.
    """
    if site.out_features // factor < 1:
        raise ValueError(
            f"reduction_factor={factor} leaves no channel of the {site.out_features} of {site.name}; choose a smaller one."
        )
    return site.out_features // factor
