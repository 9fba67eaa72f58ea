"""Revised MD17: ten small molecules, 100,000 frames each, PBE/def2-SVP energies and forces.

Source: Christensen and von Lilienfeld, "On the role of gradients for machine learning of molecular energies and
forces" (2020), https://doi.org/10.6084/m9.figshare.12672038, CC0.
"""

from __future__ import annotations

import difflib
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import numpy as np
from tqdm import tqdm

from ponita.data.download import download as fetch
from ponita.data.npz import read_npz
from ponita.data.units import EV_PER_KCAL_MOL

MOLECULES: tuple[str, ...] = (
    "aspirin",
    "azobenzene",
    "benzene",
    "ethanol",
    "malonaldehyde",
    "naphthalene",
    "paracetamol",
    "salicylic",
    "toluene",
    "uracil",
)
NUM_SPLITS = 5
ARCHIVE_NAME = "rmd17.tar.bz2"
ARCHIVE_URLS = (
    "https://figshare.com/ndownloader/files/23950376",
    "https://archive.materialscloud.org/records/pfffs-fff86/files/rmd17.tar.bz2?download=1",
)
ARCHIVE_SHA256 = "cddeea2ec2c4b22a9de16a9a65a3eeedac5b29da9c99c20bbff0153912bf922b"
ARCHIVE_BYTES = 1_066_301_513
KEYS = ("nuclear_charges", "coords", "energies", "forces")


@dataclass(frozen=True, eq=False)
class Frames:
    """F frames of one molecule of n atoms.

    Attributes:
        numbers: atomic numbers [n], int64.
        positions: [F, n, 3] in Å, float64.
        energies: total energies [F] in eV, float64.
        forces: [F, n, 3] in eV/Å, float64.
    """

    numbers: np.ndarray
    positions: np.ndarray
    energies: np.ndarray
    forces: np.ndarray


def load_rmd17(root: str | os.PathLike[str], molecule: str, download: bool = True) -> Frames:
    """Read all frames of one molecule, in eV and Å.

    Args:
        root: the folder with `npz_data/` and `splits/`, or the one above, where that folder is called `rmd17`.
        molecule: one of `MOLECULES`.
        download: when the molecule is missing, download the published archive (1.07 GB) into `root` and unpack it
            there. An archive `rmd17.tar.bz2` already in `root` is used instead of the network; it stays there
            and may be deleted once unpacked. No file is ever replaced.

    Returns:
        The frames, in the order of the file.

    Raises:
        FileNotFoundError: the molecule is missing and `download` is off.
        ConnectionError: the archive could not be downloaded.
        ValueError: unknown molecule, or a file that is damaged, incomplete, misshapen or not finite.
    """
    _check_molecule(molecule)
    root = Path(root).expanduser()
    if _home(root, molecule) is None:
        if not download:
            raise FileNotFoundError(_missing_message(root, molecule))
        archive = fetch(ARCHIVE_URLS, root / ARCHIVE_NAME, sha256=ARCHIVE_SHA256, size=ARCHIVE_BYTES)
        _unpack(archive, root)
    home = _home(root, molecule)
    if home is None:
        raise FileNotFoundError(f"{root / ARCHIVE_NAME} holds no rmd17/{_npz_name(molecule)}")
    return _read_frames(home / _npz_name(molecule))


