"""Supernets of PONITA networks, and the ways to train and to search them."""

from ponita.sharing.search.costs import CostTable, Latency, message_passing_flops
from ponita.sharing.search.layered import LayeredSupernet
from ponita.sharing.search.layers import (
    EntangledDepth,
    EntangledLayerNorm,
    EntangledLinear,
    EntangledScale,
    MixedOp,
)
from ponita.sharing.search.masks import Dim, joint_mask, survival_mask
from ponita.sharing.search.metrics import kendall_tau, rank_report, regret
from ponita.sharing.search.ponita_supernet import PonitaSupernet, calibrate_supernet, extract_potential
from ponita.sharing.search.sampling import Draw, PathSampler, SandwichSampler, StepFeedback, UniformSampler
from ponita.sharing.search.searchers import (
    Limit,
    evolutionary_search,
    exhaustive_search,
    front,
    optuna_search,
    random_search,
)
from ponita.sharing.search.space import Architecture, Choice, Path, Relaxation, SearchSpace
from ponita.sharing.search.supernet import Supernet
from ponita.sharing.search.training import Callback, History, Losses, SupernetTrainer

__all__ = [
    "Architecture",
    "Callback",
    "Choice",
    "CostTable",
    "Dim",
    "Draw",
    "EntangledDepth",
    "EntangledLayerNorm",
    "EntangledLinear",
    "EntangledScale",
    "History",
    "Latency",
    "LayeredSupernet",
    "Limit",
    "Losses",
    "MixedOp",
    "Path",
    "PathSampler",
    "PonitaSupernet",
    "Relaxation",
    "SandwichSampler",
    "SearchSpace",
    "StepFeedback",
    "Supernet",
    "SupernetTrainer",
    "UniformSampler",
    "calibrate_supernet",
    "evolutionary_search",
    "exhaustive_search",
    "extract_potential",
    "front",
    "joint_mask",
    "kendall_tau",
    "message_passing_flops",
    "optuna_search",
    "random_search",
    "rank_report",
    "regret",
    "survival_mask",
]
