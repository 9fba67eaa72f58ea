"""The numbers that molecules are judged by."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import numpy as np

from ponita.data.chemistry.geometry import Distance


@dataclass(frozen=True)
class Reading:
    """Shares, from 0 to 1, by one way of finding bonds. NaN where the denominator is zero or something was not given.

    Attributes:
        atoms_stable: stable atoms of all atoms.
        molecules_stable: molecules with stable atoms only, of all molecules.
        valid: valid molecules of all molecules.
        connected: molecules in one fragment of all molecules.
        unique: different SMILES of the valid molecules.
        novel: SMILES unknown in training, of the different ones.
    """

    atoms_stable: float
    molecules_stable: float
    valid: float
    connected: float
    unique: float
    novel: float

    @property
    def discovered(self) -> float:
        """Molecules that are valid, different and new, of all: valid x unique x novel."""
        return self.valid * self.unique * self.novel


@dataclass(frozen=True, eq=False)
class MoleculeReport:
    """How good M molecules are.

    Attributes:
        num_molecules: M, the denominator of all shares of molecules; those without a verdict count as failures.
        num_atoms: the denominator of stable atoms.
        table: bonds by the distance table, charges ignored: the literature's convention. Valid means that the largest
            fragment sanitises, where missing hydrogens count as implied; its SMILES counts. NaN for other elements.
        perceived: bonds, orders and formal charges by RDKit's perception, kekulised. Valid means that the whole molecule
            sanitises without unpaired electrons or bare hydrogen ions; an atom is stable if its valence is allowed for
            its element and charge.
        strain: kcal/mol, median of the MMFF94 energy that the molecules lose in minimisation.
        num_strained: valid (perceived) molecules with MMFF parameters, which the median is of.
        posebusters: molecules of all that pass all tests of PoseBusters' `mol_fast`; NaN where it was not asked.
        num_timed_out: molecules that reached the time limit.
        num_too_large: molecules above the cap of atoms, which RDKit was not given.
        num_crashed: molecules that ended their worker process otherwise, or raised an unforeseen error.
        geometry: distances of bond lengths and angles from the reference's; empty without a reference.
        seconds: that judging took.
        stable: [M] bool, stable by perceived bonds.
        valid: [M] bool, valid by perceived bonds.
        smiles: M canonical SMILES by perceived bonds, None where not valid.
    """

    num_molecules: int
    num_atoms: int
    table: Reading
    perceived: Reading
    strain: float
    num_strained: int
    posebusters: float
    num_timed_out: int
    num_too_large: int
    num_crashed: int
    geometry: list[Distance]
    seconds: float
    stable: np.ndarray
    valid: np.ndarray
    smiles: list[str | None]


def share(part: int, whole: int) -> float:
    """part / whole, NaN of nothing."""
    return part / whole if whole else float("nan")


def shares(
    atoms: np.ndarray, molecules: np.ndarray, smiles: list[str | None], fragments: np.ndarray, known: Set[str] | None
) -> Reading:
    """A reading of counts.

    Args:
        atoms: [N] bool, stable ones.
        molecules: [M] bool, stable ones.
        smiles: M canonical SMILES, None for molecules that are not valid.
        fragments: [M] number of fragments, 0 where unknown.
        known: SMILES of training in the same canonical form; novelty is NaN without.
    """
    valid = [s for s in smiles if s is not None]
    different = set(valid)
    return Reading(
        atoms_stable=share(int(atoms.sum()), len(atoms)),
        molecules_stable=share(int(molecules.sum()), len(molecules)),
        valid=share(len(valid), len(smiles)),
        connected=share(int((fragments == 1).sum()), len(fragments)),
        unique=share(len(different), len(valid)),
        novel=float("nan") if known is None else share(len(different - known), len(different)),
    )
