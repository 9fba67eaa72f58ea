"""What makes an adapter of ours one of huggingface `peft`: a configuration, a tuner, and their registration."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import ModulesToSaveWrapper
from torch import nn

from ponita.sharing.adapters.layers import DeltaLayer, SiteLayer
from ponita.sharing.adapters.sites import LINEAR_SITES, Site, find_sites
from ponita.sharing.adapters.source import Source


@dataclass
class SiteConfig(PeftConfig):
    """What all our adapters are told.

    Args:
        target_modules: of the model to adapt: a regular expression of whole names, or a list of the ends of names. The
            default is for a `Ponita` and what wraps it.
        exclude_modules: of those, not to adapt.
        modules_to_save: names of modules to train and store beside the adapter, such as read-outs.
        bias: "none", "all", or a name ending in "_only": which biases of the model train too.
    """

    target_modules: list[str] | str | None = field(default=None)
    exclude_modules: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)
    bias: str = field(default="none")

    #: Names of sites where target_modules is None.
    default_sites = LINEAR_SITES

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = tuner_name(type(self))
        if self.target_modules is None:
            self.target_modules = self.default_sites
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, list) else value)


class Tuner(BaseTuner):
    """Puts a `SiteLayer` at every site, and holds the source of each adapter once.

    Subclasses say how a source is made (`make_source`), and which layer is used.
    """

    prefix = "sources"
    tuner_layer_cls: type[SiteLayer] = SiteLayer
    layer_cls: type[SiteLayer] = DeltaLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  (declared so by peft)
    uses_shared_state = True

    def make_source(self, config: PeftConfig, sites: list[Site]) -> Source:
        """The weights of a new adapter."""
        raise NotImplementedError

    def layer_options(self, config: PeftConfig) -> dict[str, Any]:
        """Arguments of the layer beside the usual ones."""
        return {}

    def unload(self) -> nn.Module:
        """The model as it was: without the layers, and with its own modules where trained copies of them were used."""
        for name, module in list(self.model.named_modules()):
            if isinstance(module, ModulesToSaveWrapper):
                parent, _, child = name.rpartition(".")
                setattr(self.model.get_submodule(parent), child, module.original_module)
        return super().unload()

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Make the weights of an adapter, the first or a later one, and put layers where there are none yet."""
        if "sources" not in self._modules:
            self.sources = nn.ModuleDict()
        config = self.peft_config[adapter_name]
        sites = find_sites(model, config, self._check_target_module_exists)
        source = self.make_source(config, sites)
        self.sources[adapter_name] = source.to(sites[0].device, sites[0].dtype)
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
    ) -> None:
        if not isinstance(target, SiteLayer):
            layer = self.layer_cls(target, current_key, self.sources, **self.layer_options(peft_config))
            self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """Layers of ours have no weights that would have to be moved, and need not stand for one with a `weight`."""
        setattr(parent, child_name, new_module)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """Names of a source are as deep as it likes: the adapter's name stands right behind "sources"."""
        pattern = rf"(^|\.)sources\.{re.escape(adapter_name)}\."
        if re.search(pattern, key):
            return re.sub(pattern, r"\1sources.", key, count=1)
        return super()._remove_adapter_name_from_key(key, adapter_name)


def tuner_name(config: type[PeftConfig]) -> str:
    """The name under which `peft` knows a kind of adapter: that of its configuration, such as "MOS" of MoSConfig."""
    return config.__name__.removesuffix("Config").upper()


def register(config: type[SiteConfig], tuner: type[Tuner]) -> None:
    """Let `peft` find a tuner by the configuration.

    `peft.utils.register_peft_method` takes only names of its own, but the tables it fills take any (peft 0.21).
    """
    name = tuner_name(config)
    PEFT_TYPE_TO_CONFIG_MAPPING[name] = config
    PEFT_TYPE_TO_TUNER_MAPPING[name] = tuner
    PEFT_TYPE_TO_PREFIX_MAPPING[name] = tuner.prefix
