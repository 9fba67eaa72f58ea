"""QM9: 134 thousand molecules of up to nine heavy atoms, B3LYP/6-31G(2df,p).

Source: Ramakrishnan et al., "Quantum chemistry structures and properties of 134 kilo molecules" (2014),
https://doi.org/10.6084/m9.figshare.c.978904, CC0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ponita.data.molecules import Molecules, make_molecules
from ponita.data.npz import read_npz
from ponita.data.qm9_pyg import find_pyg, read_pyg
from ponita.data.uncharacterized import read_uncharacterized

NUM_MOLECULES = 133_885
NPZ = "qm9.npz"
SOURCES = ("auto", "npz", "pyg")
#: Arrays of the npz file that are no labels.
GEOMETRY = ("id", "n_atoms", "numbers", "positions")
#: The split of Gasteiger et al. (2020) that the paper uses: train, validation, and the rest.
PUBLISHED_SIZES, PUBLISHED_SEED = (110_000, 10_000), 42


@dataclass(frozen=True, eq=False)
class QM9:
    """M molecules with what is known of them.

    Attributes:
        molecules: geometries.
        ids: [M] place in the published set, from 1.
        labels: columns [M] or [M, 3] by the names in the file, in the units of QM9 (hartree, debye, bohr³, GHz, cal/mol/K;
            atomisation energies in kcal/mol), NaN where unknown.
        source: where they are from, in words.
    """

    molecules: Molecules
    ids: np.ndarray
    labels: Mapping[str, np.ndarray]
    source: str

    def __len__(self) -> int:
        return len(self.molecules)

    def take(self, rows: np.ndarray) -> QM9:
        """Some of the molecules.

        Args:
            rows: [K] places, or a mask [M] bool.
        """
        labels = {name: values[rows] for name, values in self.labels.items()}
        return QM9(self.molecules.take(rows), self.ids[rows], labels, self.source)

    def heavy_counts(self) -> np.ndarray:
        """[M] atoms other than hydrogen."""
        heavy = np.concatenate([[0], np.cumsum(self.molecules.numbers > 1)])
        return np.diff(heavy[self.molecules.ptr])

    def select(self, max_atoms: int | None = None, max_heavy: int | None = None) -> QM9:
        """Molecules up to a size.

        Args:
            max_atoms: atoms, with hydrogen.
            max_heavy: atoms other than hydrogen.

        Raises:
            ValueError: if none is left.
        """
        keep = np.ones(len(self), dtype=bool)
        if max_atoms is not None:
            keep &= self.molecules.counts <= max_atoms
        if max_heavy is not None:
            keep &= self.heavy_counts() <= max_heavy
        if not keep.any():
            raise ValueError(
                f"none of {len(self)} molecules has at most {max_atoms} atoms and {max_heavy} heavy ones; the smallest has "
                f"{self.molecules.counts.min()}."
            )
        return self if keep.all() else self.take(keep)


def load_qm9(root: str | Path, source: str = "auto") -> QM9:
    """Read the molecules in a folder.

    Args:
        root: folder of `qm9.npz` (flat arrays `id`, `n_atoms`, `numbers`, `positions`, and columns of labels), or of
            PyTorch Geometric's QM9, with `raw/` or `processed/`.
        source: "npz", "pyg", or "auto": the first that is there, in this order.

    Raises:
        FileNotFoundError: if there is neither.
        ValueError: for files that are damaged, and another source.
    """
    if source not in SOURCES:
        raise ValueError(f"source={source!r}; expected one of {list(SOURCES)}.")
    root = Path(root).expanduser()
    if source == "npz" and not (root / NPZ).is_file():
        raise FileNotFoundError(f"no {NPZ} in {root}; name the folder that has it, or use source=pyg.")
    if source != "pyg" and (root / NPZ).is_file():
        return _read_npz(root / NPZ)
    found = find_pyg(root)
    if found is None:
        raise FileNotFoundError(
            f"no {NPZ} in {root}, and no raw/gdb9.sdf or processed/data_v3.pt of PyTorch Geometric. Download the data with "
            f"torch_geometric.datasets.QM9({str(root)!r}), or name another folder."
        )
    numbers, positions, counts, charges, ids, labels = read_pyg(found)
    return QM9(make_molecules(numbers, positions, counts, charges), ids, labels, str(found))


def split_qm9(
    data: QM9, *, published: bool = True, sizes: tuple[int, int] = (1000, 1000), seed: int = 0, root: str | Path = "."
) -> dict[str, np.ndarray]:
    """Places of the molecules of each part, sorted.

    The published split is one of the 130,831 characterised molecules; molecules that are missing here are missing from
    their part.

    Args:
        data: the molecules.
        published: by the published permutation; else at random.
        sizes: of validation and test, where drawn at random.
        seed: of the drawing.
        root: folder where `uncharacterized.txt` is, or `raw/uncharacterized.txt`.

    Returns:
        Arrays under "train", "valid" and "test".

    Raises:
        FileNotFoundError: for the published split without the list of uncharacterised molecules.
        ValueError: for parts that leave nothing.
    """
    part = _published_parts(data.ids, Path(root).expanduser()) if published else _drawn_parts(len(data), sizes, seed)
    rows = {name: np.flatnonzero(part == i) for i, name in enumerate(("train", "valid", "test"))}
    empty = [name for name, chosen in rows.items() if not chosen.size]
    if empty:
        raise ValueError(f"the split of {len(data)} molecules leaves none for {', '.join(empty)}; use smaller parts.")
    return rows


def _published_parts(ids: np.ndarray, root: Path) -> np.ndarray:
    """[M] 0, 1 or 2; -1 for molecules that the published set leaves out."""
    kept = np.setdiff1d(np.arange(1, NUM_MOLECULES + 1), read_uncharacterized(root), assume_unique=True)
    order = np.random.RandomState(PUBLISHED_SEED).permutation(len(kept))
    part = np.full(NUM_MOLECULES + 1, -1)
    ends = np.cumsum((0, *PUBLISHED_SIZES, len(kept) - sum(PUBLISHED_SIZES)))
    for number, (first, end) in enumerate(pairwise(ends)):
        part[kept[order[first:end]]] = number
    return part[ids]


def _drawn_parts(num: int, sizes: tuple[int, int], seed: int) -> np.ndarray:
    if min(sizes) < 1 or sum(sizes) >= num:
        raise ValueError(f"sizes={tuple(sizes)} for validation and test of {num} molecules leave none to train on.")
    order = np.random.default_rng(seed).permutation(num)
    part = np.zeros(num, dtype=np.int64)
    part[order[: sizes[0]]] = 1
    part[order[sizes[0] : sum(sizes)]] = 2
    return part


def _read_npz(path: Path) -> QM9:
    arrays = read_npz(path, "fetch it again.")
    missing = [name for name in GEOMETRY if name not in arrays]
    if missing:
        raise ValueError(f"{path} has no array {', '.join(missing)}; expected {', '.join(GEOMETRY)}.")
    counts, ids = arrays["n_atoms"].astype(np.int64), arrays["id"].astype(np.int64)
    if counts.shape != ids.shape or ids.min(initial=1) < 1 or ids.max(initial=1) > NUM_MOLECULES:
        raise ValueError(f"{path}: expected an id from 1 to {NUM_MOLECULES} for each of {len(counts)} molecules.")
    labels = {name: np.asarray(values) for name, values in arrays.items() if name not in GEOMETRY}
    for name, values in labels.items():
        if len(values) != len(ids):
            raise ValueError(f"{path}: {name} has {len(values)} rows for {len(ids)} molecules.")
    try:
        molecules = make_molecules(arrays["numbers"], arrays["positions"], counts)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return QM9(molecules, ids, labels, str(path))
