"""`ponita md`: from a checkpoint and a structure to frames, a table and a picture, whatever ends it."""

import csv
import json
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
from ponita.tasks.md import pictures, record, simulate
from ponita.tasks.md.dynamics import Conditions, degrees_of_freedom, draw_velocities
from ponita.tasks.md.pictures import draw_simulation


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pictures, "draw_simulation", lambda path, *_: path.touch())  # which takes longer than all else
    for seed in range(2):
        save(oxide_potential(seed), f"p{seed}.pt")
    write("crystal.xyz", oxide())
    write("molecule.xyz", oxide(pbc=False))


def md(*words: str, structure: str = "molecule.xyz", out: str = "out") -> Path:
    main(["md", "--ckpt_path", "p0.pt", "--structure", structure, "--out", out, *words])
    return Path(out)


def go_on(*words: str) -> Path:
    main(["md", "--out", "out", "--continue", *words])
    return Path("out")


def error(capsys, *words: str) -> str:
    with pytest.raises(SystemExit):
        main(["md", *words])
    return capsys.readouterr().err


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def steps_of(folder: Path) -> list[int]:
    return [frame.info["step"] for frame in read(folder / "trajectory.xyz", ":")]


@pytest.mark.parametrize("name", ["molecule", "crystal"])
def test_a_simulation_writes_frames_a_log_and_a_picture(name, capsys, monkeypatch):
    monkeypatch.setattr(pictures, "draw_simulation", draw_simulation)
    folder = md("--steps", "25", "--save_every", "10", "--log_every", "5", structure=f"{name}.xyz")
    assert {path.name for path in folder.iterdir()} == {"trajectory.xyz", "log.csv", "energy.png", "settings.json"}
    assert (folder / "energy.png").read_bytes()[:4] == b"\x89PNG"
    out = capsys.readouterr().out
    assert "ns/day" in out and "energy drift" in out and "everything of this simulation is in out" in out
    log = rows(folder)
    assert tuple(log[0]) == record.COLUMNS and [int(r["step"]) for r in log] == [0, 5, 10, 15, 20, 25]
    frames = read(folder / "trajectory.xyz", ":")
    assert [frame.info["step"] for frame in frames] == [0, 10, 20, 25]
    for frame in frames:
        row = next(r for r in log if int(r["step"]) == frame.info["step"])
        forces, energy, kinetic = frame.get_forces(), frame.get_potential_energy(), frame.get_kinetic_energy()
        assert float(row["time_ps"]) == pytest.approx(0.0005 * frame.info["step"])
        assert float(row["potential_energy_eV"]) == pytest.approx(energy, abs=1e-9)
        assert float(row["kinetic_energy_eV"]) == pytest.approx(kinetic, rel=1e-6)
        assert float(row["total_energy_eV"]) == pytest.approx(energy + kinetic, abs=1e-7)
        freedom = 3 if name == "molecule" else 6  # of three atoms, less translations and rotations
        assert float(row["temperature_K"]) == pytest.approx(2 * kinetic / freedom / units.kB, rel=1e-6)
        assert float(row["max_force_eV_per_A"]) == pytest.approx(np.linalg.norm(forces, axis=1).max(), abs=1e-6)
        if name == "molecule":
            assert row["pressure_GPa"] == row["volume_A3"] == ""
        else:
            assert float(row["volume_A3"]) == pytest.approx(np.linalg.det(TRICLINIC))
            ideal = 2 * kinetic / 3 / frame.get_volume()
            pressure = (ideal - frame.get_stress()[:3].mean()) / units.GPa
            assert float(row["pressure_GPa"]) == pytest.approx(pressure, rel=1e-6)
    frame = frames[-1]
    forces = frame.get_forces()
    frame.calc = PonitaCalculator("p0.pt")
    np.testing.assert_allclose(forces, frame.get_forces(), atol=1e-5)


def test_energy_is_conserved_to_second_order_in_the_time_step():
    errors = []
    for timestep in (0.8, 0.4):
        steps = str(round(16 / timestep))
        words = ("--timestep", str(timestep), "--steps", steps, "--log_every", "1", "--temperature", "600")
        energy = record.read_log(md(*words, structure="crystal.xyz", out=f"dt{timestep}") / "log.csv")[
            "total_energy_eV"
        ]
        errors.append(np.abs(energy - energy[0]).max())
    assert errors[1] > 1e-6 and 3.4 < errors[0] / errors[1] < 4.6


