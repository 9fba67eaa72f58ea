"""`ponita relax`: to the minimum that was asked for, and not over what is there."""

import csv
import signal
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.constraints import FixAtoms
from ase.io import read, write
from support.potentials import TRICLINIC, oxide, oxide_potential

from ponita.interfaces.ase import PonitaCalculator
from ponita.models import save
from ponita.tasks.cli import main
from ponita.tasks.relax import command


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    potential = oxide_potential()
    potential.set_normalization(-20.0, 3.0)  # as stiff as a solid
    save(potential, "p.pt")
    write("crystal.xyz", oxide())
    write("molecule.xyz", oxide(pbc=False))


def relax(*words: str, structure: str = "molecule.xyz", out: str = "out") -> Path:
    main(["relax", "--ckpt_path", "p.pt", "--structure", structure, "--out", out, *words])
    return Path(out)


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "log.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("optimizer", ["bfgs", "fire", "lbfgs"])
def test_forces_fall_below_the_limit_and_the_energy_with_them(optimizer, capsys):
    folder = relax("--fmax", "0.02", "--optimizer", optimizer)
    assert {path.name for path in folder.iterdir()} == {"relaxed.xyz", "path.xyz", "log.csv"}
    log, path, relaxed = rows(folder), read(folder / "path.xyz", ":"), read(folder / "relaxed.xyz")
    assert list(log[0]) == ["step", "energy_eV", "largest_force_eV_per_A"]
    assert [row["step"] for row in log] == list(range(len(path)))
    assert log[-1]["largest_force_eV_per_A"] < 0.02 < log[-2]["largest_force_eV_per_A"]
    assert log[-1]["energy_eV"] < log[0]["energy_eV"] - 0.01
    np.testing.assert_array_equal(relaxed.positions, path[-1].positions)
    assert relaxed.get_potential_energy() == pytest.approx(log[-1]["energy_eV"], abs=1e-8)
    relaxed.calc = PonitaCalculator("p.pt")
    assert np.linalg.norm(relaxed.get_forces(), axis=1).max() < 0.02
    out = capsys.readouterr().out
    assert f"converged in {len(path) - 1} steps; everything is in out" in out and "largest force" in out


def test_the_cell_comes_to_the_pressure_that_was_asked_for(capsys):
    folder = relax("--cell", "--pressure", "2", "--steps", "300", structure="crystal.xyz")
    log, relaxed = rows(folder), read(folder / "relaxed.xyz")
    relaxed.calc = PonitaCalculator("p.pt")
    stress = relaxed.get_stress(voigt=False) / units.GPa
    assert np.abs(stress + 2 * np.eye(3)).max() < 0.1
    assert log[0]["largest_stress_left_GPa"] > 1 and log[-1]["pressure_GPa"] == pytest.approx(2, abs=0.05)
    assert log[-1]["largest_stress_left_GPa"] == pytest.approx(np.abs(stress + 2 * np.eye(3)).max(), abs=1e-4)
    assert log[-1]["volume_A3"] == pytest.approx(relaxed.get_volume()) != pytest.approx(log[0]["volume_A3"], rel=0.01)
    for row in (log[0], log[-1]):
        assert row["enthalpy_eV"] == pytest.approx(row["energy_eV"] + 2 * units.GPa * row["volume_A3"])
    assert log[-1]["enthalpy_eV"] < log[0]["enthalpy_eV"]
    assert "pressure (GPa)" in capsys.readouterr().out


def test_without_cell_the_cell_stays_and_atoms_that_are_held_too():
    atoms = oxide()
    atoms.set_constraint(FixAtoms([1]))
    write("held.xyz", atoms)
    relaxed = read(relax(structure="held.xyz") / "relaxed.xyz")
    np.testing.assert_allclose(relaxed.cell.array, TRICLINIC)
    np.testing.assert_allclose(relaxed.positions[1], atoms.positions[1], atol=1e-8)
    assert np.abs(relaxed.positions - atoms.positions).max() > 0.01


def test_too_few_steps_are_told_and_nothing_is_lost(capsys):
    with pytest.raises(SystemExit) as ending:
        relax("--steps", "2")
    assert ending.value.code == 1 and "NOT converged in 2 steps" in capsys.readouterr().out
    assert len(read("out/path.xyz", ":")) == 3
    np.testing.assert_array_equal(read("out/relaxed.xyz").positions, read("out/path.xyz").positions)


def test_ctrl_c_ends_after_a_step_with_everything_written(monkeypatch, capsys):
    write_frame, calls = command.write, []

    def interrupting(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        write_frame(*args, **options)

    monkeypatch.setattr(command, "write", interrupting)
    with pytest.raises(SystemExit):
        relax()
    assert "INTERRUPTED in 2 steps" in capsys.readouterr().out
    assert len(rows(Path("out"))) == len(read("out/path.xyz", ":")) == 3
    np.testing.assert_array_equal(read("out/relaxed.xyz").positions, read("out/path.xyz").positions)


def test_a_relaxation_is_not_written_over(capsys):
    folder = relax()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(SystemExit):
        relax(structure="crystal.xyz")
    said = capsys.readouterr().err
    assert "out holds relaxed.xyz, path.xyz, log.csv already" in said and "name another folder with --out" in said
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--structure", "crystal.xyz"), "no potential; name one with --ckpt_path"),
        (("--ckpt_path", "p.pt"), "no structure; name one with --structure"),
        (("--ckpt_path", "p.pt", "--structure", "iron.xyz"), "atomic numbers [26] are unknown to this potential"),
        (("--ckpt_path", "p.pt", "--structure", "flat.xyz"), "is flat along a periodic direction"),
        (("--ckpt_path", "p.pt", "--structure", "molecule.xyz", "--cell"), "--cell needs a periodic structure"),
        (("--ckpt_path", "p.pt", "--structure", "crystal.xyz", "--pressure", "1"), "has no effect on a cell that is"),
        (("--ckpt_path", "p.pt", "--structure", "crystal.xyz", "--fmax", "0"), "--fmax 0.0; expected a positive force"),
        (("--ckpt_path", "p.pt", "--structure", "crystal.xyz", "--cell", "--pressure", "inf"), "expected a finite"),
        (("--ckpt_path", "p.pt", "--structure", "crystal.xyz", "--steps", "0"), "--steps: 0; expected at least 1"),
    ],
)
def test_mistakes_get_one_clear_message_and_leave_nothing_behind(capsys, words, message):
    write("iron.xyz", Atoms("OFe", [[0, 0, 0], [0, 0, 1.6]]))
    write("flat.xyz", oxide(cell=TRICLINIC * [[1], [1], [0]]))
    with pytest.raises(SystemExit):
        main(["relax", *words, "--out", "out"])
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said and not Path("out").exists()
