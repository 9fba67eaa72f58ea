"""Data sets, units and batching: no training logic."""

from ponita.data.ase_structures import from_ase
from ponita.data.atomic import replacing
from ponita.data.batching import collate
from ponita.data.labels import Keys, Units
from ponita.data.lmdb_structures import LmdbStructures, to_lmdb
from ponita.data.nbody import load_nbody
from ponita.data.reading import read_structures
from ponita.data.rmd17 import load_rmd17, load_split
from ponita.data.splits import Split
from ponita.data.structures import Structures, concatenate, make_structures
from ponita.data.superpixels import load_superpixels

__all__ = [
    "Keys",
    "LiftEdges",
    "LmdbStructures",
    "PositionOrientation",
    "Split",
    "Structures",
    "Units",
    "collate",
    "concatenate",
    "from_ase",
    "load_nbody",
    "load_rmd17",
    "load_split",
    "load_superpixels",
    "make_structures",
    "read_structures",
    "replacing",
    "to_lmdb",
]


def __getattr__(name: str) -> type:
    if name not in ("LiftEdges", "PositionOrientation"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ponita.data import transforms  # here, since importing torch_geometric takes seconds

    return getattr(transforms, name)