def test_a_simulation_that_was_killed_goes_on_to_where_it_would_have_come():
    words = ("--log_every", "4", "--save_every", "8")
    whole = md("--steps", "24", *words, structure="crystal.xyz", out="whole")
    folder = md("--steps", "16", *words, structure="crystal.xyz")
    kept = (folder / "trajectory.xyz").read_text(), (folder / "log.csv").read_text()
    for name, text, part in zip(("trajectory.xyz", "log.csv"), kept, ("3\nLattice=", "20,0.01"), strict=True):
        (folder / name).write_text(text + part)  # cut off in the middle of a frame and of a row
    go_on("--steps", "24")
    assert steps_of(folder) == steps_of(whole) == [0, 8, 16, 24]
    assert json.loads((folder / "settings.json").read_text())["steps"] == 24
    ours, theirs = (record.read_log(f / "log.csv") for f in (folder, whole))
    assert ours["step"].tolist() == theirs["step"].tolist() == list(range(0, 25, 4))
    np.testing.assert_allclose(ours["total_energy_eV"], theirs["total_energy_eV"], rtol=0, atol=1e-6)
    a, b = (read(f / "trajectory.xyz") for f in (folder, whole))
    np.testing.assert_allclose(a.positions, b.positions, rtol=0, atol=1e-6)
    np.testing.assert_allclose(a.get_momenta(), b.get_momenta(), rtol=0, atol=1e-5)
    assert np.abs(a.positions - read("crystal.xyz").positions).max() > 1e-2


def test_what_was_written_stays_until_a_simulation_really_goes_on(capsys):
    folder = md("--steps", "15", "--save_every", "10", "--log_every", "5")
    text = (folder / "trajectory.xyz").read_text()
    (folder / "trajectory.xyz").write_text(text[: text.rindex("3\nLattice")])  # a frame fewer than the log has rows
    before = (folder / "log.csv").read_bytes()
    assert "out is at step 10 already; --steps 5 counts" in error(capsys, "--out", "out", "--continue", "--steps", "5")
    assert (folder / "log.csv").read_bytes() == before
    go_on("--steps", "20")
    assert [int(row["step"]) for row in rows(folder)] == [0, 5, 10, 15, 20]


def test_ctrl_c_ends_after_a_step_with_everything_written(monkeypatch, capsys):
    handler, row, calls = signal.getsignal(signal.SIGINT), record.Recorder.row, []

    def interrupting(self, step):
        calls.append(step)
        if calls.count(20) == 1 and step == 20:
            signal.raise_signal(signal.SIGINT)
        return row(self, step)

    monkeypatch.setattr(record.Recorder, "row", interrupting)
    folder = md("--steps", "1000000", "--save_every", "7")
    assert "stopped at step 20 of 1000000: interrupted" in capsys.readouterr().out
    assert steps_of(folder) == [0, 7, 14, 20] and rows(folder)[-1]["step"] == "20" and (folder / "energy.png").exists()
    assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.setattr(record.Recorder, "row", row)
    assert steps_of(go_on("--steps", "21"))[-1] == 21


