"""Properties of molecules: QM9's twelve targets, and dipole vectors."""

from ponita.tasks.property.data import QM9DataModule
from ponita.tasks.property.task import PropertyTask

__all__ = ["PropertyTask", "QM9DataModule"]
