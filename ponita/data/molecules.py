"""Molecules without labels, as flat arrays: what a generator makes and what its samples are judged by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ponita.data.structures import runs, to_ptr


@dataclass(frozen=True, eq=False)
class Molecules:
    """M molecules of N atoms in all.

    Attributes:
        numbers: [N] int64 atomic numbers.
        positions: [N, 3] Å, float32 or float64.
        ptr: [M + 1] int64; molecule m has the atoms ptr[m]:ptr[m + 1].
        charges: [N] int64 formal charges in elementary charges, or None where nothing is known of them.
    """

    numbers: np.ndarray
    positions: np.ndarray
    ptr: np.ndarray
    charges: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ptr) - 1

    @property
    def counts(self) -> np.ndarray:
        """[M] atoms of each molecule."""
        return np.diff(self.ptr)

    @property
    def molecule(self) -> np.ndarray:
        """[N] molecule of each atom."""
        return np.repeat(np.arange(len(self)), self.counts)

    def __iter__(self) -> Iterator[Molecules]:
        """The molecules one by one, each as molecules of length one."""
        for first, end in zip(self.ptr[:-1], self.ptr[1:], strict=True):
            charges = None if self.charges is None else self.charges[first:end]
            yield Molecules(self.numbers[first:end], self.positions[first:end], to_ptr([end - first]), charges)

    def take(self, rows: np.ndarray | Sequence[int]) -> Molecules:
        """Some of the molecules.

        Args:
            rows: [K] places in any order (negative ones count from the end), or a mask [M] bool.
        """
        rows = np.arange(len(self))[np.asarray(rows, dtype=None if len(rows) else np.int64)]
        atoms, counts = runs(self.ptr, rows)
        charges = None if self.charges is None else self.charges[atoms]
        return Molecules(self.numbers[atoms], self.positions[atoms], to_ptr(counts), charges)

    @classmethod
    def from_list(
        cls,
        numbers: Sequence[Sequence[int] | np.ndarray],
        positions: Sequence[np.ndarray],
        charges: Sequence[Sequence[int] | np.ndarray] | None = None,
    ) -> Molecules:
        """Molecules of arrays for each molecule.

        Args:
            numbers: M arrays [n] of atomic numbers.
            positions: M arrays [n, 3] in Å.
            charges: M arrays [n] of formal charges, or None.

        Raises:
            ValueError: for shapes that do not fit.
        """
        counts = [len(one) for one in numbers]
        for place, (count, xyz) in enumerate(zip(counts, positions, strict=True)):
            if np.shape(xyz) != (count, 3):
                raise ValueError(
                    f"molecule {place} has {count} numbers and positions {np.shape(xyz)}; expected ({count}, 3)."
                )
        return make_molecules(
            np.concatenate([np.zeros(0, np.int64), *map(np.asarray, numbers)]),
            np.concatenate([np.zeros((0, 3), np.float32), *map(np.asarray, positions)]),
            counts,
            None if charges is None else np.concatenate([np.zeros(0, np.int64), *map(np.asarray, charges)]),
        )


def make_molecules(
    numbers: np.ndarray, positions: np.ndarray, counts: Sequence[int] | np.ndarray, charges: np.ndarray | None = None
) -> Molecules:
    """Molecules of flat arrays, checked.

    Args:
        numbers: [N] atomic numbers.
        positions: [N, 3] Å.
        counts: [M] atoms of each molecule.
        charges: [N] formal charges, or None.

    Raises:
        ValueError: for shapes that do not fit, elements that do not exist, or molecules without atoms.
    """
    numbers, positions, ptr = np.asarray(numbers, dtype=np.int64), np.asarray(positions), to_ptr(counts)
    if not np.issubdtype(positions.dtype, np.floating):
        positions = positions.astype(np.float64)
    charges = None if charges is None else np.asarray(charges, dtype=np.int64)
    if len(ptr) > 1 and np.diff(ptr).min() < 1:
        raise ValueError(f"molecule {int(np.diff(ptr).argmin())} has no atoms; expected at least one.")
    shapes = {
        "numbers": (numbers, (ptr[-1],)),
        "positions": (positions, (ptr[-1], 3)),
        "charges": (charges, (ptr[-1],)),
    }
    for name, (value, shape) in shapes.items():
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} has shape {value.shape}; expected {tuple(map(int, shape))}, as the counts say.")
    wrong = (numbers < 1) | (numbers > 118)
    if wrong.any():
        raise ValueError(f"atomic number {numbers[wrong][0]}; expected 1 to 118.")
    return Molecules(numbers, positions, ptr, charges)


def join(parts: Iterable[Molecules]) -> Molecules:
    """Several sets of molecules as one, in their order; charges survive where all parts have them."""
    parts = list(parts)
    charges = [part.charges for part in parts]
    return Molecules(
        np.concatenate([np.zeros(0, np.int64), *(part.numbers for part in parts)]),
        np.concatenate([part.positions for part in parts] or [np.zeros((0, 3))]),
        to_ptr(np.concatenate([part.counts for part in parts] or [np.zeros(0)])),
        None if not parts or any(c is None for c in charges) else np.concatenate(charges),
    )
