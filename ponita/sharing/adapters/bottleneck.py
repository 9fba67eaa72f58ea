"""Bottleneck adapters behind the modules of a block (Sung et al., CVPR 2022, arXiv 2112.06825: VL-Adapter)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

from ponita.sharing.adapters.bottleneck_sources import HoulsbySource, PHMSource
from ponita.sharing.adapters.hyper import HyperSource
from ponita.sharing.adapters.layers import NOT_MERGEABLE, OutputLayer
from ponita.sharing.adapters.policies import NONLINEARITIES, SHARES
from ponita.sharing.adapters.sites import LIFT_SITES, NORM_SITES, OUTPUT_SITES, Site
from ponita.sharing.adapters.source import Source
from ponita.sharing.adapters.tuner import SiteConfig, Tuner, register

SOURCES = ("own", "phm", "hyper")


@dataclass
class BottleneckConfig(SiteConfig):
    """h + U s(D h + d) + u behind a module whose output is h [..., C], with m = C // reduction_factor hidden channels.

    Exactly nothing is added at the start. With several tasks, `task_scope(model, name)` says which one a batch is of.

    Args:
        dim: C, where it cannot be read from a module.
        reduction_factor: C / m.
        nonlinearity: s, "gelu", "silu" or "tanh"; forces need two derivatives.
        source: "own": weights of each site (Houlsby et al. 2019). "phm": Kronecker products (Compacter, Karimi Mahabadi et
            al. 2021). "hyper": made by a network from embeddings of task and layer (Hyperformer, the same authors).
        tasks: their names.
        share: what tasks have in common, for "own" and "phm". "all": everything. "none": nothing. "up": U and u. "down":
            D and d.
        phm_n: n, number and size of the rules A_i.
        phm_rank: of the factors S_i T_i of B_i; null: B_i itself.
        phm_shared_rule: one set of A_i for all, or one for each map.
        task_dim: of the embeddings.
        hyper_hidden: hidden channels of the network that makes weights.
        hyper_proj: its outputs, from which the weights are generated.
        hyper_plus: Hyperformer++: an embedding of the position in a block too, and one set of generators; otherwise a set of
            generators for each position.
        task_vector: add a learned vector of the task, zero at the start, to the features that the network starts from.
        unfreeze_norms: train and store the LayerNorms of the blocks.
    """

    dim: int | None = field(default=None)
    reduction_factor: int = field(default=8)
    nonlinearity: str = field(default="gelu")
    source: str = field(default="own")
    tasks: list[str] = field(default_factory=lambda: ["default"])
    share: str = field(default="all")
    phm_n: int = field(default=4)
    phm_rank: int | None = field(default=1)
    phm_shared_rule: bool = field(default=True)
    task_dim: int = field(default=64)
    hyper_hidden: int = field(default=128)
    hyper_proj: int = field(default=8)
    hyper_plus: bool = field(default=True)
    task_vector: bool = field(default=False)
    unfreeze_norms: bool = field(default=True)

    default_sites = OUTPUT_SITES

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("source", SOURCES), ("share", SHARES), ("nonlinearity", tuple(NONLINEARITIES))):
            if getattr(self, name) not in known:
                why = " (forces need two derivatives)" if name == "nonlinearity" else ""
                raise ValueError(f"{name}={getattr(self, name)!r}; expected one of {list(known)}{why}.")
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks={self.tasks}; expected different names, at least one.")
        if self.source == "hyper" and self.share != "all":
            raise ValueError(
                f"share={self.share!r} with source='hyper', which has one network for all tasks; leave share out."
            )
        numbers = ("reduction_factor", "phm_n", "task_dim", "hyper_hidden", "hyper_proj")
        for name in numbers:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected at least 1.")


class BottleneckTuner(Tuner):
    """Puts bottlenecks behind modules, and a vector of the task behind the first one."""

    layer_cls = OutputLayer

    def make_source(self, config: BottleneckConfig, sites: list[Site]) -> Source:
        makers = {"own": HoulsbySource, "phm": PHMSource, "hyper": HyperSource}
        return makers[config.source](sites, config)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        config = self.peft_config[adapter_name]
        if config.unfreeze_norms:
            names = [name for name, _ in model.named_modules() if re.fullmatch(NORM_SITES, name)]
            config.modules_to_save = list(dict.fromkeys([*(config.modules_to_save or []), *names])) or None
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    @staticmethod
    def _check_target_module_exists(config: PeftConfig, key: str) -> object:
        at_start = getattr(config, "task_vector", False) and re.fullmatch(LIFT_SITES, key)
        return at_start or check_target_module_exists(config, key)

    def _check_merge_allowed(self) -> None:
        raise ValueError(NOT_MERGEABLE)


register(BottleneckConfig, BottleneckTuner)
