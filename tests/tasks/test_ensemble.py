"""`ponita ensemble`: members by seeds, and whether their spread tells their error."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from support.atoms import CONFIG, crystals, molecules, write_crystals

from ponita.interfaces.ase import CommitteeCalculator
from ponita.tasks import runs
from ponita.tasks.cli import main
from ponita.tasks.ensemble import command
from ponita.tasks.ensemble.calibration import calibrate_committee, rank_correlation
from ponita.tasks.ensemble.pictures import reliability

ROOT = Path("runs/run-ensemble")
DATA = "{train: train.xyz, test: test.xyz, split: {valid: 3}, batch_size: 4}"


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(runs.VARIABLE, raising=False)
    write_crystals(Path("train.xyz"), 12)
    write_crystals(Path("test.xyz"), 5, seed=5)
    Path("run.yaml").write_text(CONFIG.format(data=DATA, epochs=1))


def ensemble(*seeds: int, words: tuple[str, ...] = ()) -> None:
    main(["ensemble", "--config", "run.yaml", "--seeds", *map(str, seeds), *words])


def error(capsys, *words: str) -> str:
    with pytest.raises(SystemExit):
        main(["ensemble", *words])
    return capsys.readouterr().err


def test_members_are_trained_once_and_compared_on_the_test_set(capsys, monkeypatch):
    ensemble(0, 1)
    folders = [ROOT / f"seed-{seed}" for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        assert settings["seed_everything"] == settings["model"]["init_args"]["seed"] == seed
        assert settings["data"]["init_args"]["seed"] == seed
    assert (ROOT / "calibration.png").read_bytes()[:4] == b"\x89PNG"
    table = (ROOT / "calibration.txt").read_text()
    assert all(name in table for name in ("seed-0", "seed-1", "mean", "rank correlation", "energy MAE (meV/atom)"))
    assert table.strip() in capsys.readouterr().out

    calc = CommitteeCalculator([folder / "checkpoints/best.ckpt" for folder in folders])
    errors, spreads, energies = [], [], []
    for atoms in crystals(5, seed=5):
        true = atoms.get_forces(), atoms.get_potential_energy()
        atoms.calc = calc
        errors.append(atoms.get_forces() - true[0])
        spreads.append(calc.results["forces_std"])
        energies.append(1000 * abs(atoms.get_potential_energy() - true[1]) / len(atoms))
    errors, spreads = np.concatenate(errors), np.concatenate(spreads)
    measured = json.loads((ROOT / "calibration.json").read_text())
    assert measured["forces"]["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-3)
    assert measured["energy"]["mae"] == pytest.approx(np.mean(energies), rel=1e-2)
    ratio = np.sqrt((errors**2).sum(1).mean() / (spreads**2).mean())
    assert measured["forces"]["error_over_spread"] == pytest.approx(ratio, rel=1e-3)

    # The same command trains nobody, a further seed one member, and one that was interrupted goes on.
    before = {folder: (folder / "report.txt").stat().st_mtime_ns for folder in folders}
    started = []
    monkeypatch.setattr("ponita.tasks.lightning_cli.run_command", started.append)
    with pytest.raises(SystemExit):  # since nobody writes the report of seed 2
        ensemble(0, 1, 2)
    said = capsys.readouterr()
    assert "seed 0: finished, in runs/run-ensemble/seed-0" in said.out and "seed 2 was interrupted" in said.err
    assert len(started) == 1 and "--ckpt_path" not in started[0] and str(ROOT / "seed-2") in started[0]
    assert before == {folder: (folder / "report.txt").stat().st_mtime_ns for folder in folders}
    (folders[1] / "report.txt").unlink()
    with pytest.raises(SystemExit):
        ensemble(0, 1)
    last = started[1].index("--ckpt_path")
    assert len(started) == 2 and started[1][last + 1] == str(folders[1] / "checkpoints/last.ckpt")

    # Labels that the test set lacks are left out of the comparison.
    frames = crystals(5, seed=5)
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, forces=atoms.calc.results["forces"])
    write("test.xyz", frames, format="extxyz")
    assert "energy" not in calibrate_committee(ROOT, folders)
    only = json.loads((ROOT / "calibration.json").read_text())
    assert only == {"forces": measured["forces"]}
    settings = yaml.safe_load((folders[1] / "config.yaml").read_text())
    settings["data"]["init_args"]["test"] = "train.xyz"
    (folders[1] / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match=r"seed-1 and .*seed-0 were trained on different data"):
        calibrate_committee(ROOT, folders)


def test_members_of_one_folder_have_the_same_options(monkeypatch, capsys):
    monkeypatch.setattr(command, "train", lambda config, seed, folder, overrides: folder)
    monkeypatch.setattr("ponita.tasks.ensemble.calibration.calibrate_committee", lambda root, folders: "table")
    ensemble(0, 1, words=("--trainer.max_epochs", "2"))
    ensemble(2, 3, words=("--trainer.max_epochs", "2"))
    said = error(capsys, "--config", "run.yaml", "--trainer.max_epochs", "3")
    assert "were trained with" in said and "name another folder with --run_dir" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--config", "run.yaml", "--seeds", "1"), "--seeds 1; expected two or more different seeds"),
        (("--config", "run.yaml", "--seeds", "1", "1"), "--seeds 1 1; expected two or more different seeds"),
        (("--config", "nbody/quick"), "committees are of potentials, such as potential/quick"),
        (("--config", "none.yaml"), "none.yaml"),
    ],
)
def test_mistakes_are_explained_before_anything_is_trained(capsys, words, message):
    said = error(capsys, *words)
    assert message in said and "Traceback" not in said and not Path("runs").exists()


def test_rank_correlation_sees_order_alone():
    a = torch.tensor([0.3, 0.1, 2.0, 0.7])
    assert rank_correlation(a, a.exp()) == pytest.approx(1) and rank_correlation(a, -a) == pytest.approx(-1)
    assert rank_correlation(a, torch.tensor([3.0, 1.0, 2.0, 4.0])) == pytest.approx(0.4)  # 1 - 6 sum d² / (n³ - n)


def test_reliability_is_the_root_mean_square_in_bins_of_equal_numbers():
    spread, error = torch.tensor([4.0, 1.0, 3.0, 2.0]), torch.tensor([8.0, 2.0, 6.0, 4.0])
    for bins in (1, 2, 4, 12):
        x, y = reliability(error, spread, bins)
        assert len(x) == min(bins, 4)
        torch.testing.assert_close(y, 2 * x)
    torch.testing.assert_close(reliability(error, spread, 2)[0], torch.tensor([2.5, 12.5]).sqrt())


def test_molecules_without_a_cutoff_are_compared_too():
    write("train.xyz", molecules(12), format="extxyz")
    write("test.xyz", molecules(3, seed=1), format="extxyz")
    settings = yaml.safe_load(CONFIG.format(data=DATA, epochs=1))
    settings["model"]["init_args"]["loss_weights"] = {"energy": 1.0, "forces": 1.0}
    settings["model"]["init_args"]["model"]["init_args"] |= {"cutoff": None, "kernel": "mlp"}
    Path("run.yaml").write_text(yaml.safe_dump(settings))
    ensemble(3, 4)
    assert json.loads((ROOT / "calibration.json").read_text())["forces"]["mae"] > 0
