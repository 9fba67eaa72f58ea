"""The files that samples are written to."""

from __future__ import annotations

from pathlib import Path

from ponita.data.chemistry import XyzWriter
from ponita.data.molecules import Molecules

FORMATS = (".sdf", ".xyz")


class Output:
    """A file of molecules that grows by whole ones, by its suffix. Use it as a context.

    Args:
        path: .sdf: with bonds as RDKit perceives them; .xyz: extended xyz.

    Raises:
        ValueError: for another suffix.
        ImportError: if RDKit is needed and missing.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix not in FORMATS:
            raise ValueError(f"--out {path}: expected a name that ends with {' or '.join(FORMATS)}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".xyz":
            self._writer = XyzWriter(path)
            return
        from ponita.interfaces.rdkit import SdfWriter

        self._writer = SdfWriter(path)

    def write(self, molecules: Molecules) -> None:
        """Append molecules."""
        self._writer.write(molecules)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()
