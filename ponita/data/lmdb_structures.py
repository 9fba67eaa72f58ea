"""Sets of structures larger than memory, in an LMDB database: a record of plain numbers for each structure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ponita.data.atomic import replacing
from ponita.data.structures import LABELS, Structures, make_structures

if TYPE_CHECKING:
    from lmdb import Environment, Transaction

FORMAT = 1
MAP_SIZE = 2**40  # bytes of address space, not of disk
#: What stands before the arrays of a record, little-endian.
HEADER = np.dtype(
    [
        *(("atoms", "<i8"), ("cell", "<f8", (3, 3)), ("pbc", "?", (3,)), ("energy", "<f8"), ("stress", "<f8", (3, 3))),
        *(("has_forces", "?"), ("file", "<i8"), ("index", "<i8"), ("group", "<i4"), ("head", "<i4")),
    ]
)


def to_lmdb(structures: Structures | Iterable[Structures], path: Path | str) -> int:
    """Write structures to a database; give an iterable of parts where all of them do not fit into memory.

    Args:
        structures: what to write, in this order.
        path: file to make.

    Returns:
        How many there are.

    Raises:
        ValueError: if the file exists, or there are no structures.
        ImportError: without lmdb.
    """
    path = Path(path)
    if path.exists():
        raise ValueError(f"{path} exists; a database is not written over: remove it, or give another name.")
    parts = [structures] if isinstance(structures, Structures) else structures
    with replacing(path) as temporary:
        environment = require_lmdb().open(str(temporary), subdir=False, map_size=MAP_SIZE, lock=False, sync=False)
        try:
            length = _write(environment, parts)["length"]
            if not length:
                raise ValueError(f"no structures to write to {path}.")
            environment.sync(True)
        finally:
            environment.close()
    return length


class LmdbStructures:
    """Structures of a database, read when they are asked for.

    Args:
        path: file that `to_lmdb` wrote.

    Attributes:
        elements: atomic numbers that occur.
        has_any: for "energy", "forces" and "stress", whether any structure has one.
        periodic: whether any structure has periodic directions.
        files: where the structures were read from.
        found: for each label, where it was found.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is something else, or damaged.
        ImportError: without lmdb.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no database at {self.path}.")
        with self._transaction() as transaction:
            stored = transaction.get(b"summary")
            summary = None if stored is None else json.loads(bytes(stored))
        if summary is None or summary.get("format") != FORMAT:
            raise ValueError(
                f"{self.path} is no database of structures; expected a file that ponita.data.to_lmdb wrote."
            )
        self._length = summary["length"]
        self.elements = tuple(summary["elements"])
        self.has_any: dict[str, bool] = summary["labels"]
        self.periodic: bool = summary["periodic"]
        self.heads: tuple[str, ...] = tuple(summary["heads"])
        self.files, self.found = tuple(summary["files"]), summary["found"]

    def __len__(self) -> int:
        return self._length

    def take(self, rows: np.ndarray | Sequence[int]) -> Structures:
        """Some of the structures.

        Args:
            rows: [K] places, in any order.

        Raises:
            ValueError: for no rows, or a damaged record.
        """
        with self._transaction() as transaction:
            records = [self._record(transaction, int(row)) for row in rows]
        if not records:
            raise ValueError(f"no rows of {self.path} were asked for.")
        return _joined(records, self.files, self.found)

    def chunks(self, size: int = 1000) -> Iterator[Structures]:
        """All structures in parts of at most `size`."""
        for first in range(0, len(self), size):
            yield self.take(range(first, min(first + size, len(self))))

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        """Opened for each batch: a handle must not be opened twice in a process, nor go on in a forked one."""
        lmdb = require_lmdb()
        try:
            environment = lmdb.open(str(self.path), subdir=False, readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            raise ValueError(f"{self.path} is damaged, or no LMDB database ({error}).") from error
        try:
            with environment.begin(buffers=True) as transaction:
                yield transaction
        finally:
            environment.close()

    def _record(self, transaction: Transaction, row: int) -> dict[str, Any]:
        stored = transaction.get(_key(row))
        if stored is None:
            raise ValueError(f"{self.path} has no structure {row}; expected 0 to {len(self) - 1}.")
        return _unpack(bytes(stored))


def require_lmdb() -> Any:
    """The module `lmdb`.

    Raises:
        ImportError: without it, naming the extra that has it.
    """
    try:
        import lmdb
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}; databases larger than memory need it: pip install 'ponita[atoms]'") from error
    return lmdb


