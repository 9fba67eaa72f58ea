"""RDKit molecules from numbers and positions: which atoms are bonded, in which order, with which charges."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds

from ponita.data.chemistry import table_bonds
from ponita.data.molecules import Molecules

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Atoms that RDKit is given at most: the search for bond orders grows exponentially.
MAX_ATOMS = 200
#: Atoms are bonded below this multiple of their covalent radii's sum. RDKit's own 1.3 bonds across the small rings and
#: cages of QM9 and then fails on 6 % of its molecules; with 1.15 it fails on none of 1000.
COVALENT_FACTOR = 1.15
#: Steps after which RDKit gives up on bond orders; it has no limit of its own.
MAX_ITERATIONS = 20_000

_ORDERS = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}


def to_mol(molecule: Molecules) -> Chem.Mol:
    """One molecule with bonds, as `perceive` finds them; atoms that are close are bonded singly where it finds none.

    Args:
        molecule: one.

    Returns:
        a molecule with a conformer in Å. Ask `mol.HasProp("fault")` whether the orders could not be found, and why.
    """
    try:
        return perceive(molecule)
    except ValueError as error:
        mol = connected(molecule)
        mol.SetProp("fault", str(error))
        return mol


def perceive(molecule: Molecules) -> Chem.Mol:
    """One molecule with bond orders and formal charges, sanitised.

    The atoms are first connected by distance. Orders and charges are RDKit's (xyz2mol, Kim and Kim 2015), for the total
    charge of `molecule.charges`, zero where unknown. Where no closed-shell structure has it, unpaired electrons are set.
    This can take long for strange geometries: call it with a time limit (`ponita.data.workers`).

    Args:
        molecule: one, of at most `MAX_ATOMS` atoms.

    Raises:
        ValueError: if there are too many atoms, or no bond orders fit.
    """
    charge = 0 if molecule.charges is None else int(molecule.charges.sum())
    faults = []
    for charged in (True, False):
        mol = Chem.RWMol(connected(molecule))
        try:
            with quiet():
                rdDetermineBonds.DetermineBondOrders(
                    mol, charge=charge, allowChargedFragments=charged, embedChiral=False, maxIterations=MAX_ITERATIONS
                )
                if not charged:
                    pair_electrons(mol)
                Chem.SanitizeMol(mol)
        except (ValueError, RuntimeError) as error:  # RuntimeError: the limit of iterations
            faults.append(str(error).splitlines()[0])
            continue
        if Chem.GetFormalCharge(mol) == charge:
            return mol.GetMol()
        faults.append(f"the formal charges add up to {Chem.GetFormalCharge(mol)}")
    raise ValueError(f"no bond orders fit these atoms at charge {charge}: {faults[0]}")


def pair_electrons(mol: Chem.RWMol) -> None:
    """Raise bond orders between neighbours that both have unpaired electrons, until there are none.

    Where RDKit finds no closed shell it leaves more electrons unpaired than it must: it reads the vinyl radical as a carbene.
    Atoms with the fewest such neighbours go first (Karp and Sipser 1981), which leaves as few over as possible on chains and
    rings.
    """
    mol.UpdatePropertyCache(strict=False)
    Chem.AssignRadicals(mol)
    spare = [atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()]
    bonds = {(b.GetBeginAtomIdx(), b.GetEndAtomIdx()): int(b.GetBondTypeAsDouble()) for b in mol.GetBonds()}
    while free := [pair for pair, order in bonds.items() if order < 3 and spare[pair[0]] and spare[pair[1]]]:
        degree = np.bincount(np.ravel(free))
        first, second = min(free, key=lambda pair: sorted(degree[list(pair)]))
        bonds[first, second] += 1
        spare[first] -= 1
        spare[second] -= 1
    for (first, second), order in bonds.items():
        mol.GetBondBetweenAtoms(first, second).SetBondType(_ORDERS[order])


def connected(molecule: Molecules) -> Chem.Mol:
    """One molecule with all bonds single and no hydrogens implied, not sanitised; arguments as those of `perceive`."""
    count = len(molecule.numbers)
    if len(molecule) != 1:
        raise ValueError(f"{len(molecule)} molecules; expected one: take([row]) of them.")
    if count > MAX_ATOMS:
        raise ValueError(f"a molecule of {count} atoms; at most {MAX_ATOMS} are given to RDKit.")
    mol = skeleton(molecule, implicit=False)
    with quiet():
        rdDetermineBonds.DetermineConnectivity(mol, useVdw=True, covFactor=COVALENT_FACTOR)
    return mol


def skeleton(molecule: Molecules, implicit: bool) -> Chem.RWMol:
    """Atoms with positions and no bonds.

    Args:
        molecule: one.
        implicit: whether RDKit may think missing hydrogens into it.
    """
    mol, conformer = Chem.RWMol(), Chem.Conformer(len(molecule.numbers))
    for place, (number, xyz) in enumerate(zip(molecule.numbers.tolist(), molecule.positions.tolist(), strict=True)):
        atom = Chem.Atom(number)
        atom.SetNoImplicit(not implicit)
        mol.AddAtom(atom)
        conformer.SetAtomPosition(place, xyz)
    conformer.Set3D(True)
    mol.AddConformer(conformer)
    return mol


def table_mol(molecule: Molecules) -> Chem.Mol:
    """One molecule with the bonds of the distance table, without charges, not sanitised.

    Args:
        molecule: one, of H, C, N, O and F.

    Raises:
        ValueError: for other elements.
    """
    mol = skeleton(molecule, implicit=True)
    bonds = table_bonds(molecule)
    for (first, second), order in zip(bonds.pairs.tolist(), bonds.orders.tolist(), strict=True):
        mol.AddBond(first, second, _ORDERS[order])
    return mol.GetMol()


def covalent_bonds(molecules: Molecules, alone: bool = False) -> np.ndarray:
    """Edges of networks that pass messages along covalent bonds, both directions of each.

    Only the connection is needed for that, so this takes a fraction of a millisecond a molecule and cannot hang.

    Args:
        molecules: M, each of at most `MAX_ATOMS` atoms.
        alone: whether atoms without a bond are accepted in molecules of several.

    Returns:
        [2, E] int64, senders over receivers, places in the flat arrays of all molecules; by molecule.

    Raises:
        ValueError: for too many atoms, and for an atom without a bond.
    """
    edges = [np.zeros((2, 0), dtype=np.int64)]
    for row, (first, molecule) in enumerate(zip(molecules.ptr[:-1], molecules, strict=True)):
        bonds = connected(molecule).GetBonds()
        pairs = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in bonds], dtype=np.int64).reshape(-1, 2)
        bare = np.setdiff1d(np.arange(len(molecule.numbers)), pairs)
        if len(bare) and len(molecule.numbers) > 1 and not alone:
            raise ValueError(
                f"molecule {row}: atom {bare[0]} (atomic number {molecule.numbers[bare[0]]}) is bonded to none; check that "
                "positions are in Å, pass alone=True, or use a radius graph."
            )
        edges.append(first + np.concatenate([pairs, pairs[:, ::-1]]).T)
    return np.concatenate(edges, axis=1)


@contextmanager
def quiet() -> Iterator[None]:
    """Without RDKit's messages: its exceptions say the same."""
    block = rdBase.BlockLogs()
    try:
        yield
    finally:
        del block
