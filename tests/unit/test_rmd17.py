"""rMD17: units, layout, official splits, and what is said about files that are not right."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.local_server import serve
from support.rmd17_archive import packed_rmd17, write_archive, write_indices

from ponita.data import rmd17
from ponita.data.rmd17 import MOLECULES, Frames, load_rmd17, load_split

KCAL_MOL = 4184 / (6.02214076e23 * 1.602176634e-19)  # in eV, from the exact constants of the SI
Arrays = dict[str, np.ndarray]


def some_arrays(num_frames: int = 6, num_atoms: int = 4) -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "nuclear_charges": np.arange(1, num_atoms + 1, dtype=np.uint8),
        "coords": rng.normal(size=(num_frames, num_atoms, 3)),
        "energies": -97000 + rng.normal(size=num_frames),
        "forces": rng.normal(size=(num_frames, num_atoms, 3)),
    }


def write_npz(root: Path, arrays: Arrays, molecule: str = "ethanol") -> Path:
    path = root / "npz_data" / f"rmd17_{molecule}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def write_splits(folder: Path, num_frames: int, seed: int = 0) -> dict[tuple[str, int], np.ndarray]:
    rng, splits = np.random.default_rng(seed), {}
    for k in range(1, 6):
        order = rng.permutation(num_frames)
        splits["train", k], splits["test", k] = order[: num_frames // 2], order[num_frames // 2 :]
        for part in ("train", "test"):
            write_indices(folder / f"index_{part}_{k:02d}.csv", splits[part, k])
    return splits


def test_numbers_are_converted_to_ev_and_angstrom(tmp_path: Path) -> None:
    arrays = some_arrays()
    write_npz(tmp_path, arrays)
    frames = load_rmd17(tmp_path, "ethanol")
    assert frames.numbers.dtype == np.int64 and frames.numbers.tolist() == [1, 2, 3, 4]
    assert {frames.positions.dtype, frames.energies.dtype, frames.forces.dtype} == {np.dtype(np.float64)}
    np.testing.assert_array_equal(frames.positions, arrays["coords"])
    np.testing.assert_allclose(frames.energies, arrays["energies"] * KCAL_MOL, rtol=1e-6)
    np.testing.assert_allclose(frames.forces, arrays["forces"] * KCAL_MOL, rtol=1e-6)


@pytest.mark.parametrize("inner", ["", "rmd17"])
def test_root_may_be_the_folder_or_the_one_above(tmp_path: Path, inner: str) -> None:
    write_npz(tmp_path / inner, some_arrays())
    splits = write_splits(tmp_path / inner / "splits", 6)
    assert load_rmd17(str(tmp_path), "ethanol").energies.shape == (6,)
    for k in range(1, 6):
        train, test = load_split(str(tmp_path), "ethanol", k, 6)
        assert train.dtype == test.dtype == np.int64
        assert train.tolist() == splits["train", k].tolist()
        assert test.tolist() == splits["test", k].tolist()


def test_splits_of_a_molecule_come_before_the_common_ones(tmp_path: Path) -> None:
    write_npz(tmp_path, some_arrays())
    write_splits(tmp_path / "splits", 1000, seed=1)
    own = write_splits(tmp_path / "splits" / "rmd17_ethanol", 6, seed=2)
    train, test = load_split(tmp_path, "ethanol", 3, 6)
    assert (train.tolist(), test.tolist()) == (own["train", 3].tolist(), own["test", 3].tolist())


def test_splits_come_from_the_folder_of_the_frames(tmp_path: Path) -> None:
    write_splits(tmp_path / "splits" / "rmd17_ethanol", 1000, seed=1)
    write_npz(tmp_path / "rmd17", some_arrays())
    own = write_splits(tmp_path / "rmd17" / "splits", 6, seed=2)
    assert load_split(tmp_path, "ethanol", 1, 6)[0].tolist() == own["train", 1].tolist()


def test_common_splits_with_a_subset_are_explained(tmp_path: Path) -> None:
    write_npz(tmp_path, some_arrays())
    write_splits(tmp_path / "splits", 1000)
    with pytest.raises(ValueError, match=r"has 6 frames.*complete published files, so the file here is a subset"):
        load_split(tmp_path, "ethanol", 1, 6)
    write_splits(tmp_path / "splits" / "rmd17_ethanol", 7)
    with pytest.raises(ValueError, match=r"frame 6 .1 of .*another version of rmd17_ethanol.npz"):
        load_split(tmp_path, "ethanol", 1, 6)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("0\n-1\n", "names frame -1"),
        ("0\n1.5\n", "one whole number a line"),
        ("99999999999999999999\n", "one whole number a line"),
        ("", "is empty"),
        ("0\n3\n", "1 frames both for training and for testing .frame 3"),
    ],
)
def test_damaged_split_files_are_refused(tmp_path: Path, train: str, message: str) -> None:
    write_splits(tmp_path / "splits", 6)
    (tmp_path / "splits" / "index_train_02.csv").write_text(train)
    write_indices(tmp_path / "splits" / "index_test_02.csv", np.array([2, 3]))
    with pytest.raises(ValueError, match=message):
        load_split(tmp_path, "ethanol", 2, 6)


@pytest.mark.parametrize("split", [0, 6, 1.0, "1"])
def test_split_is_one_of_five(tmp_path: Path, split: int) -> None:
    write_splits(tmp_path / "splits", 6)
    with pytest.raises(ValueError, match="from 1 to 5"):
        load_split(tmp_path, "ethanol", split, 6)


def test_missing_splits_say_where_they_belong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"index_train_01.csv: copy the folder splits/ of rmd17.tar.bz2"):
        load_split(tmp_path, "ethanol", 1, 6)


@pytest.mark.parametrize(
    ("seen", "meant"), [("salicylic acid", "salicylic"), ("naphtalene", "naphthalene"), ("ETHANOL", "ethanol")]
)
def test_unknown_molecules_get_the_closest_name(tmp_path: Path, seen: str, meant: str) -> None:
    for call in (lambda: load_rmd17(tmp_path, seen), lambda: load_split(tmp_path, seen, 1, 6)):
        with pytest.raises(ValueError, match=f"did you mean '{meant}'") as caught:
            call()
        assert all(molecule in str(caught.value) for molecule in MOLECULES)


def test_a_molecule_unlike_any_gets_the_list_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no molecule 'xyz'; expected one of: aspirin, "):
        load_rmd17(tmp_path, "xyz")


def changed(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Arrays:
    arrays = some_arrays()
    return arrays | {key: change(arrays[key])}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (changed("coords", lambda x: x[0]), r"coords has shape \(4, 3\), expected \[F, 4, 3\]"),
        (changed("coords", lambda x: x[:, :3]), r"coords has shape \(6, 3, 3\), expected \[F, 4, 3\]"),
        (changed("coords", lambda x: x[..., :2]), r"coords has shape \(6, 4, 2\)"),
        (changed("coords", lambda x: x[:0]), "F at least 1"),
        (changed("forces", lambda x: x[:5]), r"forces has shape \(5, 4, 3\), expected \(6, 4, 3\)"),
        (changed("energies", lambda x: x[:5]), r"energies has shape \(5,\), expected \(6,\)"),
        (changed("energies", lambda x: x[:, None]), r"energies has shape \(6, 1\)"),
        (changed("nuclear_charges", lambda x: x[None]), "nuclear_charges must be a list"),
        (changed("nuclear_charges", lambda x: x * 0), "whole numbers from 1"),
        (changed("nuclear_charges", lambda x: x + 0.5), "whole numbers from 1"),
        (changed("forces", lambda x: np.where(x == x.max(), np.nan, x)), "forces has 1 numbers that are not finite"),
        (changed("energies", lambda x: np.where(x == x.max(), np.inf, x)), "energies has 1 numbers"),
        (changed("coords", lambda x: x.astype(str).astype(object)), "damaged"),
    ],
)
def test_misshapen_files_are_refused(tmp_path: Path, arrays: Arrays, message: str) -> None:
    path = write_npz(tmp_path, arrays)
    with pytest.raises(ValueError, match=message) as caught:
        load_rmd17(tmp_path, "ethanol", download=False)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("key", list(some_arrays()))
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    write_npz(tmp_path, {k: v for k, v in some_arrays().items() if k != key})
    with pytest.raises(ValueError, match=f"has no {key}; expected the keys"):
        load_rmd17(tmp_path, "ethanol")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path, some_arrays())
    whole = path.read_bytes()
    array_file = io.BytesIO()
    np.save(array_file, np.zeros(3))
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for damaged in (whole[:middle], whole[:-1], flipped, b"", b"<html>", array_file.getvalue()):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged or was cut short: delete it"):
            load_rmd17(tmp_path, "ethanol")


def test_without_download_the_remedy_is_told(tmp_path: Path) -> None:
    write_npz(tmp_path, some_arrays(), "ethanol")
    with pytest.raises(FileNotFoundError, match=r"rmd17_uracil.npz.*Download rmd17.tar.bz2.*download=True") as caught:
        load_rmd17(tmp_path, "uracil", download=False)
    assert str(tmp_path) in str(caught.value) and rmd17.ARCHIVE_URLS[0] in str(caught.value)


def archive_bytes(tmp_path: Path) -> bytes:
    """An archive of two molecules and the splits, with members that must not be unpacked."""
    source = tmp_path / "source"
    write_npz(source, some_arrays(), "ethanol")
    write_npz(source, some_arrays(num_frames=8), "uracil")
    write_splits(source / "splits", 6)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as tar:
        tar.add(source, "rmd17")
        for name in ("rmd17/readme.txt", "rmd17/npz_data/rmd17_other.npz", "../outside.txt", "rmd17/splits/../../up"):
            tar.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("rmd17/npz_data/rmd17_aspirin.npz")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    return buffer.getvalue()


def announce(monkeypatch: pytest.MonkeyPatch, urls: list[str], archive: bytes) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(rmd17, "ARCHIVE_URLS", tuple(urls))
    monkeypatch.setattr(rmd17, "ARCHIVE_BYTES", len(archive))
    monkeypatch.setattr(rmd17, "ARCHIVE_SHA256", hashlib.sha256(archive).hexdigest())


def test_a_missing_molecule_is_downloaded_and_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, root = archive_bytes(tmp_path), tmp_path / "deep" / "root"
    with serve({"good": archive}) as (url, asked):
        announce(monkeypatch, [url + "missing", url + "good"], archive)
        frames = load_rmd17(root, "uracil")
        assert load_rmd17(root, "ethanol").energies.shape == (6,)
    assert frames.energies.shape == (8,)
    assert asked == ["missing", "good"]
    assert load_split(root, "ethanol", 5, 6)[0].shape == (3,)
    unpacked = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    csv = {f"rmd17/splits/index_{part}_{k:02d}.csv" for part in ("train", "test") for k in range(1, 6)}
    assert unpacked == csv | {"rmd17.tar.bz2", "rmd17/npz_data/rmd17_ethanol.npz", "rmd17/npz_data/rmd17_uracil.npz"}
    assert {path.name for path in root.iterdir()} == {"rmd17.tar.bz2", "rmd17"}
    assert {path.name for path in root.parent.iterdir()} == {"root"}


def test_an_archive_put_there_by_hand_replaces_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = archive_bytes(tmp_path)
    announce(monkeypatch, [], archive)
    with pytest.raises(ConnectionError, match=r"could not download rmd17.tar.bz2"):
        load_rmd17(tmp_path, "uracil")
    (tmp_path / "rmd17.tar.bz2").write_bytes(archive)
    assert load_rmd17(tmp_path, "uracil").energies.shape == (8,)
    with pytest.raises(FileNotFoundError, match=r"holds no rmd17/npz_data/rmd17_aspirin.npz"):
        load_rmd17(tmp_path, "aspirin")


def test_unpacking_keeps_the_files_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = archive_bytes(tmp_path)
    announce(monkeypatch, [], archive)
    (tmp_path / "rmd17.tar.bz2").write_bytes(archive)
    write_npz(tmp_path / "rmd17", some_arrays(num_frames=2), "ethanol")
    load_rmd17(tmp_path, "uracil")
    assert load_rmd17(tmp_path, "ethanol").energies.shape == (2,)


@pytest.fixture(scope="module")
def real_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if packed_rmd17("ethanol") is None:
        pytest.skip("needs the packed rMD17 frames in ../shared/data/rmd17")
    return write_archive(tmp_path_factory.mktemp("rmd17"), "ethanol")


@pytest.fixture(scope="module")
def ethanol(real_root: Path) -> Frames:
    return load_rmd17(real_root, "ethanol", download=False)


def test_real_splits_are_disjoint_and_cover_all_frames(real_root: Path, ethanol: Frames) -> None:
    assert ethanol.positions.shape == ethanol.forces.shape == (9633, 9, 3)
    assert sorted(ethanol.numbers) == [1] * 6 + [6, 6, 8]
    used = [index for k in range(1, 6) for index in load_split(real_root, "ethanol", k, 9633)]
    assert [len(np.unique(index)) for index in used] == [1000] * 10
    assert len(np.unique(np.concatenate(used))) == 9633


def test_real_energies_are_those_of_ethanol_in_ev(ethanol: Frames) -> None:
    """PBE total energies: 4209.6 eV below free electrons and nuclei, spread by the 500 K of the trajectory."""
    assert -4210.2 < ethanol.energies.min() < ethanol.energies.max() < -4208.6
    assert ethanol.energies.mean() == pytest.approx(-4209.62, abs=0.01)
    assert ethanol.energies.std() == pytest.approx(0.183, abs=0.002)


def test_real_forces_push_no_molecule_as_a_whole(ethanol: Frames) -> None:
    forces = ethanol.forces
    assert np.linalg.norm(forces.sum(1), axis=-1).max() < 1e-5
    centred = ethanol.positions - ethanol.positions.mean(1, keepdims=True)
    assert np.linalg.norm(np.cross(centred, forces).sum(1), axis=-1).max() < 2e-3
    assert np.sqrt(np.mean(forces**2)) == pytest.approx(1.191, abs=0.002)


def test_real_forces_are_minus_the_gradient_in_ev_per_angstrom(ethanol: Frames) -> None:
    """A stretched O-H bond is pulled together, with the force constant of an alcohol, about 7.4 mdyn/Å = 46 eV/Å²."""
    oxygen = int(np.flatnonzero(ethanol.numbers == 8)[0])
    bonds = ethanol.positions - ethanol.positions[:, oxygen, None]
    distances = np.linalg.norm(bonds, axis=-1)
    hydrogens = np.flatnonzero(ethanol.numbers == 1)
    hydrogen = hydrogens[distances[:, hydrogens].mean(0).argmin()]
    length = distances[:, hydrogen]
    relative = ethanol.forces[:, hydrogen] - ethanol.forces[:, oxygen]
    pull = np.sum(relative * bonds[:, hydrogen], axis=-1) / (2 * length)
    assert length.mean() == pytest.approx(0.979, abs=0.002)
    assert np.polyfit(length, pull, 1)[0] == pytest.approx(-46.2, abs=0.5)
    assert np.corrcoef(length, pull)[0, 1] < -0.95