def _write(environment: Environment, parts: Iterable[Structures]) -> dict[str, Any]:
    """Write all records, and a summary, which would otherwise take a pass over them; returns the summary."""
    length, files, found = 0, {}, {}
    elements, heads, labels, periodic = set(), set(), dict.fromkeys(LABELS, False), False
    for part in parts:
        places = np.array([files.setdefault(name, len(files)) for name in part.files])
        with environment.begin(write=True) as transaction:
            for row in range(len(part)):
                transaction.put(_key(length + row), _pack(part, row, places))
        length += len(part)
        elements |= set(part.elements)
        heads |= set(part.head.tolist())
        found = {**part.found, **found}
        periodic |= bool(part.pbc.any())
        labels = {label: seen or bool(part.has[label].any()) for label, seen in labels.items()}
    summary = {"format": FORMAT, "length": length, "elements": sorted(elements), "heads": sorted(heads)}
    summary |= {"labels": labels, "periodic": periodic, "files": list(files), "found": found}
    with environment.begin(write=True) as transaction:
        transaction.put(b"summary", json.dumps(summary).encode())
    return summary


def _key(row: int) -> bytes:
    return row.to_bytes(8, "big")


def _pack(part: Structures, row: int, files: np.ndarray) -> bytes:
    atoms = slice(part.ptr[row], part.ptr[row + 1])
    group, head = (str(getattr(part, name)[row]).encode() for name in ("group", "head"))
    header = np.zeros((), dtype=HEADER)
    header["atoms"] = atoms.stop - atoms.start
    for name in ("cell", "pbc", "energy", "stress", "index"):
        header[name] = getattr(part, name)[row]
    header["file"] = files[part.file[row]]
    header["group"], header["head"], header["has_forces"] = len(group), len(head), part.has["forces"][row]
    arrays = [part.numbers[atoms].astype("<i2"), part.positions[atoms].astype("<f8")]
    if header["has_forces"]:
        arrays.append(part.forces[atoms].astype("<f8"))
    return b"".join([header.tobytes(), *(array.tobytes() for array in arrays), group, head])


def _unpack(record: bytes) -> dict[str, Any]:
    header = np.frombuffer(record, HEADER, 1)[0]
    atoms, place = int(header["atoms"]), HEADER.itemsize

    def following(dtype: str, count: int) -> np.ndarray:
        nonlocal place
        array = np.frombuffer(record, dtype, count, place)
        place += array.nbytes
        return array

    row = {"numbers": following("<i2", atoms), "positions": following("<f8", 3 * atoms).reshape(-1, 3)}
    row["forces"] = np.full((atoms, 3), np.nan)
    if header["has_forces"]:
        row["forces"] = following("<f8", 3 * atoms).reshape(-1, 3)
    for name in ("group", "head"):
        row[name] = following("S1", int(header[name])).tobytes().decode()
    return row | {name: header[name] for name in ("cell", "pbc", "energy", "stress", "file", "index")}


def _joined(records: Sequence[dict[str, Any]], files: tuple[str, ...], found: dict[str, str]) -> Structures:
    counts = [len(record["numbers"]) for record in records]
    values = {name: np.stack([record[name] for record in records]) for name in ("cell", "pbc", "stress")}
    values |= {name: np.array([r[name] for r in records]) for name in ("energy", "file", "index", "group", "head")}
    values["forces"] = np.concatenate([record["forces"] for record in records])
    positions, numbers = (np.concatenate([record[name] for record in records]) for name in ("positions", "numbers"))
    return make_structures(positions, numbers, counts, files=files, found=found, **values)
