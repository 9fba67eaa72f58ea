"""Covalent bonds of many molecules, found once."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from tqdm import tqdm

from ponita.data.atomic import replacing
from ponita.data.molecules import Molecules
from ponita.data.npz import read_npz
from ponita.data.structures import to_ptr

CHUNK = 500  # molecules between two looks of the progress bar


@dataclass(frozen=True, eq=False)
class Bonds:
    """Bonds of M molecules.

    Attributes:
        pairs: [P, 2] uint8, atoms i < j of a molecule, counted from its first.
        ptr: [M + 1] int64; molecule m has the pairs ptr[m]:ptr[m + 1].
    """

    pairs: np.ndarray
    ptr: np.ndarray


def load_bonds(molecules: Molecules, folder: Path) -> Bonds:
    """Bonds of molecules, found by RDKit from their geometry, and kept in a file beside the data.

    Args:
        molecules: M.
        folder: of the file, whose name tells the molecules apart.

    Raises:
        ImportError: without RDKit.
    """
    path = folder / f"bonds_{len(molecules)}_{_checksum(molecules):08x}.npz"
    if path.is_file():
        return Bonds(**read_npz(path, f"delete {path} to find the bonds again."))
    bonds = find_bonds(molecules)
    try:
        with replacing(path) as temporary:
            np.savez_compressed(temporary, pairs=bonds.pairs, ptr=bonds.ptr)
    except OSError as error:
        rank_zero_warn(f"the bonds are found again in every run, since they cannot be kept at {path}: {error}")
    return bonds


def find_bonds(molecules: Molecules) -> Bonds:
    """Bonds of molecules, with a progress bar. An atom that is close to none has none.

    Raises:
        ImportError: without RDKit.
    """
    from ponita.interfaces.rdkit import covalent_bonds

    pairs, counts = [np.zeros((0, 2), np.uint8)], [np.zeros(0, np.int64)]
    with tqdm(total=len(molecules), desc="covalent bonds", unit=" molecules") as bar:
        for first in range(0, len(molecules), CHUNK):
            part = molecules.take(np.arange(first, min(first + CHUNK, len(molecules))))
            edges = covalent_bonds(part, alone=True)
            edges = edges[:, edges[0] < edges[1]]
            molecule = part.molecule[edges[0]]
            pairs.append((edges - part.ptr[molecule]).T.astype(np.uint8))
            counts.append(np.bincount(molecule, minlength=len(part)))
            bar.update(len(part))
    return Bonds(np.concatenate(pairs), to_ptr(np.concatenate(counts)))


def _checksum(molecules: Molecules) -> int:
    total = 0
    for array in (molecules.ptr, molecules.numbers, molecules.positions):
        total = zlib.crc32(np.ascontiguousarray(array).tobytes(), total)
    return total
