"""QM9 as PyTorch Geometric downloads and keeps it."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ponita.data.elements import SYMBOLS
from ponita.data.uncharacterized import read_uncharacterized

SDF, TABLE, PROCESSED = Path("raw/gdb9.sdf"), Path("raw/gdb9.sdf.csv"), Path("processed/data_v3.pt")
#: Columns of the table after the name; energies in hartree, atomisation energies in kcal/mol.
COLUMNS = [
    "A",
    "B",
    "C",
    "mu",
    "alpha",
    "homo",
    "lumo",
    "gap",
    "r2",
    "zpve",
    "U0",
    "U",
    "H",
    "G",
    "Cv",
    "u0_atom",
    "u298_atom",
    "h298_atom",
    "g298_atom",
]
#: What PyTorch Geometric multiplied its columns by, in its order.
HARTREE, KCAL = 27.211386246, 0.04336414
FACTORS = {name: HARTREE for name in ["homo", "lumo", "gap", "zpve", "U0", "U", "H", "G"]}
FACTORS |= {name: KCAL for name in COLUMNS if name.endswith("_atom")}


class Arrays(NamedTuple):
    """Flat arrays of M molecules: see `QM9`."""

    numbers: np.ndarray
    positions: np.ndarray
    counts: np.ndarray
    charges: np.ndarray | None
    ids: np.ndarray
    labels: dict[str, np.ndarray]


def find_pyg(root: Path) -> Path | None:
    """The file to read in a folder of PyTorch Geometric's QM9: the original one, since it has charges, or the processed."""
    return next((root / name for name in (SDF, PROCESSED) if (root / name).is_file()), None)


def read_pyg(path: Path) -> Arrays:
    """Molecules that are characterised, with labels in the units of QM9.

    Args:
        path: what `find_pyg` found.

    Raises:
        FileNotFoundError: if the table beside the sdf, or the list of uncharacterised molecules, is missing.
        ValueError: for files that are damaged.
    """
    return _read_sdf(path) if path.name == SDF.name else _read_processed(path)


def _read_sdf(path: Path) -> Arrays:
    table = path.with_name(TABLE.name)
    if not table.is_file():
        raise FileNotFoundError(f"no {table} beside {path.name}; download QM9 again.")
    with table.open(newline="", encoding="utf-8") as file:
        rows = np.array([[float(word) for word in row[1 : len(COLUMNS) + 1]] for row in list(csv.reader(file))[1:]])
    with path.open(encoding="utf-8") as file:
        try:
            read = [_molecule(block) for block in _blocks(file)]
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path} is damaged or was cut short ({error}); download QM9 again.") from error
    if len(read) != len(rows):
        raise ValueError(f"{path} holds {len(read)} molecules and {table.name} {len(rows)} rows; download QM9 again.")
    keep = np.setdiff1d(np.arange(1, len(read) + 1), read_uncharacterized(path.parent))
    numbers, positions, charges = ([part[i - 1] for i in keep] for part in zip(*read, strict=True))
    labels = {name: rows[keep - 1, i] for i, name in enumerate(COLUMNS)}
    counts = np.array([len(one) for one in numbers])
    return Arrays(*map(np.concatenate, (numbers, positions)), counts, np.concatenate(charges), keep, labels)


def _blocks(file: Iterator[str]) -> Iterator[list[str]]:
    """The lines of each molecule, up to the $$$$ after it."""
    block: list[str] = []
    for line in file:
        if line.startswith("$$$$"):
            yield block
            block = []
        else:
            block.append(line)


def _molecule(block: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers, positions (Å) and formal charges of a V2000 block."""
    num = int(block[3][:3])
    words = [line.split() for line in block[4 : 4 + num]]
    numbers = np.array([SYMBOLS.index(word[3]) for word in words])
    positions = np.array([[float(x) for x in word[:3]] for word in words], dtype=np.float32)
    charges = np.zeros(num, dtype=np.int64)
    for line in block[4 + num :]:
        if line.startswith("M  CHG"):
            pairs = [int(word) for word in line.split()[3:]]
            charges[np.array(pairs[::2]) - 1] = pairs[1::2]
    return numbers, positions, charges


def _read_processed(path: Path) -> Arrays:
    import torch
    from torch_geometric.data import Data  # here, since it takes seconds

    try:
        with torch.serialization.safe_globals([Data]):  # the file names the class
            stored = torch.load(path, map_location="cpu", weights_only=True)
        values, slices = stored[0], stored[1]
        values = values if isinstance(values, dict) else values.to_dict()
        counts = slices["z"].diff().numpy()
        numbers, positions, labels = (values[name].numpy() for name in ("z", "pos", "y"))
        ids = values["idx"].reshape(-1).numpy() + 1
    except (pickle.UnpicklingError, KeyError, AttributeError, RuntimeError, EOFError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as PyTorch Geometric's QM9 ({error}); process it again.") from error
    order = [*COLUMNS[3:], *COLUMNS[:3]]
    columns = {name: labels[:, i].astype(np.float64) / FACTORS.get(name, 1.0) for i, name in enumerate(order)}
    return Arrays(numbers, positions, counts, None, ids, columns)