@pytest.fixture
def _usual_ctrl_c():
    """Python's own handler: a suite that a shell runs in the background starts with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_acts_as_usual(_usual_ctrl_c):
    with pytest.raises(KeyboardInterrupt), simulate.interrupts() as received:
        signal.raise_signal(signal.SIGINT)
        assert received == [signal.SIGINT]
        signal.raise_signal(signal.SIGINT)


def test_a_committee_stops_at_the_step_where_its_spread_passes_the_threshold(capsys):
    words = ("--committee", "p1.pt", "--log_every", "1", "--save_every", "100", "--seed", "5", "--steps")
    spread = record.read_log(md(*words, "12", out="free") / "log.csv")["max_force_std_eV_per_A"]
    threshold, step = spread[5:7].mean(), 6
    assert (np.diff(spread) > 0).all()
    capsys.readouterr()
    folder = md(*words, "12", "--threshold", f"{threshold:.9f}")
    out = capsys.readouterr().out
    assert f"stopped at step {step} of 12: the committee's spread of forces is" in out and "label it and train" in out
    stopped, last = read(folder / "stopped.xyz"), read(folder / "trajectory.xyz")
    assert last.info["step"] == step and last.info["max_force_std"] == pytest.approx(spread[step], rel=1e-6)
    np.testing.assert_allclose(stopped.positions, last.positions, atol=1e-8)
    assert last.arrays["forces_std"].max() == pytest.approx(spread[step], rel=1e-6)
    go_on("--threshold", "1000")
    assert steps_of(folder)[-1] == 12


def test_a_log_whose_columns_begin_or_end_on_the_way_is_read():
    folder = md("--steps", "3")
    go_on("--steps", "6", "--committee", "p1.pt")
    assert rows(folder)[0]["max_force_std_eV_per_A"] == "" != rows(folder)[-1]["max_force_std_eV_per_A"]
    assert "max_force_std_eV_per_A" not in record.read_log(folder / "log.csv")


def test_noise_is_a_function_of_the_seed_and_the_step_it_starts_from():
    words = ("--ensemble", "nvt", "--steps", "5", "--thermostat_time", "20")
    runs = {name: md(*words, "--seed", name[0], out=name) for name in ("0a", "0b", "1a")}
    end = {name: read(folder / "trajectory.xyz").positions for name, folder in runs.items()}
    np.testing.assert_array_equal(end["0a"], end["0b"])
    assert np.abs(end["0a"] - end["1a"]).max() > 1e-4


@pytest.mark.parametrize("cell", ["isotropic", "full"])
def test_constant_pressure_moves_the_cell(cell, capsys):
    words = ("--ensemble", "npt", "--pressure", "90", "--cell", cell, "--barostat_time", "60", "--steps", "12")
    folder = md(*words, structure="crystal.xyz")
    assert "energy drift" not in capsys.readouterr().out
    volume = record.read_log(folder / "log.csv")["volume_A3"]
    assert volume[-1] < 0.999 * volume[0]
    last = read(folder / "trajectory.xyz")
    assert last.get_volume() == pytest.approx(volume[-1], rel=1e-6)
    shape = last.cell.array / volume[-1] ** (1 / 3) - TRICLINIC / volume[0] ** (1 / 3)
    assert (np.abs(shape).max() < 1e-9) == (cell == "isotropic")


def test_nothing_that_is_held_in_place_moves_or_has_a_temperature(capsys):
    atoms = oxide(repeat=2)
    atoms.set_constraint(FixAtoms([0, 5]))
    write("held.xyz", atoms)
    folder = md("--ensemble", "nvt", "--steps", "5", "--temperature", "2000", structure="held.xyz")
    go_on("--steps", "10")
    last = read(folder / "trajectory.xyz")
    np.testing.assert_allclose(last.positions[[0, 5]], atoms.positions[[0, 5]], atol=1e-7)
    assert np.abs(last.positions - atoms.positions).max() > 1e-3
    freedom = 3 * (len(atoms) - 2)
    temperature = 2 * last.get_kinetic_energy() / freedom / units.kB
    assert float(rows(folder)[-1]["temperature_K"]) == pytest.approx(temperature, rel=1e-6)
    words = ("--ckpt_path", "p0.pt", "--structure", "held.xyz", "--ensemble", "npt", "--out", "npt")
    assert "some of these are held in place; use 'nvt'" in error(capsys, *words)


@pytest.mark.parametrize(
    ("atoms", "freedom"),
    [(oxide(), 6), (oxide(pbc=False), 3), (Atoms("O2", [[0, 0, 0], [0, 0, 1.2]]), 1), (Atoms("O"), 1)],
    ids=["crystal", "molecule", "dimer", "atom"],
)
def test_velocities_have_no_momentum_and_the_temperature_counts_what_moves(atoms, freedom):
    atoms = atoms.copy()
    draw_velocities(atoms, 300.0, seed=1)
    assert np.abs(atoms.get_momenta().sum(0)).max() < 1e-12
    if not atoms.pbc.any() and len(atoms) > 1:
        assert np.abs(atoms.get_angular_momentum()).max() < 1e-10
    assert degrees_of_freedom(atoms, "nve") == freedom and degrees_of_freedom(atoms, "nvt") == 3 * len(atoms)


def test_nanoseconds_a_day():
    assert simulate.ns_per_day(0.01, 0.5) == pytest.approx(4.32)  # 8.64 million steps of half a femtosecond


def test_the_structure_a_simulation_starts_from_leaves_its_labels_behind():
    atoms = oxide()
    atoms.info["energy_of_somebody"] = 1.0
    atoms.arrays["charges_of_somebody"] = np.ones(3)
    write("labelled.xyz", [oxide(pbc=False), atoms])
    frame = read(md("--steps", "2", structure="labelled.xyz") / "trajectory.xyz")
    assert frame.pbc.all() and set(frame.info) == {"step", "time_ps"}
    assert "charges_of_somebody" not in frame.arrays


GIVEN = ("--ckpt_path", "p0.pt", "--structure", "crystal.xyz")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--structure", "crystal.xyz"), "no potential; name one with --ckpt_path"),
        (("--ckpt_path", "p0.pt"), "no structure; name one with --structure"),
        (("--ckpt_path", "none.pt", "--structure", "crystal.xyz"), "none.pt"),
        (("--ckpt_path", "p0.pt", "--structure", "none.xyz"), "no structure at none.xyz"),
        (("--ckpt_path", "p0.pt", "--structure", "broken.xyz"), "broken.xyz cannot be read as a structure"),
        (("--ckpt_path", "p0.pt", "--structure", "iron.xyz"), "atomic numbers [26] are unknown to this potential"),
        (("--ckpt_path", "p0.pt", "--structure", "flat.xyz"), "is flat along a periodic direction (volume 0)"),
        (("--ckpt_path", "p0.pt", "--structure", "molecule.xyz", "--ensemble", "npt"), "'npt' needs a periodic"),
        (("--ckpt_path", "open.pt", "--structure", "crystal.xyz"), "has no cutoff; train one with a cutoff"),
        ((*GIVEN, "--threshold", "1"), "name further members with --committee"),
        ((*GIVEN, "--threshold", "-1", "--committee", "p1.pt"), "threshold=-1.0; expected a positive number"),
        ((*GIVEN, "--committee", "p0.pt"), "a committee of 1 has no spread"),
        ((*GIVEN, "--pressure", "2"), "pressure=2.0 GPa has no effect on 'nve'; use ensemble='npt'"),
        ((*GIVEN, "--temperature", "-3"), "temperature=-3.0; expected K"),
        ((*GIVEN, "--timestep", "0"), "timestep=0.0; expected a positive time in fs"),
        ((*GIVEN, "--tabulate", "8"), "--tabulate 8; expected two numbers of nodes"),
        ((*GIVEN, "--head", "pbe"), "head='pbe' is unknown to this potential"),
        ((*GIVEN, "--skin", "-1"), "skin=-1.0; expected a length in Å"),
        ((*GIVEN, "--steps", "0"), "argument --steps: 0; expected at least 1"),
        ((*GIVEN, "--temp", "300"), "unrecognized arguments: --temp 300"),
        (("--continue",), "out holds no simulation to continue: out/settings.json is missing"),
    ],
)
def test_mistakes_get_one_clear_message_and_leave_nothing_behind(capsys, words, message):
    Path("broken.xyz").write_text("three atoms\n")
    write("iron.xyz", Atoms("OFe", [[0, 0, 0], [0, 0, 1.6]]))
    write("flat.xyz", oxide(cell=TRICLINIC * [[1], [1], [0]]))
    save(oxide_potential(cutoff=None), "open.pt")
    said = error(capsys, *words, "--out", "out")
    assert message in said and "Traceback" not in said
    assert not Path("out").exists()


def test_a_simulation_is_not_written_over_nor_changed_on_its_way(capsys):
    folder = md("--steps", "4")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    words = ("--ckpt_path", "p0.pt", "--structure", "molecule.xyz", "--out", "out")
    said = error(capsys, *words)
    assert "out holds trajectory.xyz, log.csv already, which would be written over; go on with --continue" in said
    for option, value in {"timestep": "1.0", "ensemble": "nvt", "structure": "crystal.xyz"}.items():
        said = error(capsys, "--out", "out", "--continue", "--steps", "8", f"--{option}", value)
        assert f"--{option} {value} is not what out was started with" in said and "leave it out" in said
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    go_on("--steps", "8", "--structure", "molecule.xyz", "--timestep", "0.5")
    assert steps_of(folder)[-1] == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ensemble": "nph"}, r"ensemble='nph'; expected one of \['nve', 'nvt', 'npt'\]"),
        ({"cell": "cubic"}, "cell='cubic'; expected one of"),
        ({"barostat_time": float("inf")}, "barostat_time=inf; expected a positive time"),
        ({"ensemble": "npt", "pressure": float("nan")}, "pressure=nan; expected a finite number"),
    ],
)
def test_conditions_that_do_not_exist_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Conditions(**changes)
