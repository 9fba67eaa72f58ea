"""Reading of files of structures, whatever their format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ponita.data.ase_structures import read_ase
from ponita.data.labels import Keys, Units
from ponita.data.lmdb_structures import LmdbStructures
from ponita.data.npz_structures import read_npz_structures
from ponita.data.structures import Structures, concatenate


def read_structures(
    path: str | Path | Sequence[str | Path], keys: Keys | None = None, units: Units | None = None
) -> Structures:
    """Structures and their labels, in eV and Å, in memory.

    Args:
        path: a file, or several, one after another. `.npz`: see `read_npz_structures`; `.lmdb`: what `to_lmdb` wrote;
            `.db`: a database of ASE; anything else: what `ase.io.read` reads (extended xyz, trajectories, output of
            simulation codes).
        keys: names of the labels; the usual ones where None.
        units: of the file; eV and Å where None, but for formats that say otherwise.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is damaged or holds nothing, keys that are not there, or unknown units.
        ImportError: if the format needs a package that is missing.
    """
    if not isinstance(path, str | Path):
        return concatenate([read_structures(one, keys, units) for one in path])
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file of structures at {path}.")
    if path.suffix == ".npz":
        return read_npz_structures(path, keys, units)
    if path.suffix == ".lmdb":
        if keys not in (None, Keys()) or units not in (None, Units()):
            raise ValueError(f"{path} holds labels in eV and Å under their own names; keys and units have no meaning.")
        return concatenate(list(LmdbStructures(path).chunks()))
    return read_ase(path, keys, units)
