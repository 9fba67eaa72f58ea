"""Supernets of PONITA networks, and the ways to train and to search them."""

from ponita.sharing.search.autodistil import DistillationTrainer, select_student
from ponita.sharing.search.bilevel import BilevelTrainer
from ponita.sharing.search.complexity import ArchitectureGenerator, ComplexityBins
from ponita.sharing.search.controller import Controller
from ponita.sharing.search.costs import CostTable, Latency, message_passing_flops
from ponita.sharing.search.enas import ControllerSampler, ReinforceTrainer, derive
from ponita.sharing.search.fewshot import FewShotTrainer, SupernetTree
from ponita.sharing.search.gradient_matching import gradient_matching, split_choice
from ponita.sharing.search.hidden_states import hidden_state_correlation
from ponita.sharing.search.layered import LayeredSupernet
from ponita.sharing.search.layers import (
    EntangledDepth,
    EntangledLayerNorm,
    EntangledLinear,
    EntangledScale,
    MixedOp,
)
from ponita.sharing.search.masks import Dim, joint_mask, survival_mask
from ponita.sharing.search.memory import ArchitectureMemory, MemoryRegularizer
from ponita.sharing.search.metrics import kendall_tau, rank_report, regret
from ponita.sharing.search.pada import ImportanceDataSampler, ImportanceSampler
from ponita.sharing.search.ponita_supernet import PonitaSupernet, calibrate_supernet, extract_potential
from ponita.sharing.search.relations import RelationDistillationLoss
from ponita.sharing.search.sampling import Draw, PathSampler, SandwichSampler, StepFeedback, UniformSampler
from ponita.sharing.search.searchers import (
    Limit,
    evolutionary_search,
    exhaustive_search,
    front,
    optuna_search,
    random_search,
)
from ponita.sharing.search.shift import ComplexityShiftSampler, ShiftUpdate
from ponita.sharing.search.space import Architecture, Choice, Path, Relaxation, SearchSpace
from ponita.sharing.search.subspaces import partition_by_cost
from ponita.sharing.search.supernet import Supernet
from ponita.sharing.search.tangle import RelaxationSampler, prune
from ponita.sharing.search.training import Callback, History, Losses, SupernetTrainer

__all__ = [
    "Architecture",
    "ArchitectureGenerator",
    "ArchitectureMemory",
    "BilevelTrainer",
    "Callback",
    "Choice",
    "ComplexityBins",
    "ComplexityShiftSampler",
    "Controller",
    "ControllerSampler",
    "CostTable",
    "Dim",
    "DistillationTrainer",
    "Draw",
    "EntangledDepth",
    "EntangledLayerNorm",
    "EntangledLinear",
    "EntangledScale",
    "FewShotTrainer",
    "History",
    "ImportanceDataSampler",
    "ImportanceSampler",
    "Latency",
    "LayeredSupernet",
    "Limit",
    "Losses",
    "MemoryRegularizer",
    "MixedOp",
    "Path",
    "PathSampler",
    "PonitaSupernet",
    "ReinforceTrainer",
    "RelationDistillationLoss",
    "Relaxation",
    "RelaxationSampler",
    "SandwichSampler",
    "SearchSpace",
    "ShiftUpdate",
    "StepFeedback",
    "Supernet",
    "SupernetTrainer",
    "SupernetTree",
    "UniformSampler",
    "calibrate_supernet",
    "derive",
    "evolutionary_search",
    "exhaustive_search",
    "extract_potential",
    "front",
    "gradient_matching",
    "hidden_state_correlation",
    "joint_mask",
    "kendall_tau",
    "message_passing_flops",
    "optuna_search",
    "partition_by_cost",
    "prune",
    "random_search",
    "rank_report",
    "regret",
    "select_student",
    "split_choice",
    "survival_mask",
]
