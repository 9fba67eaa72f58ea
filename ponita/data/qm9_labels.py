"""Which molecules of QM9 train, validate and test, and with which labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ponita.data.molecules import Molecules
from ponita.data.qm9 import NPZ, QM9, split_qm9
from ponita.data.qm9_targets import ATOMISATION, KCAL_PER_HARTREE, find_target, free_atoms

PARTS = ("train", "valid", "test")
#: Columns whose labels may only train, and may only validate and test.
TRAIN_ONLY, TEST_ONLY = "train_", "test_"
SPLITS = ("auto", "random", "published")


@dataclass
class LabelSplit:
    """How molecules with labels are divided.

    Attributes:
        kind: "random": by the seed; "published": 110,000 train, 10,000 validate and the rest test, by the permutation of
            the paper; "auto": published for PyTorch Geometric's QM9, else random. Where a target has labels that may only
            train and others that may only test, these decide, and the seed divides the latter.
        num_train: molecules that train at most; all that are left where None.
        num_valid: molecules that validate; a tenth where None, and of labels that may only test a fifth.
        num_test: molecules that test; a tenth where None, and of labels that may only test all others.
        seed: of the drawing.
    """

    kind: str = "auto"
    num_train: int | None = None
    num_valid: int | None = None
    num_test: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in SPLITS:
            raise ValueError(f"split.kind={self.kind!r}; expected one of {list(SPLITS)}.")
        for name in ("num_train", "num_valid", "num_test"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"split.{name}={value}; expected at least 1, or null.")


@dataclass(frozen=True, eq=False)
class Labelled:
    """The molecules of a part.

    Attributes:
        rows: [K] their places in the data.
        scalars: [K, S] of the scalar targets in the order given, in their units (eV, D, a0³, a0², cal/mol/K), NaN where
            unknown.
        vectors: [K, V, 3] of the vector targets, D.
    """

    rows: np.ndarray
    scalars: np.ndarray
    vectors: np.ndarray


def split_labels(data: QM9, targets: Sequence[str], split: LabelSplit, root: str = ".") -> dict[str, Labelled]:
    """Divide molecules, and give each part the labels that it may have.

    Args:
        data: the molecules.
        targets: names among `ponita.data.qm9_targets.TARGETS`.
        split: how.
        root: folder of the list of uncharacterised molecules, for the published split.

    Returns:
        Parts under "train", "valid" and "test"; each molecule of a part has one of the labels at least.

    Raises:
        ValueError: for unknown targets, targets without labels, or parts that leave nothing.
    """
    if not targets or len(set(targets)) != len(targets):
        raise ValueError(f"targets={list(targets)}; expected different names, at least one.")
    free = {name: target_values(data, name) for name in targets}
    bound = [name for name, values in free.items() if values is None]
    values = {part: {} for part in PARTS}
    for name in targets:
        for part in PARTS:
            prefix = TRAIN_ONLY if part == "train" else TEST_ONLY
            values[part][name] = target_values(data, name, prefix) if name in bound else free[name]
            if values[part][name] is None:
                raise ValueError(_no_labels(data, name))
    rows = _bound_rows(data, bound, values, split) if bound else _free_rows(data, values["train"], split, root)
    for part in PARTS:
        limit = getattr(split, f"num_{part}")
        rows[part] = rows[part][:limit]
        if not rows[part].size:
            raise ValueError(f"{split} of {data.source} leaves no molecules for {part}; use smaller parts.")
    return {part: _labelled(values[part], rows[part]) for part in PARTS}


def target_values(data: QM9, name: str, prefix: str = "") -> np.ndarray | None:
    """A target in its unit.

    Where a column has atomisation energies, energies are these and the sum of free atoms: total energies in float32, as
    PyTorch Geometric keeps them, are good to 1 meV only.

    Args:
        data: the molecules.
        name: of the target.
        prefix: of the column.

    Returns:
        [M] or [M, 3], NaN where unknown; None if there is no such column, or nothing in it.

    Raises:
        ValueError: for an unknown target.
    """
    target = find_target(name)
    atomisation = data.labels.get(prefix + ATOMISATION[name]) if name in ATOMISATION else None
    if atomisation is not None:
        elements = np.unique(data.molecules.numbers).tolist()
        atoms = composition(data.molecules, elements) @ free_atoms(name, elements)
        return atoms + target.factor / KCAL_PER_HARTREE * atomisation
    values = data.labels.get(prefix + target.column)
    return None if values is None or not np.isfinite(values).any() else target.factor * values


def composition(molecules: Molecules, elements: Sequence[int]) -> np.ndarray:
    """[M, elements] atoms of each element in each molecule, float64.

    Args:
        molecules: M of them.
        elements: atomic numbers of the columns.

    Raises:
        ValueError: for an atom of another element.
    """
    unknown = np.setdiff1d(molecules.numbers, elements)
    if unknown.size:
        raise ValueError(
            f"the molecules have the atomic numbers {unknown.tolist()}, which are not among the elements {list(elements)}."
        )
    running = [np.concatenate([[0], np.cumsum(molecules.numbers == z)]) for z in elements]
    return np.stack([np.diff(one[molecules.ptr]) for one in running], axis=1).astype(np.float64)


def _known(values: Mapping[str, np.ndarray], names: Iterable[str]) -> np.ndarray:
    """[M] bool, molecules that have one of the labels at least."""
    return np.any([np.isfinite(values[name]).reshape(len(values[name]), -1).all(1) for name in names], axis=0)


def _bound_rows(
    data: QM9, bound: Sequence[str], values: Mapping[str, Mapping[str, np.ndarray]], split: LabelSplit
) -> dict[str, np.ndarray]:
    """Molecules whose labels may only test are divided in two; those with any other label train."""
    if split.kind == "published":
        raise ValueError(
            f"split.kind='published', but {data.source} has labels of {', '.join(bound)} that may only train and others that "
            "may only test; use 'auto'."
        )
    held = np.zeros(len(data), dtype=bool)
    for name, column in data.labels.items():
        if name.startswith(TEST_ONLY):
            held |= np.isfinite(column).reshape(len(column), -1).all(1)
    order = _shuffled(np.flatnonzero(held & _known(values["test"], bound)), split.seed)
    num_valid = len(order) // 5 if split.num_valid is None else split.num_valid
    train = _shuffled(np.flatnonzero(~held & _known(values["train"], values["train"])), split.seed)
    return {"train": train, "valid": order[:num_valid], "test": order[num_valid:]}


def _free_rows(data: QM9, values: Mapping[str, np.ndarray], split: LabelSplit, root: str) -> dict[str, np.ndarray]:
    known = _known(values, values)
    if split.kind == "published" or (split.kind == "auto" and not _is_npz(data)):
        rows = split_qm9(data, published=True, root=root)
        return {part: _shuffled(rows[part][known[rows[part]]], split.seed) for part in PARTS}
    order = _shuffled(np.flatnonzero(known), split.seed)
    tenth = max(len(order) // 10, 1)
    num_valid, num_test = (tenth if number is None else number for number in (split.num_valid, split.num_test))
    ends = (num_valid, num_valid + num_test)
    return {"valid": order[: ends[0]], "test": order[ends[0] : ends[1]], "train": order[ends[1] :]}


def _is_npz(data: QM9) -> bool:
    return data.source.endswith(NPZ)


def _shuffled(rows: np.ndarray, seed: int) -> np.ndarray:
    return rows[np.random.default_rng(seed).permutation(len(rows))]


def _labelled(values: Mapping[str, np.ndarray], rows: np.ndarray) -> Labelled:
    of_part = {name: column[rows] for name, column in values.items()}
    scalars = [column for column in of_part.values() if column.ndim == 1]
    vectors = [column for column in of_part.values() if column.ndim == 2]
    none = np.zeros((len(rows), 0))
    return Labelled(
        rows,
        np.stack(scalars, axis=1) if scalars else none,
        np.stack(vectors, axis=1) if vectors else none.reshape(len(rows), 0, 3),
    )


def _no_labels(data: QM9, name: str) -> str:
    target = find_target(name)
    has = sorted(data.labels)
    missing = [p + target.column for p in ("", TRAIN_ONLY, TEST_ONLY) if p + target.column not in has]
    return (
        f"{data.source} has no labels to train and to test {name!r} with: it has no column {', '.join(missing)}. Expected "
        f"{target.column!r}, or {TRAIN_ONLY + target.column!r} and {TEST_ONLY + target.column!r}; there are "
        f"{', '.join(has) or 'no labels'}. PyTorch Geometric's QM9 has all twelve scalar targets: source=pyg."
    )
