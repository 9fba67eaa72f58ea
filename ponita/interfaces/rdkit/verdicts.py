"""What RDKit says of one molecule. These functions run in worker processes with a time limit."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers

from ponita.data.chemistry import has_table, valences_allowed
from ponita.data.molecules import Molecules
from ponita.interfaces.rdkit.perception import connected, perceive, quiet, table_mol
from ponita.interfaces.rdkit.smiles import canonical_smiles


class Verdict(NamedTuple):
    """One molecule of n atoms.

    Attributes:
        bonds: [B, 3] int64: two atoms and the kekulised order; order 1 throughout where orders were not found.
        charges: [n] int64 formal charges; zero where not found.
        stable: [n] bool: atoms whose valence is allowed; all False where orders were not found.
        fragments: number of connected parts, by perceived bonds.
        smiles: canonical, None where the molecule is not valid.
        fault: why orders were not found; empty where they were.
        table_smiles: of the largest fragment by the distance table, None where it does not sanitise.
        table_fragments: number of connected parts by the table; 0 for elements that it lacks.
    """

    bonds: np.ndarray
    charges: np.ndarray
    stable: np.ndarray
    fragments: int
    smiles: str | None
    fault: str
    table_smiles: str | None
    table_fragments: int

    @property
    def words(self) -> str:
        """The verdict on the valences, such as "2 unstable atoms"."""
        if self.fault:
            return "no bond orders fit"
        wrong = int((~self.stable).sum())
        return "stable" if not wrong else f"{wrong} unstable atom{'s' * (wrong > 1)}"


def inspect(molecule: Molecules) -> Verdict:
    """Judge one molecule by both readings of its bonds.

    Raises:
        ValueError: for too many atoms.
    """
    table_smiles, table_fragments = read_table(molecule) if has_table(molecule) else (None, 0)
    try:
        mol, fault = perceive(molecule), ""
    except ValueError as error:
        mol, fault = connected(molecule), str(error)
    smiles = None if fault or unpaired(mol) or bare_hydrogen(mol) else canonical_smiles(mol)
    if not fault:
        mol = Chem.Mol(mol)
        Chem.Kekulize(mol, clearAromaticFlags=True)
    bonds = bond_array(mol)
    charges = np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()], dtype=np.int64)
    valences = np.bincount(bonds[:, :2].T.ravel(), np.tile(bonds[:, 2], 2), minlength=len(charges)).astype(np.int64)
    stable = valences_allowed(molecule.numbers, charges, valences) & (fault == "")
    fragments = len(Chem.GetMolFrags(mol))
    return Verdict(bonds, charges, stable, fragments, smiles, fault, table_smiles, table_fragments)


def bond_array(mol: Chem.Mol) -> np.ndarray:
    """[B, 3] int64 two atoms and the order of each bond of a kekulised molecule."""
    rows = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondTypeAsDouble())) for b in mol.GetBonds()]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def unpaired(mol: Chem.Mol) -> int:
    """Unpaired electrons of a sanitised molecule."""
    return sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())


def bare_hydrogen(mol: Chem.Mol) -> bool:
    """Whether a hydrogen is bonded to nothing, which RDKit reads as an ion."""
    return any(atom.GetAtomicNum() == 1 and atom.GetDegree() == 0 for atom in mol.GetAtoms())


def read_table(molecule: Molecules) -> tuple[str | None, int]:
    """SMILES of the largest fragment by the distance table, and the number of fragments."""
    mol = table_mol(molecule)
    parts = Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False)
    largest = max(parts, key=lambda part: part.GetNumAtoms())
    with quiet():
        try:
            Chem.SanitizeMol(largest)
        except ValueError:
            return None, len(parts)
    return canonical_smiles(largest), len(parts)


def strain(molecule: Molecules) -> float:
    """kcal/mol that a valid molecule loses when MMFF94 relaxes it; NaN without parameters or convergence.

    Raises:
        ValueError: if its bonds are not found.
    """
    mol = Chem.Mol(perceive(molecule))
    with quiet():
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
        field = properties and rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties)
        if not field:
            return float("nan")
        field.Initialize()
        before = field.CalcEnergy()
        if field.Minimize(maxIts=2000):
            return float("nan")
        return before - field.CalcEnergy()


def plausible(molecule: Molecules) -> bool:
    """Whether one molecule passes all tests of PoseBusters' `mol_fast`; needs posebusters."""
    table = _buster().bust(mol_pred=[perceive(molecule)])
    return bool(table.to_numpy(dtype=bool).all())


@functools.cache
def _buster() -> object:
    from posebusters import PoseBusters  # optional, and slow to import

    return PoseBusters(config="mol_fast")
