"""Networks, potentials and their checkpoints."""

from ponita.models.average import GridAverage
from ponita.models.checkpoint import load, save
from ponita.models.ponita import Output, Ponita
from ponita.models.potential import EnergyForces, EnergyForcesStress, Potential, voigt
from ponita.models.property_model import Properties, PropertyModel
from ponita.models.reference import load_reference_checkpoint

__all__ = [
    "EnergyForces",
    "EnergyForcesStress",
    "GridAverage",
    "Output",
    "Ponita",
    "Potential",
    "Properties",
    "PropertyModel",
    "load",
    "load_reference_checkpoint",
    "save",
    "voigt",
]
