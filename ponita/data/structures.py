"""Molecules and crystals of different sizes as flat arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

#: Arrays with a row for each atom; the others have one for each structure.
OF_ATOMS = ("positions", "numbers", "forces")
LABELS = ("energy", "forces", "stress")


@dataclass(frozen=True, eq=False)
class Structures:
    """G structures of N atoms in all, in eV and Å. A label that a structure does not have is NaN.

    Attributes:
        positions: [N, 3] Å.
        numbers: [N] int64 atomic numbers.
        ptr: [G + 1] int64; structure g has the atoms ptr[g]:ptr[g + 1].
        cell: [G, 3, 3] Å, rows the cell vectors; zero where there are none.
        pbc: [G, 3] bool, periodic directions.
        energy: [G] eV, total energy.
        forces: [N, 3] eV/Å.
        stress: [G, 3, 3] eV/Å³, (1/V) dE/dstrain: positive in tension.
        group: [G] str, what belongs together (a trajectory, a kind of configuration); empty where unknown.
        head: [G] str, level of theory of the labels; empty where there is only one.
        files: where the structures were read from.
        file: [G] int64, place of each structure's file in `files`.
        index: [G] int64, place of each structure in its file.
        found: for each label, where it was found, in words.
    """

    positions: np.ndarray
    numbers: np.ndarray
    ptr: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    energy: np.ndarray
    forces: np.ndarray
    stress: np.ndarray
    group: np.ndarray
    head: np.ndarray
    files: tuple[str, ...]
    file: np.ndarray
    index: np.ndarray
    found: dict[str, str]

    def __len__(self) -> int:
        return len(self.energy)

    @cached_property
    def counts(self) -> np.ndarray:
        """[G] atoms of each structure."""
        return np.diff(self.ptr)

    @cached_property
    def structure(self) -> np.ndarray:
        """[N] structure of each atom."""
        return np.repeat(np.arange(len(self)), self.counts)

    @cached_property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, in ascending order."""
        return tuple(np.unique(self.numbers).tolist())

    @cached_property
    def has(self) -> dict[str, np.ndarray]:
        """Which structures have an "energy", "forces" and a "stress": [G] bool each."""
        atoms = np.isfinite(self.forces).all(1)
        forces = np.bincount(self.structure[~atoms], minlength=len(self)) == 0
        # A stress is a derivative by the cell; formats write zeros for molecules.
        stress = np.isfinite(self.stress).all((1, 2)) & self.pbc.any(1) & (self.volume > 0)
        return {"energy": np.isfinite(self.energy), "forces": forces, "stress": stress}

    @property
    def has_any(self) -> dict[str, bool]:
        """Whether any structure has an "energy", "forces" and a "stress"."""
        return {label: bool(has.any()) for label, has in self.has.items()}

    @property
    def periodic(self) -> bool:
        """Whether any structure has periodic directions."""
        return bool(self.pbc.any())

    @property
    def heads(self) -> tuple[str, ...]:
        """Levels of theory that occur, sorted."""
        return tuple(np.unique(self.head).tolist())

    @cached_property
    def volume(self) -> np.ndarray:
        """[G] Å³; of the cell as given, so zero where there is none."""
        return np.abs(np.linalg.det(self.cell))

    def name(self, structure: int) -> str:
        """Where a structure was read: its file, and its place there."""
        return f"{self.files[self.file[structure]]}, structure {self.index[structure]}"

    def composition(self, elements: Sequence[int] | None = None) -> np.ndarray:
        """[G, elements] atoms of each element in each structure, float64.

        Args:
            elements: atomic numbers of the columns; those of the structures where None.

        Raises:
            ValueError: for an atom of another element.
        """
        elements = np.array(self.elements if elements is None else elements)
        unknown = np.setdiff1d(self.numbers, elements)
        if unknown.size:
            raise ValueError(f"atomic numbers {unknown.tolist()} are not among the elements {elements.tolist()}.")
        order = np.argsort(elements)
        column = order[np.searchsorted(elements[order], self.numbers)]
        counts = np.zeros((len(self), len(elements)))
        np.add.at(counts, (self.structure, column), 1.0)
        return counts

    def take(self, rows: np.ndarray | Sequence[int]) -> Structures:
        """Some of the structures.

        Args:
            rows: [K] places, in any order.
        """
        rows = np.asarray(rows, dtype=np.int64)
        atoms, counts = runs(self.ptr, rows)
        values = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                values[field.name] = value[atoms if field.name in OF_ATOMS else rows] if field.name != "ptr" else value
        values["ptr"] = to_ptr(counts)
        return replace(self, **values)

    def chunks(self, size: int = 1000) -> Iterator[Structures]:
        """The structures in parts of at most `size`."""
        for first in range(0, len(self), size):
            yield self.take(np.arange(first, min(first + size, len(self))))


