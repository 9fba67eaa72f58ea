"""A small qm9.npz of made-up molecules with made-up labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

ELEMENTS = (1, 6, 7, 8)
#: Hartree of an atom of each element in the made-up energies.
ATOMS = np.array([-0.6, -38.1, -54.8, -75.2])


def write_qm9(root: Path, num: int = 60, seed: int = 0, energy_noise: float = 0.0) -> dict[str, np.ndarray]:
    """Write root/qm9.npz: `gap` on two thirds of the molecules, energies to train on for the first half and to test on for
    the last third, dipole vectors on every second.

    The energies are sums over atoms (`ATOMS`), the dipoles those of charges of the atoms' numbers, the gap is the smallest
    distance.

    Args:
        root: folder to write to.
        num: molecules.
        seed: of the geometries.
        energy_noise: hartree, added to the energies.

    Returns:
        The arrays.
    """
    rng = np.random.default_rng(seed)
    counts = rng.integers(3, 7, num)
    numbers = np.concatenate([np.r_[ELEMENTS[k % 4], rng.choice(ELEMENTS, n - 1)] for k, n in enumerate(counts)])
    positions = np.concatenate([_geometry(rng, n) for n in counts]).astype(np.float32)
    molecule = np.repeat(np.arange(num), counts)
    composition = np.stack([np.bincount(molecule[numbers == z], minlength=num) for z in ELEMENTS], axis=1)
    energy = composition @ ATOMS + energy_noise * rng.standard_normal(num)
    place = np.arange(num)
    dipole = np.zeros((num, 3))
    np.add.at(dipole, molecule, (numbers - 4.0)[:, None] * positions)
    gap = np.array([_smallest(positions[molecule == m]) for m in range(num)])
    arrays = {
        "id": np.arange(1, num + 1, dtype=np.int32),
        "n_atoms": counts.astype(np.uint8),
        "numbers": numbers.astype(np.uint8),
        "positions": positions,
        "gap": np.where(place % 3 != 0, gap, np.nan),
        "train_U0": np.where(place < num // 2, energy, np.nan),
        "test_U0": np.where(place >= 2 * num // 3, energy, np.nan),
        "test_r2": np.where(place >= 2 * num // 3, energy**2, np.nan),
        "mp2_dipole_au": np.where((place % 2 == 0)[:, None], dipole, np.nan),
    }
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "qm9.npz", **arrays)
    return arrays


def _geometry(rng: np.random.Generator, count: int) -> np.ndarray:
    """[n, 3] Å, no two closer than 0.8."""
    points = [np.zeros(3)]
    while len(points) < count:
        new = points[rng.integers(len(points))] + 1.2 * rng.standard_normal(3)
        if min(np.linalg.norm(new - old) for old in points) > 0.8:
            points.append(new)
    return np.array(points)


def _smallest(points: np.ndarray) -> float:
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    return float(distances[distances > 0].min())
