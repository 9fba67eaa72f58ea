"""SDF files that grow by whole molecules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rdkit import Chem

from ponita.data.molecules import Molecules
from ponita.data.workers import Workers
from ponita.interfaces.rdkit.judging import borrowed
from ponita.interfaces.rdkit.perception import MAX_ATOMS, skeleton, to_mol


class SdfWriter:
    """A file in SDF with bonds and formal charges where they can be perceived, else atoms alone. Use it as a context.

    Each molecule is written by one call of the system, so the file can be read at any moment, also after a run was killed.

    Args:
        path: file to write.
        workers: processes for RDKit with their time limit; new ones for each `write` where None.
        append: whether to continue a file that exists; else it starts anew.
    """

    def __init__(self, path: Path | str, workers: Workers | None = None, append: bool = False) -> None:
        self._file = Path(path).open("ab" if append else "wb", buffering=0)  # noqa: SIM115
        self._workers = workers

    def write(self, molecules: Molecules, fields: Sequence[Mapping[str, object]] | None = None) -> None:
        """Append molecules.

        Args:
            molecules: to write.
            fields: for each molecule, its data items.
        """
        rows = [(molecule,) for molecule in molecules]
        small = [place for place, (molecule,) in enumerate(rows) if len(molecule.numbers) <= MAX_ATOMS]
        with borrowed(self._workers) as workers:
            outcomes = workers.map(mol_block, [rows[place] for place in small]) if small else []
        blocks = {place: outcome.value for place, outcome in zip(small, outcomes, strict=True)}
        for place, (molecule,) in enumerate(rows):
            block = blocks.get(place) or Chem.MolToMolBlock(skeleton(molecule, implicit=False), kekulize=False)
            items = "".join(_item(name, value) for name, value in (fields[place] if fields else {}).items())
            self._file.write(f"{block}{items}$$$$\n".encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> SdfWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def mol_block(molecule: Molecules) -> str:
    """One molecule as a mol block, kekulised, with bonds of order one where orders are not found."""
    mol = to_mol(molecule)
    return Chem.MolToMolBlock(mol, kekulize=not mol.HasProp("fault"))


def _item(name: str, value: object) -> str:
    text = "\n".join(line for line in str(value).splitlines() if line.strip() and not line.startswith(("$$$$", ">")))
    return f">  <{name}>\n{text}\n\n"
