"""`ponita search`: what a run leaves, that its checkpoints are ordinary ones, and mistakes."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from support.mistakes import assert_refused
from support.tiny_runs import write_springs

from ponita.models import EnergyForces, Potential, load
from ponita.sharing.search import Losses, extract_potential
from ponita.tasks import configs
from ponita.tasks.cli import main
from ponita.tasks.potential import RMD17DataModule
from ponita.tasks.search.problem import PotentialProblem
from ponita.training import LossWeights, energy_force_loss, structure_losses

SPACE = {"hidden_channels": [4, 8], "num_layers": [1, 2], "num_orientations": [6, 12], "cutoff": [2.5, 4.0]}
FIXED = {"basis_channels": 4, "widening": 2, "kernel": "spline", "lattice": [12, 8]}
METHODS = {
    "Uniform": {},
    "Sandwich": {"n_random": 1},
    "Enas": {"controller_steps": 2, "memory": "prev"},
    "Tangle": {"arch_warmup_epochs": 0},
    "PaDa": {"reweight": True},
    "GradientMatching": {"split_at": [1], "matching_batches": 1, "epochs": 2},
    "Shift": {"bins": 2, "update_every": 1},
    "AutoDistil": {"teacher_epochs": 1, "distill_epochs": 1, "heads": 2, "n_random": 1},
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PONITA_RUN_DIR", raising=False)
    write_springs(Path("data/rmd17"))


def data() -> RMD17DataModule:
    return RMD17DataModule(num_valid=6, batch_size=6, eval_batch_size=4, download=False)


def problem(**options: object) -> PotentialProblem:
    made = PotentialProblem(SPACE, FIXED, [1, 6, 8], data(), LossWeights(0.1, 1.0), timed_structures=2, **options)
    made.setup()
    return made


def words(name: str = "mine", method: str = "Sandwich", space: dict | None = None, **options: object) -> list[str]:
    """Words that search a small space."""
    source = yaml.safe_load(configs.packaged()["search/potential_quick"].read_text())
    source["problem"] |= {"space": space or SPACE, "network": FIXED, "timed_structures": 2}
    source["problem"]["data"]["init_args"] |= {"num_valid": 6, "num_test": 8, "batch_size": 12, "download": False}
    source["method"] = {
        "class_path": f"ponita.tasks.search.methods.{method}",
        "init_args": {"epochs": 1, **METHODS[method]},
    }
    source["search"] = {"searcher": "random", "candidates": 4}
    Path(f"{name}.yaml").write_text(yaml.safe_dump({**source, "progress": False, **options}))
    return ["search", "--config", f"{name}.yaml"]


def refused(capsys, args: list[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code not in (0, None)
    return capsys.readouterr().err


@pytest.mark.parametrize("name", METHODS)
def test_a_search_leaves_a_table_a_picture_and_ordinary_checkpoints(name, capsys):
    main(words(method=name))
    folder, printed = Path("runs/search-mine"), capsys.readouterr().out
    assert (folder / "front.txt").read_text().strip() in printed and "chosen" in printed
    picture = (folder / "front.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and len(picture) > 8000
    tried = json.loads((folder / "candidates.json").read_text())
    assert len(tried) == 4 and [t["forces_mae"] for t in tried] == sorted(t["forces_mae"] for t in tried)
    assert all(t["ms"] > 0 for t in tried)
    chosen = load(folder / "chosen.ckpt")
    assert isinstance(chosen, Potential)
    assert {key: tried[0][key] for key in SPACE} == {key: chosen.network.config[key] for key in SPACE}
    kept = sorted((folder / "front").glob("*.ckpt"))
    assert kept and all(isinstance(load(path), Potential) for path in kept)
    assert yaml.safe_load((folder / "config.yaml").read_text())["problem"]["space"] == SPACE


def test_what_was_chosen_is_trained_further(capsys):
    pytest.importorskip("peft")
    main(words())
    small = ["--data.init_args.num_valid", "6", "--data.init_args.num_test", "8", "--trainer.max_epochs", "1"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.check_val_every_n_epoch", "1"]
    checkpoint = ["--model.init_args.checkpoint", "runs/search-mine/chosen.ckpt"]
    main(["fit", "--config", "search/finetune", *checkpoint, *small, *quiet])
    trained, before = load("runs/search-finetune/checkpoints/best.ckpt"), load("runs/search-mine/chosen.ckpt")
    assert trained.network.config == before.network.config
    assert not torch.equal(trained.network.lift.embedding.weight, before.network.lift.embedding.weight)
    assert torch.equal(trained.scale, before.scale)


def test_the_limit_is_met_or_named_before_the_training(capsys):
    assert "costs at most 1e-06 ms; the smallest one takes" in refused(capsys, [*words(), "--limit_ms", "1e-6"])
    assert not Path("runs").exists()
    main([*words(), "--limit_ms", "1e6", "--run_dir", "loose"])
    assert Path("loose/chosen.ckpt").is_file()


def test_losses_of_structures_have_the_mean_of_the_batch():
    made = problem()
    task = made.new_task()
    batch = next(iter(made.epoch(0)))
    found = made.losses(task, batch)
    assert isinstance(found, Losses) and found.samples.shape == (6,)
    labels = EnergyForces(batch.energy, batch.forces)
    whole = energy_force_loss(found.output, labels, task.potential.scale, made.loss_weights)["loss"]
    assert float(found.mean.detach()) == pytest.approx(float(whole.detach()), rel=1e-5)
    counts = batch.ptr.diff()
    alone = [
        structure_losses(found.output, labels, task.potential.scale, w, batch.batch, counts)
        for w in (LossWeights(1.0, 0.0), LossWeights(1.0, 0.0, energy_per_atom=True), LossWeights(0.0, 1.0))
    ]
    torch.testing.assert_close(alone[0], 25 * alone[1])
    torch.testing.assert_close(0.1 * alone[0] + alone[2], found.samples.double())


def test_epochs_hold_every_frame_once_turned_anew():
    made = problem()
    first, second = (list(made.epoch(number)) for number in (0, 1))
    rows = [torch.cat([batch.sample for batch in epoch]) for epoch in (first, second)]
    assert not torch.equal(*rows) and torch.equal(*(r.sort().values for r in rows))
    assert torch.equal(torch.cat([b.sample for b in made.epoch(0)]), rows[0])
    frame = made.data.sets["train"][int(first[0].sample[0])]
    turned = first[0][0]
    assert not torch.allclose(turned.pos, frame.pos)
    torch.testing.assert_close(
        torch.cdist(turned.pos, turned.pos), torch.cdist(frame.pos, frame.pos), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(turned.forces.norm(dim=1), frame.forces.norm(dim=1))


def test_the_error_is_of_the_path_asked_for():
    made = problem()
    task = made.new_task()
    small = made.space.smallest()
    potential = made.task_of(extract_potential(task.model, small))
    assert made.error(task, small) == pytest.approx(made.error(potential), rel=1e-5)
    assert made.error(task, small) != made.error(task, made.space.largest())
    assert made.error(task, small, "test") != made.error(task, small)


MISTAKES = {
    "no configuration": (lambda: ["search"], "no --config"),
    "unknown": (lambda: ["search", "--config", "search/potential_quik"], "did you mean 'search/potential_quick'"),
    "no nesting": (lambda: words(space={"space": ["R3", "R3xS2"]}), "do not nest"),
    "order": (lambda: words(space={"num_layers": [2, 1]}), "ordered options must grow"),
    "searcher": (lambda: [*words(), "--search.searcher", "luck"], "expected one of ['evolution'"),
    "epochs": (lambda: [*words(), "--method.init_args.epochs", "0"], "epochs=0"),
    "fixed twice": (lambda: words(space={**SPACE, "widening": [1, 2]}), "are chosen and fixed"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named_before_anything_is_written(case, capsys):
    args, message = MISTAKES[case]
    assert_refused(args(), message, capsys)
