"""Interatomic potentials: energies, forces and stresses of molecules and crystals."""

from ponita.tasks.potential.data import RMD17DataModule
from ponita.tasks.potential.rmd17_mixture import RMD17MixtureDataModule
from ponita.tasks.potential.structure_data import StructureDataModule
from ponita.tasks.potential.task import EnergyForceTask

__all__ = ["EnergyForceTask", "RMD17DataModule", "RMD17MixtureDataModule", "StructureDataModule"]
