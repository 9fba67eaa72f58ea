"""`continual/rmd17`: what is forgotten and what is not, going on after a stop, what a run leaves, and mistakes."""

import copy
import itertools
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from support.continual import NETWORK, RECIPE, assert_same
from support.tiny_runs import weights, write_springs

from ponita.data.units import EV_PER_KCAL_MOL
from ponita.models import load
from ponita.nn import calibrate
from ponita.tasks import configs, runs
from ponita.tasks.cli import main, run
from ponita.tasks.continual.masked_learner import METHODS
from ponita.tasks.continual.potential import ContinualPotentialTask
from ponita.tasks.continual.stream import RMD17StreamDataModule
from ponita.tasks.pictures import read_metrics

MOLECULES = ("ethanol", "malonaldehyde", "toluene")
EPOCHS, STEPS, FRAMES = 4, 4, {"num_train": 24, "num_valid": 6, "num_test": 8}


def words(molecules=MOLECULES, methods=METHODS, **trainer):
    options = {f"data.init_args.{name}": value for name, value in FRAMES.items()} | {
        "data.init_args.molecules": list(molecules),
        "data.init_args.epochs_per_molecule": EPOCHS,
        "data.init_args.batch_size": 6,
        "data.init_args.download": False,
        "model.init_args.methods": list(methods),
        "model.init_args.network": NETWORK,
        "model.init_args.score_share": 0.5,
        "model.init_args.lr": RECIPE.lr,
        "model.init_args.weight_lr": RECIPE.weight_lr,
        "trainer.max_epochs": EPOCHS * len(molecules),
        "trainer.enable_progress_bar": False,
        "trainer.enable_model_summary": False,
    }
    options |= {f"trainer.{name}": value for name, value in trainer.items()}
    return [
        "--config", "continual/rmd17", *(w for k, v in options.items() for w in (f"--{k}", json.dumps(v)))
    ]  # fmt: skip


def write_molecules(root=Path("data/rmd17"), molecules=MOLECULES):
    for seed, molecule in enumerate(molecules):
        write_springs(root, molecule=molecule, seed=seed)


