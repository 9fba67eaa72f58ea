"""One SMILES for one constitution, whichever way the molecule came."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rdkit import Chem
from tqdm.auto import tqdm

from ponita.interfaces.rdkit.perception import quiet


def canonical_smiles(molecule: Chem.Mol | str) -> str | None:
    """Canonical SMILES of the constitution: sanitised, hydrogens removed, without stereochemistry.

    A molecule is written and read once more, so those found from geometry and those read from text pass the same
    sanitisation, and equal constitutions have equal SMILES.

    Args:
        molecule: sanitised molecule, or SMILES.

    Returns:
        None where RDKit does not accept it.
    """
    with quiet():
        try:
            if not isinstance(molecule, str):
                molecule = Chem.MolToSmiles(Chem.RemoveHs(molecule), isomericSmiles=False)
            mol = Chem.MolFromSmiles(molecule)
            return None if mol is None else Chem.MolToSmiles(mol, isomericSmiles=False)
        except (ValueError, RuntimeError):
            return None


class SmilesSet(frozenset[str]):
    """Canonical SMILES, such as of training molecules, for the novelty of new ones. Make it once and keep it."""

    @classmethod
    def from_smiles(cls, smiles: Iterable[str], progress: str | None = None) -> SmilesSet:
        """Of SMILES in any form; those that RDKit does not accept are left out.

        Args:
            smiles: such as a column of a table.
            progress: title of a progress bar; none is shown where None.
        """
        found = (canonical_smiles(one) for one in tqdm(smiles, desc=progress, disable=progress is None, leave=False))
        return cls(one for one in found if one is not None)

    def save(self, path: Path | str) -> None:
        """Write one SMILES a line, sorted."""
        Path(path).write_text("".join(f"{one}\n" for one in sorted(self)))

    @classmethod
    def load(cls, path: Path | str) -> SmilesSet:
        """Read what `save` wrote."""
        return cls(Path(path).read_text().split())
