"""Interatomic potentials: energies and forces of molecules."""

from ponita.tasks.potential.data import RMD17DataModule
from ponita.tasks.potential.task import EnergyForceTask

__all__ = ["EnergyForceTask", "RMD17DataModule"]