def stream(**options):
    given = {"molecules": list(MOLECULES), "epochs_per_molecule": 2, "batch_size": 6, "download": False, **FRAMES}
    return RMD17StreamDataModule(**given, **options)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(runs.VARIABLE, raising=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of all methods, with the learning rates and the samples of each of its steps."""
    folder, before = tmp_path_factory.mktemp("whole"), Path.cwd()
    os.chdir(folder)
    os.environ.pop(runs.VARIABLE, None)
    write_molecules()
    steps, step, factors, gradients = [], ContinualPotentialTask.training_step, [], []

    def recorded(self, batch, batch_idx):
        own = self.model["separate"].potentials
        if not steps:  # nothing is trained
            for stage, potential in enumerate(own):
                inputs = self.model_inputs(self.data.first_batch_of(stage))
                factors.extend(f for of in calibrate(copy.deepcopy(potential), inputs).values() for f in of.values())
        step(self, batch, batch_idx)
        gradients.append([[p.grad for p in network.parameters() if p.grad is not None] for network in own])
        rates = [optimizer.param_groups[0]["lr"] for optimizer in self.trainer.optimizers]
        steps.append((self.current_epoch, batch.sample.tolist(), dict(zip(self.model, rates, strict=True))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ContinualPotentialTask, "training_step", recorded)
        cli = run(["fit", *words()])
    os.chdir(before)
    os.environ.pop(runs.VARIABLE, None)
    return SimpleNamespace(
        root=folder, folder=folder / "runs/continual-rmd17", task=cli.model, data=cli.datamodule, steps=steps,
        factors=factors, gradients=gradients,
    )  # fmt: skip


def test_a_run_leaves_a_table_a_picture_a_record_and_a_potential_of_each_method_and_molecule(whole):
    files = {path.name for path in whole.folder.iterdir()}
    assert {f"{method}-{molecule}.ckpt" for method in METHODS for molecule in MOLECULES} <= files
    for picture in ("errors.png", "learning_curve.png"):
        assert (whole.folder / picture).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    results = json.loads((whole.folder / "results.json").read_text())
    assert results["molecules"] == list(MOLECULES) and list(results["methods"]) == list(METHODS)
    report = (whole.folder / "report.txt").read_text()
    for method, found in results["methods"].items():
        assert [len(row) for row in found["forces"]] == [len(row) for row in found["energy"]] == [1, 2, 3]
        assert f"{sum(found['test_forces']) / 3:.1f}" in report and f"{sum(found['test_energy']) / 3:.1f}" in report
        assert method in report and found["seconds"] > 0
    curves = read_metrics(whole.folder / "metrics.csv")
    first = curves["valid_forces_mae/exssnet/ethanol"]
    assert list(first) == [3, 7, 11] and first[3] == pytest.approx(results["methods"]["exssnet"]["forces"][0][0])
    assert list(curves["learned"].values()) == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]
    assert len(curves["train/separate"]) == 12 and "test_energy_mae/ssnet/toluene" in curves
    table = (whole.folder / "data.txt").read_text()
    assert all(f"{float(value):.4f}" in table for value in whole.task.normalization.flatten())


def test_masks_and_networks_of_their_own_forget_nothing_and_the_others_do(whole):
    for method, found in whole.task.found.items():
        pairs = [(found.forces[t][i], found.forces[i][i]) for t in range(3) for i in range(t)]
        pairs += [(found.energy[t][i], found.energy[i][i]) for t in range(3) for i in range(t)]
        if method in ("sequential", "ssnet"):
            assert all(later != first for later, first in pairs), method
        else:
            assert all(later == first for later, first in pairs), method
    assert whole.task.found["sequential"].forces[1][0] > whole.task.found["sequential"].forces[0][0]


@pytest.mark.parametrize("method", METHODS)
def test_potentials_that_are_written_compute_what_the_learners_do_to_the_last_bit(whole, method):
    for stage, molecule in enumerate(MOLECULES):
        written = load(whole.folder / f"{method}-{molecule}.ckpt")
        whole.task.take_up(method, stage)
        errors = whole.task.found[method]
        for part, forces, energy in (
            ("valid", errors.forces[-1], errors.energy[-1]),
            ("test", errors.test_forces, errors.test_energy),
        ):
            batch = next(whole.data.batches_of(stage, part))
            expected = whole.task(batch)
            found = written.energy_forces(batch.pos, batch.numbers, batch=batch.batch, num_graphs=batch.num_graphs)
            assert torch.equal(found.energy, expected.energy) and torch.equal(found.forces, expected.forces)
            error = (expected.forces - batch.forces).abs().mean() * 1000
            assert float(error) == pytest.approx(forces[stage], rel=1e-5)
            error = (expected.energy - batch.energy).abs().mean() * 1000
            assert float(error) == pytest.approx(energy[stage], rel=1e-5)


def test_a_molecule_moves_in_the_potential_of_its_mask(whole):
    ase = pytest.importorskip("ase")
    with np.load(whole.root / "data/rmd17/npz_data/rmd17_ethanol.npz") as stored:
        ase.Atoms(stored["nuclear_charges"], stored["coords"][0]).write("start.xyz")
    potential = str(whole.folder / "exssnet-ethanol.ckpt")
    main(["md", "--ckpt_path", potential, "--structure", "start.xyz", "--steps", "3", "--out", "moved"])
    assert any(Path("moved").iterdir())


def test_energies_are_measured_from_each_molecules_mean_in_units_of_its_force(whole):
    for stage, molecule in enumerate(MOLECULES):
        with np.load(whole.root / f"data/rmd17/npz_data/rmd17_{molecule}.npz") as stored:
            energies, forces = (stored[name][:24] * EV_PER_KCAL_MOL for name in ("energies", "forces"))
        shift, scale = whole.task.normalization[stage].tolist()
        assert shift == pytest.approx(energies.mean(), abs=1e-9)
        assert scale == pytest.approx(math.sqrt((forces**2).mean()))
        potential = load(whole.folder / f"supsup-{molecule}.ckpt")
        assert (float(potential.shift), float(potential.scale)) == (shift, scale)


def test_rates_fall_by_half_a_cosine_in_each_phase_and_all_methods_have_the_same_batches(whole):
    assert len(whole.steps) == len(MOLECULES) * EPOCHS * STEPS
    highest = {"separate": [5e-3], "sequential": [5e-3], "supsup": [1e-2], "ssnet": [1e-2, 2e-3], "exssnet": [1e-2, 2e-3]}  # fmt: skip
    for number, (epoch, _, rates) in enumerate(whole.steps):
        assert epoch == number // STEPS
        for method, peaks in highest.items():
            length = EPOCHS * STEPS // len(peaks)
            phase, step = divmod(number % (EPOCHS * STEPS), length)
            assert rates[method] == pytest.approx(peaks[phase] * 0.5 * (1 + math.cos(math.pi * step / length)))


def test_each_network_of_its_own_is_calibrated_on_its_molecule_and_trained_alone_with_clipped_gradients(whole):
    assert len(whole.factors) == 3 * 2 * 2 and whole.factors == pytest.approx([1.0] * 12, rel=1e-3)
    norms = []
    for (epoch, _, _), of_networks in zip(whole.steps, whole.gradients, strict=True):
        assert [bool(gradients) for gradients in of_networks] == [stage == epoch // EPOCHS for stage in range(3)]
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in of_networks[epoch // EPOCHS])))
    assert max(norms) == pytest.approx(0.5, rel=1e-3)


def test_every_epoch_has_all_frames_of_its_molecule_in_an_order_of_its_own(whole):
    orders = [joined(s for epoch, s, _ in whole.steps if epoch == e) for e in range(EPOCHS * len(MOLECULES))]
    assert all(sorted(order) == list(range(24)) for order in orders)
    assert len({tuple(order) for order in orders}) == len(orders)
    data = stream(root=str(whole.root / "data/rmd17"))
    data.setup("fit")
    for epoch, stage in ((0, 0), (1, 0), (3, 1), (5, 2)):
        data.trainer = SimpleNamespace(current_epoch=epoch, world_size=1, global_rank=0)
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        assert joined(batch.sample.tolist() for batch in batches) == orders[epoch]
        own = joined(batch.energy.tolist() for batch in data.batches_of(stage, "train"))
        assert sorted(joined(batch.energy.tolist() for batch in batches)) == sorted(own)
    parts = [(stage, part) for stage in range(3) for part in ("train", "valid", "test")]
    energies = joined(batch.energy.tolist() for place in parts for batch in data.batches_of(*place))
    assert len(set(energies)) == len(energies) == 3 * (24 + 6 + 8)


def joined(lists):
    return list(itertools.chain.from_iterable(lists))


class Stopped(Exception):
    """In the middle of a run."""


def test_a_run_that_stops_in_both_phases_goes_on_to_the_same_bits(whole, monkeypatch):
    write_molecules()
    begin, last = ContinualPotentialTask.on_train_epoch_start, Path("runs/continual-rmd17/checkpoints/last.ckpt")
    resumed: list[str] = []
    # After one of two epochs of scores, after a stage, and after one of two epochs of weights.
    for stop in (1, 4, 11):

        def stopping(self, stop=stop):
            if self.current_epoch == stop:
                raise Stopped
            begin(self)

        monkeypatch.setattr(ContinualPotentialTask, "on_train_epoch_start", stopping)
        monkeypatch.delenv(runs.VARIABLE, raising=False)
        with pytest.raises(Stopped):
            run(["fit", *words(), *resumed])
        assert torch.load(last, weights_only=True)["epoch"] == stop - 1
        resumed = ["--ckpt_path", "last"]
        if stop == 4:
            monkeypatch.delenv(runs.VARIABLE)
            report = run(["test", "--ckpt_path", str(last)]).model.report()
            assert "ethanol" in report and "malonaldehyde" not in report
    monkeypatch.setattr(ContinualPotentialTask, "on_train_epoch_start", begin)
    monkeypatch.delenv(runs.VARIABLE)
    cli = run(["fit", *words(), *resumed])
    assert_same(without_times(last), without_times(whole.folder / "checkpoints/last.ckpt"))
    assert len(weights(last)) > 100
    for method, found in cli.model.found.items():
        assert found.test_forces == whole.task.found[method].test_forces


def without_times(path):
    stored = torch.load(path, weights_only=True)
    for found in stored["continual"].values():
        assert found["found"].pop("seconds") > 0
    return {name: stored[name] for name in ("state_dict", "optimizer_states", "continual", "epoch", "global_step")}


def test_weights_of_earlier_molecules_that_move_stop_the_run(monkeypatch):
    write_molecules()
    end = ContinualPotentialTask.on_train_epoch_end

    def careless(self):
        if self.current_epoch == 7:
            layer = next(self.model["exssnet"].learning.bank.layers())
            layer.parametrizations.weight.original.data.add_(1e-3)
        end(self)

    monkeypatch.setattr(ContinualPotentialTask, "on_train_epoch_end", careless)
    with pytest.raises(RuntimeError, match="weights of earlier tasks changed"):
        run(["fit", *words(MOLECULES[:2], ["exssnet"])])


OF_A_RUN = {
    "epochs": (["--trainer.max_epochs", "5"], "expected 3 stages of 4 epochs"),
    "density": (["--model.init_args.density", "2"], "density=2.0; expected a share"),
    "element": (["--model.init_args.elements", "[1, 6]"], "atomic numbers [8] are unknown to this potential"),
}


@pytest.mark.parametrize("case", OF_A_RUN)
def test_mistakes_of_a_run_get_one_clear_message(case, capsys):
    options, message = OF_A_RUN[case]
    write_molecules()
    with pytest.raises(SystemExit):
        main(["fit", *words(), *options])
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_other_data_are_refused(capsys):
    write_molecules()
    config = yaml.safe_load(configs.packaged()["continual/rmd17"].read_text())
    config["data"] = {"class_path": "ponita.tasks.potential.RMD17DataModule", "init_args": {"num_valid": 6}}
    Path("mine.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit), pytest.warns(UserWarning, match="no `validation_step`"):
        main(["fit", "--config", "mine.yaml"])
    assert "needs molecules that come one after another" in capsys.readouterr().err
