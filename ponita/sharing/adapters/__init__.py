"""Adapters of trained networks, as configurations for huggingface `peft`: `get_peft_model(potential, MoSConfig(r=4))`."""

from ponita.sharing.adapters.bone import BoneConfig
from ponita.sharing.adapters.bottleneck import BottleneckConfig
from ponita.sharing.adapters.files import load_adapted, save_adapter
from ponita.sharing.adapters.mos import MoSConfig
from ponita.sharing.adapters.report import AdapterReport, adapter_report
from ponita.sharing.adapters.sites import LIFT_SITES, LINEAR_SITES, NORM_SITES, OUTPUT_SITES
from ponita.sharing.adapters.tasks import task_scope

__all__ = [
    "LIFT_SITES",
    "LINEAR_SITES",
    "NORM_SITES",
    "OUTPUT_SITES",
    "AdapterReport",
    "BoneConfig",
    "BottleneckConfig",
    "MoSConfig",
    "adapter_report",
    "load_adapted",
    "save_adapter",
    "task_scope",
]
