"""Data sets, units and batching: no training logic."""

from ponita.data.atomic import replacing
from ponita.data.batching import collate
from ponita.data.nbody import load_nbody
from ponita.data.rmd17 import load_rmd17, load_split

__all__ = ["collate", "load_nbody", "load_rmd17", "load_split", "replacing"]
