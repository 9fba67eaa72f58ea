"""The command line as users meet it: names, folders, mistakes."""

import csv
import itertools
import sys
from pathlib import Path

import pytest
import torch
import yaml
from support.atoms import write_for
from support.digits import write_digits
from support.labelled_molecules import write_qm9
from support.molecules import write_original_qm9
from support.tiny_runs import DIFFUSION, MIXTURE, NBODY, POTENTIAL, PROPERTY, SUPERPIXEL, weights, write_springs

from ponita.data.rmd17 import MOLECULES
from ponita.models import Ponita, Potential, load
from ponita.tasks import configs, runs
from ponita.tasks.cli import main
from ponita.tasks.pictures import read_metrics

#: Of other commands than fit, that need what those leave, or with tests of their own.
OTHERS = {
    *("search/potential_quick", "search/finetune", "federated/potential"),
    *("one_byte/lora", "one_byte/readouts"),
    *("continual/rmd17", "continual/superpixel"),
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(runs.VARIABLE, raising=False)


def run_and_fail(capsys, args):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code not in (0, None)
    return capsys.readouterr().err


def is_png(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5000


def test_help_and_listing_need_no_training(capsys):
    assert main(["--help"]) is None
    assert "ponita fit --config nbody/quick" in capsys.readouterr().out
    main(["configs"])
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("nbody/quick", "nbody/paper", "potential/quick", "potential/rmd17"))
    assert "superpixel/quick" in listed and "superpixel/paper" in listed


def test_a_run_leaves_everything_in_one_folder(capsys):
    assert main(["fit", *NBODY]) is None
    folder = Path("runs/nbody-quick")
    printed = capsys.readouterr().out
    assert "linear motion" in printed and "times better" in printed and "everything of this run is in" in printed
    assert (folder / "report.txt").read_text().strip() in printed
    assert is_png(folder / "learning_curve.png") and is_png(folder / "trajectories.png")
    curves = read_metrics(folder / "metrics.csv")
    assert {"train/loss", "valid/mse", "test/mse", "test/linear_mse"} <= curves.keys()
    assert set(curves["train/loss"]) == {0, 1}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["init_args"]["model"]["init_args"]["hidden_channels"] == 8
    assert config["model"]["init_args"]["optimizer"]["lr"] == 4e-3
    assert isinstance(load(folder / "checkpoints/best.ckpt"), Ponita)
    assert not (weights(folder / "checkpoints/last.ckpt").keys() ^ weights(folder / "checkpoints/best.ckpt").keys())


def test_runs_do_not_overwrite_each_other_and_resume_goes_on_in_place():
    main(["fit", *NBODY])
    main(["fit", *NBODY])
    assert sorted(p.name for p in Path("runs").iterdir()) == ["nbody-quick", "nbody-quick-2"]
    main(["fit", *NBODY, "--trainer.max_epochs", "3", "--ckpt_path", "last"])
    assert sorted(p.name for p in Path("runs").iterdir()) == ["nbody-quick", "nbody-quick-2"]
    with open("runs/nbody-quick-2/metrics.csv", newline="") as file:
        epochs = [int(row["epoch"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert epochs == [0, 1, 2]


def test_a_test_alone_repeats_the_numbers_of_the_training_run(capsys):
    main(["fit", *NBODY])
    during = Path("runs/nbody-quick/report.txt").read_text()
    main(["test", "--ckpt_path", "runs/nbody-quick/checkpoints/best.ckpt"])
    assert Path("runs/nbody-quick-test/report.txt").read_text() == during
    main(["validate", "--ckpt_path", "runs/nbody-quick/checkpoints/best.ckpt"])
    main(["predict", "--ckpt_path", "runs/nbody-quick/checkpoints/best.ckpt"])


def test_potential_forces_in_fit_test_and_validate_and_the_average_is_what_is_tested():
    write_springs(Path("data/rmd17"))
    main(["fit", *POTENTIAL])
    folder = Path("runs/potential-quick")
    assert is_png(folder / "parity.png")
    best = folder / "checkpoints/best.ckpt"
    during = (folder / "report.txt").read_text()
    main(["test", "--ckpt_path", str(best)])
    assert Path("runs/potential-quick-test/report.txt").read_text() == during
    main(["validate", "--ckpt_path", str(best)])

    potential = load(best)
    assert isinstance(potential, Potential) and potential.elements == (1, 6, 8) and float(potential.scale) > 0
    averaged, raw = weights(best), weights(best, "current_model_state")
    name = "model.network.lift.embedding.weight"
    assert torch.equal(potential.state_dict()[name.removeprefix("model.")], averaged[name])
    assert not torch.equal(averaged[name], raw[name])


def test_a_potential_is_tested_on_averages_over_rotations():
    write_springs(Path("data/rmd17"))
    main(["fit", *POTENTIAL, "--trainer.max_epochs", "1", "--model.init_args.test_rotations", "3"])
    assert "mean of 3 rotations" in Path("runs/potential-quick/report.txt").read_text()


def test_early_stopping_is_an_option():
    stop = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=train/loss"]
    main(["fit", *NBODY, "--trainer.max_epochs", "9", *stop, "--trainer.callbacks.stopping_threshold=1e9"])
    assert max(read_metrics(Path("runs/nbody-quick/metrics.csv"))["train/loss"]) == 0


@pytest.mark.filterwarnings("ignore:.*reference energies")  # a few structures do not determine those of all elements
@pytest.mark.parametrize("name", sorted(set(configs.packaged()) - OTHERS))
def test_every_packaged_configuration_runs(name):
    write_springs(Path("data/rmd17"))
    write_digits(Path("digits"))
    write_original_qm9(Path("qm9"))
    small = {"diffusion": DIFFUSION, "potential": POTENTIAL, "property": PROPERTY, "superpixel": SUPERPIXEL}
    small = small.get(name.split("/")[0], NBODY)
    path = configs.packaged()[name]
    if "StructureDataModule" in path.read_text():
        write_for(path)
        small = ["--data.init_args.eval_batch_size", "4", "--data.init_args.split.valid", "3"]
        small = small[:2] if "valid_groups" in path.read_text() else small
    if "RMD17MixtureDataModule" in path.read_text():
        small = MIXTURE
        for molecule in set(MOLECULES) - {"ethanol"}:
            write_springs(Path("data/rmd17"), molecule=molecule)
    sizes = [word for option in itertools.pairwise(small) if option[0].startswith("--data.") for word in option]
    sizes += ["--model.init_args.num_samples", "0"] if name.startswith("diffusion") else []
    if name == "property/paper":
        write_original_qm9(Path("data/qm9"))
        sizes += ["--data.init_args.split.kind", "random"]
    elif name.startswith("property"):
        write_qm9(Path("data/qm9"))
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    limits = [
        "--trainer.max_epochs",
        "1",
        "--trainer.check_val_every_n_epoch",
        "1",
        "--trainer.limit_train_batches",
        "1",
    ]
    if name == "potential/finetune":
        main(["fit", "--config", "potential/rmd17_seven", *sizes, *quiet, *limits])
    main(["fit", "--config", name, *sizes, *quiet, *limits])
    assert Path(f"runs/{name.replace('/', '-')}/report.txt").is_file()


def test_the_packaged_searches_run_and_their_networks_are_trained_on():
    write_springs(Path("data/rmd17"))
    short = ["--problem.data.init_args.num_valid", "6", "--problem.data.init_args.num_test", "8", "--progress", "false"]
    short += ["--problem.timed_structures", "2", "--method.init_args.epochs", "1", "--search.candidates", "3"]
    main(["search", "--config", "search/potential_quick", *short])
    small = ["--data.init_args.num_valid", "6", "--data.init_args.num_test", "8", "--trainer.max_epochs", "1"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.check_val_every_n_epoch", "1"]
    main(["fit", "--config", "search/finetune", *small, *quiet])
    assert Path("runs/search-finetune/report.txt").is_file()


def test_missing_packages_of_the_tasks_are_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.delitem(sys.modules, "ponita.tasks.lightning_cli", raising=False)
    assert "pip install 'ponita[tasks]'" in run_and_fail(capsys, ["fit", *NBODY])


def test_a_misspelt_key_is_named(capsys):
    assert "max_epoch" in run_and_fail(capsys, ["fit", *NBODY, "--trainer.max_epoch", "3"])
    Path("mine.yaml").write_text(
        configs.packaged()["nbody/quick"].read_text().replace("hidden_channels", "hiden_channels")
    )
    assert "hiden_channels" in run_and_fail(capsys, ["fit", "--config", "mine.yaml"])
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fit", "--config", "nbody/quik"], "did you mean 'nbody/quick'?"),
        (["fit", "--config", "missing.yaml"], "no configuration 'missing.yaml': not a file"),
        (["fit", *POTENTIAL, "--data.init_args.molecule", "etanol"], "did you mean 'ethanol'"),
        (["fit", *POTENTIAL], "no npz_data/rmd17_ethanol.npz in data/rmd17"),
        (["fit", *NBODY, "--data.init_args.sizes", "[99,8,8]"], "asks for 99 simulations of 24 drawn"),
        (["fit", *NBODY, "--ckpt_path", "nothing.ckpt"], "nothing.ckpt"),
        (
            ["fit", *NBODY, "--model.init_args.model.init_args.in_channels", "2"],
            "NBodyTask needs a network with in_channels=1, not 2",
        ),
        (["fit", *NBODY, "--trainer.max_epochs", "-1"], "the cosine schedule needs an end"),
    ],
)
def test_mistakes_get_one_clear_message(capsys, args, message):
    error = run_and_fail(capsys, args)
    assert message in error and "Traceback" not in error


def test_an_element_the_potential_does_not_know_is_named(capsys):
    write_springs(Path("data/rmd17"))
    elements = ["--model.init_args.elements", "[1,6,7]"]
    assert "atomic numbers [8] are unknown to this potential" in run_and_fail(capsys, ["fit", *POTENTIAL, *elements])


def test_damaged_data_and_checkpoints_are_named(capsys):
    write_springs(Path("data/rmd17"))
    data = Path("data/rmd17/npz_data/rmd17_ethanol.npz")
    whole = data.read_bytes()
    data.write_bytes(whole[:500])
    error = run_and_fail(capsys, ["fit", *POTENTIAL])
    assert str(data) in error and "damaged or was cut short" in error
    data.write_bytes(whole)
    main(["fit", *POTENTIAL, "--trainer.max_epochs", "1"])
    best = Path("runs/potential-quick/checkpoints/best.ckpt")
    wider = ["--model.init_args.model.init_args.hidden_channels", "12"]
    error = run_and_fail(capsys, ["test", *POTENTIAL, *wider, "--ckpt_path", str(best)])
    assert "another architecture" in error and "in the checkpoint" in error
    best.write_bytes(best.read_bytes()[:1000])
    error = run_and_fail(capsys, ["test", *POTENTIAL, "--ckpt_path", str(best)])
    assert str(best) in error and "truncated" in error
