"""Structures from npz files: the archive of rMD17, and named arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ponita.data.labels import Keys, Units, as_matrix, stress_of_virial
from ponita.data.npz import read_npz
from ponita.data.structures import Structures, make_structures

#: Names under which arrays are looked for, beside those of `Keys`.
NAMES: dict[str, tuple[str, ...]] = {
    "positions": ("positions", "coords", "pos", "R"),
    "numbers": ("numbers", "nuclear_charges", "atomic_numbers", "species", "z", "Z"),
    "counts": ("n_atoms", "counts"),
    "cell": ("cell", "cells", "lattice"),
    "pbc": ("pbc",),
    "energy": ("energy", "energies", "E"),
    "forces": ("forces", "F"),
    "stress": ("stress", "stresses"),
    "virial": ("virial", "virials"),
    "group": ("group", "groups"),
    "head": ("head", "heads"),
}
#: Arrays of the published rMD17 files, which are in kcal/mol.
RMD17 = {"nuclear_charges", "coords", "energies", "forces"}


def read_npz_structures(path: Path, keys: Keys | None = None, units: Units | None = None) -> Structures:
    """Structures of an npz file, in one of two layouts.

    Frames of equal size: positions [G, n, 3] and numbers [n] or [G, n]. Different sizes: positions [N, 3], numbers [N]
    and n_atoms [G]. Then energy [G] or [G, 1], forces as positions, cell [3, 3] or [G, 3, 3], pbc [3] or [G, 3], stress
    [G, 6], [G, 9] or [G, 3, 3]; NaN is a missing label. Other names that are known: see `NAMES`. A file with the names of
    the rMD17 archive is taken to be in kcal/mol where no units are declared.

    Args:
        path: the file.
        keys: names of the labels.
        units: of the file.

    Raises:
        ValueError: for a damaged file, missing arrays, or shapes that do not fit.
    """
    stored = read_npz(path, "fetch or make it again")
    arrays, found = _choose(stored, keys or Keys(), path)
    factors = (units or Units()).factors(energy="kcal/mol" if stored.keys() >= RMD17 else "eV")
    counts, positions, numbers = _atoms(arrays, path)
    num, total = len(counts), int(counts.sum())
    values = {name: _rows(arrays, name, shape, path) for name, shape in _shapes(num).items()}
    if "forces" in arrays:
        values["forces"] = factors["forces"] * _as_shape(arrays["forces"], (total, 3), "forces", path)
    cell = values["cell"]
    if cell is not None:
        values["cell"] = cell = factors["length"] * cell
        if values["pbc"] is None:
            values["pbc"] = np.ones((num, 3), dtype=bool)
    if values["energy"] is not None:
        values["energy"] = factors["energy"] * values["energy"]
    values["stress"] = _stress(arrays, factors, cell, path)
    values |= {name: arrays[name].astype(str) for name in ("group", "head") if name in arrays}
    return make_structures(factors["length"] * positions, numbers, counts, str(path), found=found, **values)


def _choose(stored: dict[str, np.ndarray], keys: Keys, path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by the names used here, and where each label was."""
    arrays, found = {}, {}
    for name, known in NAMES.items():
        given = getattr(keys, name, None)
        if given is not None and given not in stored:
            raise ValueError(f"{path} has no array {given!r} for {name}; it holds {', '.join(sorted(stored))}.")
        key = given or next((key for key in known if key in stored), None)
        if key is not None:
            arrays[name] = stored[key]
            if hasattr(keys, name):
                found[name] = f"array {key}"
    for name in ("positions", "numbers"):
        if name not in arrays:
            raise ValueError(
                f"{path} has no {name} (looked for {', '.join(NAMES[name])}); it holds {', '.join(sorted(stored))}."
            )
    return arrays, found


def _atoms(arrays: dict[str, np.ndarray], path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts [G], positions [N, 3] and numbers [N] of either layout."""
    positions, numbers = arrays["positions"], np.rint(arrays["numbers"]).astype(np.int64)
    if "counts" in arrays:
        return arrays["counts"].astype(np.int64), positions, numbers
    if positions.ndim != 3 or positions.shape[2] != 3:
        raise ValueError(
            f"{path}: positions has shape {positions.shape}; expected [G, n, 3], or [N, 3] together with n_atoms [G]."
        )
    num, size = positions.shape[:2]
    if numbers.shape not in ((size,), (num, size)):
        raise ValueError(f"{path}: numbers has shape {numbers.shape}; expected ({size},) or ({num}, {size}).")
    return np.full(num, size), positions.reshape(-1, 3), np.broadcast_to(numbers, (num, size)).ravel()


def _shapes(num: int) -> dict[str, tuple[int, ...]]:
    return {"cell": (num, 3, 3), "pbc": (num, 3), "energy": (num,)}


def _rows(arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...], path: Path) -> np.ndarray | None:
    """An array with a row for each structure; a single row is that of all."""
    if name not in arrays:
        return None
    array = arrays[name]
    if array.shape == shape[1:] and array.ndim:
        array = np.broadcast_to(array, shape)
    return _as_shape(array, shape, name, path).astype(bool if name == "pbc" else np.float64)


def _as_shape(array: np.ndarray, shape: tuple[int, ...], name: str, path: Path) -> np.ndarray:
    if array.size != np.prod(shape) or array.dtype.kind not in "fiub":
        raise ValueError(f"{path}: {name} has shape {array.shape} and type {array.dtype}; expected numbers {shape}.")
    return array.reshape(shape).copy()


def _stress(
    arrays: dict[str, np.ndarray], factors: dict[str, float], cell: np.ndarray | None, path: Path
) -> np.ndarray | None:
    try:
        if "stress" in arrays:
            return factors["stress"] * as_matrix(arrays["stress"])
        if "virial" in arrays and cell is not None:
            return stress_of_virial(factors["energy"] * as_matrix(arrays["virial"]), np.abs(np.linalg.det(cell)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return None
