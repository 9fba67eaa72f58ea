"""`ponita data`: what it prints of files with planted faults, and what it packs."""

from pathlib import Path

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from support.atoms import crystals, molecules, write_crystals

from ponita.data import LmdbStructures, read_structures
from ponita.data.units import HARTREE
from ponita.tasks.cli import main


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def printed(capsys, *words: str) -> str:
    main(["data", *words])
    return capsys.readouterr().out


def test_inspect_prints_what_a_file_holds_and_finds_nothing_wrong(capsys):
    write_crystals(Path("frames.xyz"), 12)
    out = printed(capsys, "inspect", "frames.xyz", "--picture", "frames.png")
    s = read_structures("frames.xyz")
    assert "12 structures of 72 atoms: 6 compositions, 2 elements, 12 periodic" in out
    assert "energy: results[energy] (12 of 12)" in out and "stress: results[stress] (12 of 12)" in out
    assert f"{(s.energy / s.counts).min():.5g}" in out and f"{np.linalg.norm(s.forces, axis=1).max():.5g}" in out
    assert "GPa" in out and "run3" in out and "Au" in out
    assert out.split("what looks wrong:")[1].split() == ["nothing", "histograms", "are", "in", "frames.png"]
    assert Path("frames.png").read_bytes()[:4] == b"\x89PNG"


def test_inspect_finds_what_was_planted(capsys):
    frames = [*crystals(24), *molecules(2)]
    frames[3].calc.results["forces"][0] += [400.0, 0, 0]
    frames[3].calc.results["forces"][1] -= [400.0, 0, 0]
    frames[5].calc.results["forces"] = frames[5].calc.results["forces"] + [0, 0.05, 0]
    frames[6].calc = SinglePointCalculator(frames[6], energy=frames[6].calc.results["energy"])
    frames[7].positions[1] = frames[7].positions[0] + 0.1
    frames[9].cell[1] = frames[9].cell[0]
    frames[11].calc.results["energy"] -= 500.0
    frames.append(frames[1])
    write("frames.xyz", frames, format="extxyz")
    wrong = printed(capsys, "inspect", "frames.xyz").split("what looks wrong:")[1]
    lines = {line.split(":")[0].strip(" -"): line for line in wrong.strip().splitlines()}
    places = {
        "flat cell": 9, "huge forces": 3, "net forces": 5, "missing forces": 6, "missing stress": 6, "close atoms": 7,
        "energy outliers": 11, "duplicates": 26,
    }  # fmt: skip
    assert lines.keys() == places.keys()
    for kind, place in places.items():
        assert f"structure {place}" in lines[kind], lines[kind]
    assert next(iter(lines)) == "flat cell"


def test_inspect_takes_keys_units_several_files_and_samples(capsys):
    frames = crystals(6)
    for atoms in frames:
        atoms.info["REF"] = atoms.calc.results["energy"] / HARTREE
        atoms.calc = None
    write("named.xyz", frames, format="extxyz")
    write_crystals(Path("plain.xyz"), 6)
    out = printed(capsys, "inspect", "named.xyz")
    assert "no labels under the usual names; the file holds info[REF], info[group]" in out
    out = printed(capsys, "inspect", "named.xyz", "--keys", "energy=REF", "--units", "energy=Ha", "length=Angstrom")
    s = read_structures("plain.xyz")
    assert "energy: info[REF] (6 of 6)" in out and f"{(s.energy / s.counts).max():.5g}" in out
    both = printed(capsys, "inspect", "named.xyz", "plain.xyz")
    assert "12 structures of 72 atoms" in both and "duplicates: 6 structures repeat an earlier one" in both
    assert "3 structures of" in printed(capsys, "inspect", "plain.xyz", "--limit", "3")


def test_pack_joins_files_to_a_database(capsys):
    write_crystals(Path("a.xyz"), 4)
    write_crystals(Path("b.xyz"), 3, seed=1)
    assert "7 structures are in all.lmdb" in printed(capsys, "pack", "a.xyz", "b.xyz", "--out", "all.lmdb")
    stored = LmdbStructures("all.lmdb")
    assert stored.files == ("a.xyz", "b.xyz") and len(stored.take(range(7)).numbers) == stored.take(range(7)).ptr[-1]
    assert "2 structures of" in printed(capsys, "inspect", "all.lmdb", "--limit", "2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect", "none.xyz"], "no file of structures at none.xyz"),
        (
            ["inspect", "a.xyz", "--keys", "REF"],
            "'REF' is not understood; expected name=value with a name among energy,",
        ),
        (["inspect", "a.xyz", "--units", "energy=kcl"], "did you mean 'kcal'?"),
        (["pack", "a.xyz", "--out", "a.xyz"], "a.xyz exists; a database is not written over"),
    ],
)
def test_mistakes_get_one_clear_message(capsys, words, message):
    write_crystals(Path("a.xyz"), 2)
    with pytest.raises(SystemExit):
        main(["data", *words])
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
