"""Structures from what ASE reads: extended xyz, databases, and all other formats of `ase.io`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ponita.data.labels import Keys, Units, as_matrix, stress_of_virial
from ponita.data.structures import Structures, make_structures

if TYPE_CHECKING:
    from ase import Atoms

#: Labels that are looked for, and where their values belong.
LOOKED_FOR = ("energy", "forces", "stress", "virial", "group", "head")


def from_ase(
    frames: Iterable[Atoms], keys: Keys | None = None, units: Units | None = None, source: str = "memory"
) -> Structures:
    """Structures and labels of `ase.Atoms`. Constraints are not applied to forces.

    Args:
        frames: at least one.
        keys: names of the labels.
        units: of the labels and positions; eV and Å where not declared.
        source: what messages call their file.

    Raises:
        ValueError: if there are no frames, if a key that was given is in none of them, or for labels of wrong shapes.
    """
    keys, factors = keys or Keys(), (units or Units()).factors()
    reader = _LabelReader(keys, source)
    rows = [reader.read(atoms) for atoms in frames]
    if not rows:
        raise ValueError(f"{source} holds no structures.")
    reader.check()
    cell = factors["length"] * np.stack([row["cell"] for row in rows])
    stress = factors["stress"] * np.stack([row["stress"] for row in rows])
    virial = factors["energy"] * np.stack([row["virial"] for row in rows])
    from_virial = stress_of_virial(virial, np.abs(np.linalg.det(cell)))
    return make_structures(
        factors["length"] * np.concatenate([row["positions"] for row in rows]),
        np.concatenate([row["numbers"] for row in rows]),
        [len(row["numbers"]) for row in rows],
        source,
        cell=cell,
        pbc=np.stack([row["pbc"] for row in rows]),
        energy=factors["energy"] * np.array([row["energy"] for row in rows]),
        forces=factors["forces"] * np.concatenate([row["forces"] for row in rows]),
        stress=np.where(np.isfinite(stress), stress, from_virial),
        group=np.array([row["group"] for row in rows]),
        head=np.array([row["head"] for row in rows]),
        found=reader.words(),
    )


def read_ase(path: Path, keys: Keys | None, units: Units | None) -> Structures:
    """All structures of a file that `ase.io` reads, or of an ASE database.

    Raises:
        ValueError: if the file cannot be read, and as `from_ase`.
        ImportError: without ase.
    """
    io = require_ase()
    if path.suffix == ".db":
        frames, units = _database(path, units)
    else:
        frames = io.iread(path, index=":")
    return from_ase(_named_errors(frames, path), keys, units, str(path))


def require_ase() -> Any:
    """The module `ase.io`.

    Raises:
        ImportError: without ase, naming the extra that has it.
    """
    try:
        import ase.io
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}; structures are read by ASE: pip install 'ponita[atoms]'") from error
    return ase.io


def _named_errors(frames: Iterator[Atoms], path: Path) -> Iterator[Atoms]:
    """The frames; whatever goes wrong in ASE becomes a ValueError that names the file and the frame."""
    number = 0
    try:
        for atoms in frames:
            yield atoms
            number += 1
    except Exception as error:  # ASE's readers raise anything on damaged files
        raise ValueError(
            f"{path} cannot be read as structures: structure {number} (from 0) is damaged, or the format is not what the "
            f"name says ({type(error).__name__}: {error})"
        ) from error


def _database(path: Path, units: Units | None) -> tuple[Iterator[Atoms], Units | None]:
    """Frames of an ASE database, and the units it declares itself, as those of SchNetPack do."""
    from ase.db import connect

    database = connect(path)
    try:
        metadata = database.metadata
    except Exception as error:
        raise ValueError(f"{path} is damaged, or no ASE database ({error})") from error
    declared = metadata.get("_property_unit_dict") or {}
    if units is None and (declared or metadata.get("_distance_unit")):
        units = Units(
            energy=declared.get("energy"), length=metadata.get("_distance_unit"), forces=declared.get("forces")
        )
    return (row.toatoms(add_additional_information=True) for row in database.select()), units


class _LabelReader:
    """Looks for labels in frames, and remembers where they were."""

    def __init__(self, keys: Keys, source: str) -> None:
        self.keys, self.source = keys, source
        self.places: dict[str, Counter[str]] = {label: Counter() for label in LOOKED_FOR}
        self.seen: Counter[str] = Counter()
        self.number = 0

    def read(self, atoms: Atoms) -> dict[str, Any]:
        """Arrays of a frame, with NaN for labels it does not have."""
        count = len(atoms)
        found = {label: self._find(atoms, label) for label in LOOKED_FOR}
        row = {"positions": atoms.positions, "numbers": atoms.numbers, "cell": atoms.cell.array, "pbc": atoms.pbc}
        row["energy"] = self._shaped("energy", found["energy"], ())
        row["forces"] = self._shaped("forces", found["forces"], (count, 3))
        for label in ("stress", "virial"):
            value = None if found[label] is None else self._matrix(label, found[label])
            row[label] = self._shaped(label, value, (3, 3))
        row |= {label: "" if found[label] is None else str(found[label]) for label in ("group", "head")}
        self.number += 1
        return row

    def check(self) -> None:
        """Raise ValueError if a key that was given is nowhere."""
        for label in LOOKED_FOR:
            key = getattr(self.keys, label)
            if key is not None and not self.places[label]:
                raise ValueError(
                    f"{self.source}: no structure has {label} under {key!r}; it holds {', '.join(sorted(self.seen))}."
                )

    def words(self) -> dict[str, str]:
        """Where each label was found, in how many of the structures."""
        words = {}
        for label, places in self.places.items():
            parts = [f"{place} ({count} of {self.number})" for place, count in places.most_common()]
            if parts:
                words[label] = ", ".join(parts)
        if not {"energy", "forces"} & words.keys():
            words["held"] = ", ".join(sorted(self.seen))
        return words

    def _find(self, atoms: Atoms, label: str) -> Any:
        stores = _stores(atoms)
        if label == LOOKED_FOR[0]:
            self.seen.update(f"{place}[{key}]" for place, store in stores.items() for key in store)
        for key in self.keys.names(label):
            for place, store in stores.items():
                if store.get(key) is not None:
                    self.places[label][f"{place}[{key}]"] += 1
                    return store[key]
        return None

    def _matrix(self, label: str, value: Any) -> np.ndarray:
        try:
            return as_matrix(value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.source}, structure {self.number}: {label}: {error}") from error

    def _shaped(self, label: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
        if value is None:
            return np.full(shape, np.nan)
        try:
            array = np.asarray(value, dtype=np.float64)
        except (ValueError, TypeError):
            array = np.zeros(0)
        if array.shape != shape and array.size == 1 and shape in ((), (1,)):
            array = array.reshape(shape)
        if array.shape != shape:
            raise ValueError(
                f"{self.source}, structure {self.number}: {label} is {str(value)[:60]!r} of shape {list(array.shape)}; "
                f"expected numbers of shape {list(shape)}. Is its key right?"
            )
        return array


def _stores(atoms: Atoms) -> dict[str, dict[str, Any]]:
    """Places of a frame that labels can be in."""
    results = {} if atoms.calc is None else atoms.calc.results
    # An array that every structure has anyway is no label.
    arrays = {key: value for key, value in atoms.arrays.items() if key not in ("numbers", "positions")}
    info = {key: value for key, value in atoms.info.items() if not isinstance(value, dict)}
    nested = {key: atoms.info.get(key) or {} for key in ("data", "key_value_pairs")}
    return {"results": dict(results), "info": info, "arrays": arrays, **nested}