def load_split(
    root: str | os.PathLike[str], molecule: str, split: int, num_frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Read the frame numbers of one of the five official splits.

    The published splits are common to all molecules and count the frames of the complete files. A subset of the
    archive has its own, in `splits/rmd17_<molecule>/`, which count the frames of the shorter files and come first.

    Args:
        root: as in `load_rmd17`.
        molecule: one of `MOLECULES`.
        split: 1 to 5.
        num_frames: F of the molecule's file, which every frame number must stay below.

    Returns:
        Frame numbers for training and for testing, int64; 1000 each in the published splits.

    Raises:
        FileNotFoundError: a split file is missing.
        ValueError: unknown molecule or split, a damaged file, frame numbers that do not fit the molecule's file,
            or a frame that is both for training and for testing.
    """
    _check_molecule(molecule)
    if not isinstance(split, int | np.integer) or not 1 <= split <= NUM_SPLITS:
        raise ValueError(f"split is {split!r}, expected a whole number from 1 to {NUM_SPLITS}")
    folder = _split_folder(Path(root).expanduser(), molecule)
    paths = [folder / f"index_{part}_{split:02d}.csv" for part in ("train", "test")]
    train, test = (_read_indices(path) for path in paths)
    _check_range(train, num_frames, paths[0], molecule)
    _check_range(test, num_frames, paths[1], molecule)
    shared = np.intersect1d(train, test)
    if shared.size:
        raise ValueError(
            f"split {split} in {folder} uses {shared.size} frames both for training and for testing "
            f"(frame {shared[0]} is one), expected none; restore the published index files"
        )
    return train, test


def _check_molecule(molecule: str) -> None:
    if molecule in MOLECULES:
        return
    close = difflib.get_close_matches(str(molecule).lower(), MOLECULES, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(f"rMD17 has no molecule {molecule!r}{hint}; expected one of: {', '.join(MOLECULES)}")


def _npz_name(molecule: str) -> str:
    return f"npz_data/rmd17_{molecule}.npz"


def _homes(root: Path) -> tuple[Path, Path]:
    return root, root / "rmd17"


def _home(root: Path, molecule: str) -> Path | None:
    """The folder that holds the molecule's `npz_data/` and `splits/`, if there is one."""
    return next((home for home in _homes(root) if (home / _npz_name(molecule)).is_file()), None)


def _split_folder(root: Path, molecule: str) -> Path:
    # The splits must come from the folder of the frames, or a subset could meet the splits of the complete files.
    home = _home(root, molecule) or next((h for h in _homes(root) if (h / "splits").is_dir()), root)
    own = home / "splits" / f"rmd17_{molecule}"
    return own if own.is_dir() else own.parent


def _missing_message(root: Path, molecule: str) -> str:
    name = _npz_name(molecule)
    return (
        f"no {name} in {root} or {root / 'rmd17'}. Download {ARCHIVE_NAME} (1.07 GB, {' or '.join(ARCHIVE_URLS)}) "
        f"and unpack it in {root}, or allow the download (download=True)"
    )


def _unpack(archive: Path, root: Path) -> None:
    """Unpack splits and frames to `root/rmd17`; files that are there stay, since subset splits may belong to them."""
    wanted = [f"rmd17/splits/index_{p}_{k:02d}.csv" for p in ("train", "test") for k in range(1, NUM_SPLITS + 1)]
    wanted += [f"rmd17/{_npz_name(molecule)}" for molecule in MOLECULES]
    with TemporaryDirectory(dir=root, prefix=".rmd17-") as staging:
        with tarfile.open(archive, "r|bz2") as tar:
            for member in tqdm(tar, desc=f"unpacking {archive.name}", unit=" files"):
                if str(PurePosixPath(member.name)) in wanted and member.isreg():
                    tar.extract(member, staging, filter="data")
        # Splits first: frames in place say that the archive was unpacked.
        for name in wanted:
            staged, target = Path(staging, name), root / name
            if staged.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(staged, target)


def _read_frames(path: Path) -> Frames:
    raw = _read_arrays(path)
    numbers, coords, energies, forces = (raw[key] for key in KEYS)
    num_atoms = numbers.size
    if numbers.ndim != 1 or num_atoms == 0 or np.any(numbers != np.rint(numbers)) or numbers.min() < 1:
        raise ValueError(f"{path}: nuclear_charges must be a list [n] of whole numbers from 1; got {numbers!r}")
    if coords.ndim != 3 or coords.shape[1:] != (num_atoms, 3) or len(coords) == 0:
        raise ValueError(f"{path}: coords has shape {coords.shape}, expected [F, {num_atoms}, 3] with F at least 1")
    if forces.shape != coords.shape:
        raise ValueError(f"{path}: forces has shape {forces.shape}, expected {coords.shape}, the shape of coords")
    if energies.shape != coords.shape[:1]:
        raise ValueError(f"{path}: energies has shape {energies.shape}, expected {coords.shape[:1]}, one per frame")
    return Frames(numbers.astype(np.int64), coords, energies * EV_PER_KCAL_MOL, forces * EV_PER_KCAL_MOL)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    stored = read_npz(path, "delete it and fetch it again")
    missing = [key for key in KEYS if key not in stored]
    if missing:
        raise ValueError(
            f"{path} has no {', '.join(missing)}; expected the keys of the published file: {', '.join(KEYS)}"
        )
    arrays = {key: _as_numbers(stored[key], key, path) for key in KEYS}
    for key, array in arrays.items():
        bad = np.size(array) - np.count_nonzero(np.isfinite(array))
        if bad:
            raise ValueError(f"{path}: {key} has {bad} numbers that are not finite; fetch the file again")
    return arrays


def _as_numbers(array: np.ndarray, key: str, path: Path) -> np.ndarray:
    try:
        return array.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {key} cannot be read as numbers ({error}); it is damaged, fetch it again") from error


def _read_indices(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}: copy the folder splits/ of {ARCHIVE_NAME} ({ARCHIVE_URLS[0]}) beside npz_data/"
        )
    try:
        indices = np.array(path.read_text().split(), dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: expected one whole number a line, the number of a frame ({error})") from error
    if indices.size == 0:
        raise ValueError(f"{path} is empty, expected one frame number a line; restore the published file")
    return indices


def _check_range(indices: np.ndarray, num_frames: int, path: Path, molecule: str) -> None:
    outside = indices[(indices < 0) | (indices >= num_frames)]
    if not outside.size:
        return
    own = path.parent.name == f"rmd17_{molecule}"
    reason = (
        f"these splits belong to another version of rmd17_{molecule}.npz: take both from the same source"
        if own
        else "these splits count the frames of the complete published files, so the file here is a subset. Use the "
        f"published rmd17_{molecule}.npz, or put the subset's own splits in {path.parent / f'rmd17_{molecule}'}"
    )
    raise ValueError(
        f"{path} names frame {outside[0]} ({outside.size} of {indices.size} are out of range), but "
        f"rmd17_{molecule}.npz has {num_frames} frames, 0 to {num_frames - 1}; {reason}"
    )
