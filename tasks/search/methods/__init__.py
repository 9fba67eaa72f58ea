"""The ways to train a supernet and to search it, as configurations of `ponita search`."""

from ponita.tasks.search.methods.autodistil import AutoDistil
from ponita.tasks.search.methods.base import Method, Search, Trained
from ponita.tasks.search.methods.enas import Enas
from ponita.tasks.search.methods.fewshot import GradientMatching
from ponita.tasks.search.methods.pada import PaDa
from ponita.tasks.search.methods.shift import Shift
from ponita.tasks.search.methods.simple import Sandwich, Uniform
from ponita.tasks.search.methods.tangle import Tangle

__all__ = [
    "AutoDistil",
    "Enas",
    "GradientMatching",
    "Method",
    "PaDa",
    "Sandwich",
    "Search",
    "Shift",
    "Tangle",
    "Trained",
    "Uniform",
]
