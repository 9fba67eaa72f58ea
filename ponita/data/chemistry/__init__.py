"""What can be said of molecules from their geometry alone: bonds by a distance table, valences, lengths and angles."""

from ponita.data.chemistry.distances import Bonds, has_table, table_bonds
from ponita.data.chemistry.geometry import angles, compare_geometry, lengths, wasserstein
from ponita.data.chemistry.report import MoleculeReport, Reading, shares
from ponita.data.chemistry.valences import Stability, table_stability, valences_allowed
from ponita.data.chemistry.xyz import XyzWriter

__all__ = [
    "Bonds",
    "MoleculeReport",
    "Reading",
    "Stability",
    "XyzWriter",
    "angles",
    "compare_geometry",
    "has_table",
    "lengths",
    "shares",
    "table_bonds",
    "table_stability",
    "valences_allowed",
    "wasserstein",
]
