"""Molecules through RDKit: bonds from geometry, SMILES, judgement, files and pictures. Needs `pip install ponita[molecules]`."""

try:
    import rdkit as _rdkit  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(f"{error}: this interface needs RDKit, pip install 'ponita[molecules]'") from error

from ponita.interfaces.rdkit.files import SdfWriter
from ponita.interfaces.rdkit.judging import judge
from ponita.interfaces.rdkit.page import notebook_view, write_page
from ponita.interfaces.rdkit.perception import MAX_ATOMS, covalent_bonds, perceive, table_mol, to_mol
from ponita.interfaces.rdkit.pictures import draw_grid
from ponita.interfaces.rdkit.smiles import SmilesSet, canonical_smiles

__all__ = [
    "MAX_ATOMS",
    "SdfWriter",
    "SmilesSet",
    "canonical_smiles",
    "covalent_bonds",
    "draw_grid",
    "judge",
    "notebook_view",
    "perceive",
    "table_mol",
    "to_mol",
    "write_page",
]
