"""Molecules made from noise, with the elements and sizes of those in QM9."""

from ponita.tasks.diffusion.data import MoleculeDataModule
from ponita.tasks.diffusion.task import DiffusionTask

__all__ = ["DiffusionTask", "MoleculeDataModule"]
