"""Real rMD17 frames in the layout of the published archive, from the packed copies that stand beside the checkout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

PACKED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "rmd17"
KCAL_MOL_PER_HARTREE = 627.5094740631
ANGSTROM_PER_BOHR = 0.52917721092


def packed_rmd17(molecule: str) -> Path | None:
    """The packed frames of a molecule, or None where this machine has none."""
    path = PACKED / f"rmd17_{molecule}.npz"
    return path if path.is_file() else None


def write_archive(root: Path, molecule: str = "ethanol", *, packed: Path | None = None) -> Path:
    """Write a subset of the archive: `npz_data/rmd17_<molecule>.npz` and `splits/rmd17_<molecule>/`.

    Args:
        root: folder to write to.
        molecule: name in the archive.
        packed: the packed frames; by default those of `packed_rmd17`.

    Returns:
        `root`.

    Raises:
        FileNotFoundError: there are no packed frames of this molecule.
    """
    packed = packed or packed_rmd17(molecule)
    if packed is None:
        raise FileNotFoundError(f"no packed frames of {molecule} in {PACKED}")
    with np.load(packed) as stored:
        _write_frames(root / "npz_data" / f"rmd17_{molecule}.npz", stored)
        for part in ("train", "test"):
            for k, indices in enumerate(stored[f"{part}_idx"], start=1):
                write_indices(root / "splits" / f"rmd17_{molecule}" / f"index_{part}_{k:02d}.csv", indices)
    return root


def write_indices(path: Path, indices: np.ndarray) -> None:
    """Write one frame number a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, indices, fmt="%d")


def _write_frames(path: Path, stored: np.lib.npyio.NpzFile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        nuclear_charges=stored["nuclear_charges"],
        coords=stored["coords_1e8"] / 1e8,
        energies=stored["energies"],
        forces=stored["forces_nEh_per_bohr"] / 1e9 * KCAL_MOL_PER_HARTREE / ANGSTROM_PER_BOHR,
        old_indices=stored["old_indices"],
        old_energies=stored["old_energies"],
    )