def runs(ptr: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places ptr[r]:ptr[r + 1] of all rows r, one run after another, and the lengths of the runs."""
    counts = ptr[rows + 1] - ptr[rows]
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(ptr[rows] - before, counts), counts


def to_ptr(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """[G] -> [G + 1] int64, where each run starts, and the end."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def make_structures(
    positions: np.ndarray, numbers: np.ndarray, counts: Sequence[int] | np.ndarray, source: str = "", **values: object
) -> Structures:
    """Structures of what is known of them; what is not given is missing.

    Args:
        positions: [N, 3] Å.
        numbers: [N].
        counts: [G] atoms of each structure.
        source: name of their file.
        **values: other fields of `Structures`.

    Raises:
        ValueError: for shapes that do not fit, elements that do not exist, or positions that are not finite.
    """
    ptr, num = to_ptr(counts), len(counts)
    given = {
        "positions": np.asarray(positions, dtype=np.float64),
        "numbers": np.asarray(numbers, dtype=np.int64),
        "cell": np.zeros((num, 3, 3)),
        "pbc": np.zeros((num, 3), dtype=bool),
        "energy": np.full(num, np.nan),
        "forces": np.full((ptr[-1], 3), np.nan),
        "stress": np.full((num, 3, 3), np.nan),
        "group": np.full(num, ""),
        "head": np.full(num, ""),
        "file": np.zeros(num, dtype=np.int64),
        "index": np.arange(num),
    }
    given |= {name: value for name, value in values.items() if value is not None}
    found = given.pop("found", {})
    structures = Structures(ptr=ptr, files=tuple(given.pop("files", (source,))), found=dict(found), **given)
    _check(structures)
    return structures


def concatenate(parts: Sequence[Structures]) -> Structures:
    """Several sets of structures as one, in their order.

    Raises:
        ValueError: for no parts.
    """
    if not parts:
        raise ValueError("no structures to join; expected at least one set of them.")
    values = {}
    for field in fields(Structures):
        if field.name not in ("ptr", "files", "file", "found"):
            values[field.name] = np.concatenate([getattr(part, field.name) for part in parts])
    files = tuple(dict.fromkeys(name for part in parts for name in part.files))
    places = [np.array([files.index(name) for name in part.files])[part.file] for part in parts]
    found: dict[str, str] = {}
    for part in parts:
        found |= {name: words for name, words in part.found.items() if name not in found}
    counts = np.concatenate([part.counts for part in parts])
    return Structures(ptr=to_ptr(counts), files=files, file=np.concatenate(places), found=found, **values)


def _check(s: Structures) -> None:
    atoms, num = int(s.ptr[-1]), len(s.ptr) - 1
    shapes = {name: (atoms, 3) for name in ("positions", "forces")} | {"numbers": (atoms,)}
    shapes |= {"cell": (num, 3, 3), "pbc": (num, 3), "energy": (num,), "stress": (num, 3, 3)}
    shapes |= {name: (num,) for name in ("group", "head", "file", "index")}
    for name, shape in shapes.items():
        if getattr(s, name).shape != shape:
            raise ValueError(f"{s.files[0]}: {name} has shape {getattr(s, name).shape}; expected {shape}.")
    if num and int(s.counts.min()) < 1:
        raise ValueError(f"{s.name(int(s.counts.argmin()))} has no atoms; expected at least one.")
    wrong = (s.numbers < 1) | (s.numbers > 118)
    if wrong.any():
        where = s.name(int(s.structure[wrong][0]))
        raise ValueError(f"{where} has the atomic number {s.numbers[wrong][0]}; expected 1 to 118.")
    for name, bad in (("positions", ~np.isfinite(s.positions).all(1)), ("cell", ~np.isfinite(s.cell).all((1, 2)))):
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise ValueError(f"{s.name(int(s.structure[first]) if name == 'positions' else first)}: {name} not finite.")
