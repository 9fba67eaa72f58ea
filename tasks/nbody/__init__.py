"""Charged particles: where are they one time unit later?"""

from ponita.tasks.nbody.data import NBodyDataModule
from ponita.tasks.nbody.task import NBodyTask

__all__ = ["NBodyDataModule", "NBodyTask"]
