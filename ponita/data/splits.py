"""Which structures train, which validate and which test."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

PARTS = ("train", "valid", "test")


@dataclass
class Split:
    """Structures taken out of those of the training files, for validation and test.

    Each of the two parts is chosen by the first of these that is given: its indices, its groups, its size. The rest
    trains. A random split of a trajectory puts nearly equal frames on both sides; split by group, or by file, instead.

    Attributes:
        valid: a fraction below 1, or a number of structures (of groups, with `by="group"`), drawn by `seed`.
        test: the same.
        by: what is drawn: "structure", or "group": whole groups.
        seed: of the drawing.
        valid_groups: names of groups, or patterns such as "*_AIMD".
        test_groups: the same.
        valid_indices: places among the training structures; or a text file with one whole number a line.
        test_indices: the same.
    """

    valid: float = 0.0
    test: float = 0.0
    by: str = "structure"
    seed: int = 0
    valid_groups: list[str] = field(default_factory=list)
    test_groups: list[str] = field(default_factory=list)
    valid_indices: list[int] | str = field(default_factory=list)
    test_indices: list[int] | str = field(default_factory=list)

    def rows(self, group: np.ndarray) -> dict[str, np.ndarray]:
        """Places of each part's structures, sorted.

        Args:
            group: [G] str, group of each structure.

        Returns:
            Arrays under "train", "valid" and "test".

        Raises:
            ValueError: for a split that cannot be made, parts that overlap, or nothing left to train on.
        """
        if self.by not in ("structure", "group"):
            raise ValueError(f"split.by={self.by!r}; expected 'structure' or 'group'.")
        part = np.zeros(len(group), dtype=np.int64)
        given = {name: self._given(name, group) for name in PARTS[1:]}
        for number, name in enumerate(PARTS[1:], start=1):
            _assign(part, given[name], number, name)
        drawn = {name: getattr(self, name) for name in PARTS[1:] if given[name] is None and getattr(self, name)}
        self._draw(part, drawn, group)
        if not (part == 0).any():
            raise ValueError(f"{self} of {len(group)} structures leaves none to train on.")
        return {name: np.flatnonzero(part == number) for number, name in enumerate(PARTS)}

    def _given(self, name: str, group: np.ndarray) -> np.ndarray | None:
        """Rows of a part by its indices or groups."""
        indices, patterns = getattr(self, f"{name}_indices"), getattr(self, f"{name}_groups")
        if len(indices):
            return read_indices(indices, len(group))
        if not patterns:
            return None
        known = np.unique(group).tolist()
        for pattern in patterns:
            if not any(fnmatch(one, pattern) for one in known):
                raise ValueError(f"split.{name}_groups: no group is called {pattern!r}; there are {_listed(known)}.")
        chosen = [one for one in known if any(fnmatch(one, pattern) for pattern in patterns)]
        return np.flatnonzero(np.isin(group, chosen))

    def _draw(self, part: np.ndarray, drawn: dict[str, float], group: np.ndarray) -> None:
        """Assign structures, or groups, that no part has yet, in an order that the seed alone decides."""
        free = np.flatnonzero(part == 0)
        unit = group[free] if self.by == "group" else free
        if self.by == "group" and drawn and (unit == "").any():
            raise ValueError("split.by='group', but structures have no group; name its key with keys.group.")
        units = np.unique(unit)
        order, start = np.random.default_rng(self.seed).permutation(len(units)), 0
        for name, size in drawn.items():
            if size < 0:
                raise ValueError(f"split.{name}={size}; expected a fraction below 1, or a number of {self.by}s.")
            count = max(1, round(size * len(units))) if size < 1 else int(size)
            if start + count >= len(units):
                raise ValueError(f"split.{name}={size} of {len(units)} {self.by}s leaves none to train on.")
            chosen = units[order[start : start + count]]
            part[free[np.isin(unit, chosen)]] = PARTS.index(name)
            start += count


def read_indices(indices: list[int] | str, num_structures: int) -> np.ndarray:
    """Places of structures.

    Args:
        indices: the places, or a text file with one whole number a line.
        num_structures: G; places count from 0.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for something that is no number, a place that does not exist, or one that is named twice.
    """
    if isinstance(indices, str):
        path = Path(indices).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"no file of indices at {path}.")
        try:
            rows = np.array(path.read_text().split(), dtype=np.int64)
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"{path}: expected one whole number a line, the place of a structure ({error})."
            ) from error
    else:
        rows = np.array(indices, dtype=np.int64)
    outside = rows[(rows < 0) | (rows >= num_structures)]
    if outside.size:
        raise ValueError(f"index {outside[0]} of a split is out of range; expected 0 to {num_structures - 1}.")
    if len(np.unique(rows)) != len(rows):
        raise ValueError("a split names a structure twice; expected every index once.")
    return rows


def _assign(part: np.ndarray, rows: np.ndarray | None, number: int, name: str) -> None:
    if rows is None:
        return
    taken = rows[part[rows] != 0]
    if taken.size:
        raise ValueError(f"structure {taken[0]} is both in split.{PARTS[part[taken[0]]]} and split.{name}.")
    part[rows] = number


def _listed(names: list[str], limit: int = 20) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more
