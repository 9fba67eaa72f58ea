"""Molecules with real geometries, made by RDKit."""

from __future__ import annotations

import numpy as np

from ponita.data.molecules import Molecules


def embedded(smiles: str, charged: bool = False) -> Molecules:
    """One molecule with all hydrogens, embedded with a fixed seed and relaxed by MMFF94.

    Args:
        smiles: of one connected molecule, which MMFF94 has parameters for.
        charged: whether to give its formal charges.
    """
    from rdkit import Chem
    from rdkit.Chem import AllChem

    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=7) == 0
    assert AllChem.MMFFOptimizeMolecule(mol, maxIters=2000) == 0
    charges = [np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()])] if charged else None
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    return Molecules.from_list([numbers], [mol.GetConformer().GetPositions()], charges)


def placed(symbols: str, positions: list[list[float]]) -> Molecules:
    """One molecule by hand: a letter for each atom, and positions in Å."""
    numbers = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9, "S": 16}
    return Molecules.from_list([[numbers[letter] for letter in symbols]], [np.array(positions, dtype=float)])


def carbon_monoxide() -> Molecules:
    """CO at its bond length of 1.128 Å."""
    return placed("CO", [[0, 0, 0], [1.128, 0, 0]])


def methyl() -> Molecules:
    """The planar radical CH3."""
    half = 1.079 / 2
    return placed("CHHH", [[0, 0, 0], [2 * half, 0, 0], [-half, half * 3**0.5, 0], [-half, -half * 3**0.5, 0]])


def water(offset: float = 0.0) -> Molecules:
    """H2O, moved along z."""
    return placed("OHH", [[0, 0, offset], [0.96, 0, offset], [-0.24, 0.93, offset]])


def side_by_side(*molecules: Molecules) -> Molecules:
    """Molecules as the fragments of one."""
    return Molecules.from_list(
        [np.concatenate([m.numbers for m in molecules])], [np.concatenate([m.positions for m in molecules])]
    )


def scrambled(count: int = 12, seed: int = 0) -> Molecules:
    """Carbon and hydrogen thrown into a box of 3 Å: no molecule at all."""
    generator = np.random.default_rng(seed)
    return Molecules.from_list([generator.choice([1, 6], count)], [3 * generator.random((count, 3))])
