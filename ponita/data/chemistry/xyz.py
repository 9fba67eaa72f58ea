"""Extended xyz files that grow by whole molecules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ponita.data.elements import SYMBOLS
from ponita.data.molecules import Molecules


class XyzWriter:
    """A file in extended xyz, Å, with formal charges where known. Use it as a context, or `close` it.

    Each molecule is written by one call of the system, so the file can be read at any moment, also after a run was killed.

    Args:
        path: file to write.
        append: whether to continue a file that exists; else it starts anew.
    """

    def __init__(self, path: Path | str, append: bool = False) -> None:
        self._file = Path(path).open("ab" if append else "wb", buffering=0)  # noqa: SIM115

    def write(self, molecules: Molecules, fields: Sequence[Mapping[str, float | int | str]] | None = None) -> None:
        """Append molecules.

        Args:
            molecules: to write.
            fields: for each molecule, what its comment line says beside the format.
        """
        for place, molecule in enumerate(molecules):
            self._file.write(xyz_block(molecule, fields[place] if fields else {}).encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> XyzWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def xyz_block(molecule: Molecules, fields: Mapping[str, float | int | str]) -> str:
    """One molecule as text in extended xyz."""
    charges = molecule.charges
    # ASE's name of the column for charges that are given.
    columns = "species:S:1:pos:R:3" + ("" if charges is None else ":initial_charges:R:1")
    extra = "".join(f" {key}={_quoted(value)}" for key, value in fields.items())
    lines = [str(len(molecule.numbers)), f'Properties={columns}{extra} pbc="F F F"']
    for place, (number, xyz) in enumerate(zip(molecule.numbers, molecule.positions.tolist(), strict=True)):
        line = f"{SYMBOLS[number]:<2s} {xyz[0]:14.8f} {xyz[1]:14.8f} {xyz[2]:14.8f}"
        lines.append(line if charges is None else f"{line} {charges[place]:3d}")
    return "\n".join(lines) + "\n"


def _quoted(value: float | int | str) -> str:
    text = str(value).replace('"', "'").replace("\n", " ")
    return text if text and not set(text) & set(" ='") else f'"{text}"'
