"""Digits a few classes at a time: what each stage shows, keeps and aligns, going on after a stop, and what a run leaves."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.digits import write_published

from ponita.models import load
from ponita.tasks import runs
from ponita.tasks.cli import main, run
from ponita.tasks.continual.classes import IncrementalSuperpixelDataModule
from ponita.tasks.continual.incremental import IncrementalTask
from ponita.tasks.continual.incremental_learner import METHODS, Learner
from ponita.tasks.pictures import read_metrics

MODEL, NETWORK, DATA = "--model.init_args", "--model.init_args.model.init_args", "--data.init_args"
ORDER = [4, 1, 7, 5, 3, 9, 0, 8, 6, 2]
SIZES = {"num_train": 4, "num_test": 2, "budget": 14, "batch_size": 4}
TINY = [
    *("--config", "continual/superpixel", "--trainer.enable_progress_bar", "false", f"{DATA}.download", "false"),
    *("--trainer.enable_model_summary", "false", "--trainer.max_epochs", "10", f"{DATA}.epochs_per_stage", "2"),
    *(word for name, value in SIZES.items() for word in (f"{DATA}.{name}", str(value))),
    *(f"{DATA}.num_valid", "10", f"{DATA}.order", str(ORDER), f"{DATA}.root", "../mnist"),
    *(f"{NETWORK}.hidden_channels", "8", f"{NETWORK}.basis_channels", "8", f"{NETWORK}.num_layers", "2"),
    *(f"{NETWORK}.cutoff", "12", f"{NETWORK}.lattice", "[8,8]", f"{NETWORK}.readouts", "all"),
    *(f"{MODEL}.align.max_gamma", "100", f"{MODEL}.optimizer.lr", "5e-3", f"{MODEL}.optimizer.weight_decay", "1e-3"),
    *(f"{MODEL}.optimizer.warmup_epochs", "1", f"{MODEL}.readout_lr", "0.2", f"{DATA}.eval_batch_size", "6"),
]
EXEMPLARS_OF = {
    0: 0,
    1: 7,
    2: 3,
    3: 2,
    4: 1,
}  # of each old class, from a budget of 14; a class has no more than 4 images


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A run of five stages, and what its methods were given, began with and ended with."""
    folder = tmp_path_factory.mktemp("classes")
    write_published(folder / "mnist/raw/MNISTSuperpixels.pt", counts=(100, 40))
    found = SimpleNamespace(folder=folder, run=folder / "work/run", batches=[], begun={}, ended={}, rates=[], turned={})
    (folder / "work").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "work")
        patch.delenv(runs.VARIABLE, raising=False)
        watch(patch, found)
        cli = run(["fit", *TINY, "--run_dir", "run"])
    found.task, found.data = cli.model, cli.datamodule
    return found


def watch(patch, found):
    begin, end = Learner.begin, Learner.end
    losses, rotate, step = IncrementalTask.losses, IncrementalTask.rotate_batch, IncrementalTask.training_step

    def noting_begin(self, num_old, num_seen, seed):
        before = state(self.network)
        begin(self, num_old, num_seen, seed)
        found.begun[name_of(self), num_seen] = (before, state(self.network))

    def noting_end(self, stage, num_old, num_seen):
        before = state(self.network)
        end(self, stage, num_old, num_seen)
        found.ended[name_of(self), num_seen] = (before, state(self.network))

    def noting_losses(self, batch):
        note = {"epoch": self.current_epoch, "used": [len(optimizer.state) for optimizer in self.trainer.optimizers]}
        note |= {"decay": [o.param_groups[0]["weight_decay"] for o in self.trainer.optimizers]}
        for name, part in batch.items():
            teacher = self.learners[name].teacher
            note[name] = {"y": part.y, "rows": part.sample, "pos": part.pos, "edges": part.edges.num_edges}
            note[name]["memory"] = self.learners[name].memory.state_dict()
            note[name]["teacher"] = None if teacher is None else state(teacher)
        found.batches.append(note)
        return losses(self, batch)

    def noting_rotate(self, batch, rotations):
        if not torch.is_grad_enabled():
            found.turned.setdefault(self.stage, {}).update(zip(batch.sample.tolist(), rotations, strict=True))
        return rotate(self, batch, rotations)

    def noting_step(self, batch, batch_idx):
        step(self, batch, batch_idx)
        found.rates.append((self.current_epoch, [o.param_groups[-1]["lr"] for o in self.trainer.optimizers]))

    names = {}

    def name_of(learner):
        if id(learner) not in names:  # begins in the order of the methods
            names[id(learner)] = list(METHODS)[len(names)]
        return names[id(learner)]

    patch.setattr(Learner, "begin", noting_begin)
    patch.setattr(Learner, "end", noting_end)
    patch.setattr(IncrementalTask, "losses", noting_losses)
    patch.setattr(IncrementalTask, "training_step", noting_step)
    patch.setattr(IncrementalTask, "rotate_batch", noting_rotate)


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(seen, tmp_path, monkeypatch):
    monkeypatch.chdir(seen.folder / "work")
    monkeypatch.delenv(runs.VARIABLE, raising=False)


HEADS = ("readouts.0.linear.weight", "readouts.1.linear.weight")


def test_a_run_leaves_tables_pictures_numbers_and_networks(seen):
    report = (seen.run / "report.txt").read_text()
    assert "Digits 4, 1, 7, 5, 3, 9, 0, 8, 6, 2, 2 at a time" in report and "norm of old rows" in report
    for name in ("accuracy.png", "confusion.png", "learning_curve.png"):
        assert (seen.run / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    found = json.loads((seen.run / "results.json").read_text())
    assert found["order"] == ORDER and found["classes"] == [2, 4, 6, 8, 10] and found["cpu_seconds"] > 0
    assert set(found["methods"]) == set(METHODS)
    for method in found["methods"].values():
        assert len(method["accuracy"]) == len(method["accuracy_turned"]) == 5
        assert set(method["alignment"]) == {"1", "2", "3", "4"}
    main(["test", "--ckpt_path", str(seen.run / "checkpoints/best.ckpt"), "--run_dir", "again"])
    assert Path("again/report.txt").read_text() == report


def test_every_stage_but_the_last_is_measured_in_training_and_the_last_by_the_test(seen):
    curves = read_metrics(seen.run / "metrics.csv")
    for name in METHODS:
        assert sorted(curves[f"seen/{name}_accuracy"]) == [1, 3, 5, 7]
        assert list(curves[f"test/{name}_accuracy"].values()) == pytest.approx([seen.task.record.accuracy(name, 4)])


def test_networks_are_written_with_digits_as_outputs_and_score_what_was_reported(seen):
    found = json.loads((seen.run / "results.json").read_text())["methods"]
    seen.data.show(4)
    batch = seen.data.sets["measured"].__getitems__(range(20))
    for name, learner in seen.task.learners.items():
        network = load(seen.run / f"{name}.ckpt")
        inputs = seen.task.model_inputs(batch)
        with torch.no_grad():
            digits, stream = network(**inputs).scalars, learner.network(**inputs).scalars
        torch.testing.assert_close(digits[:, ORDER], stream)
        assert not any(readout.linear.bias.any() for readout in network.readouts.values())
        true = torch.tensor(ORDER)[batch.y]
        right = digits.argmax(1) == true
        assert float(right.double().mean()) == pytest.approx(found[name]["accuracy"][-1])
        assert float(right[batch.y >= 8].double().mean()) == pytest.approx(found[name]["new"])
    last = load(seen.run / "checkpoints/last.ckpt")
    assert same(last.state_dict(), seen.task.learners["wa"].network.state_dict())


def test_an_epoch_is_every_new_image_and_every_exemplar_once(seen):
    for epoch in range(10):
        stage, batches = epoch // 2, [note for note in seen.batches if note["epoch"] == epoch]
        new = list(range(8 * stage, 8 * stage + 8))
        for name in ("finetune", "kd", "wa"):
            kept = [row for rows in batches[0][name]["memory"].values() for row in rows]
            rows = torch.cat([note[name]["rows"] for note in batches]).tolist()
            assert sorted(rows) == sorted(new + kept) and rows != sorted(rows)
        assert all(len(note["joint"]["rows"]) == len(note["wa"]["rows"]) for note in batches)
    orders = [torch.cat([n["wa"]["rows"] for n in seen.batches if n["epoch"] == epoch]).tolist() for epoch in (0, 1)]
    assert orders[0] != orders[1]


def test_no_label_of_a_later_class_is_in_a_batch_and_joint_sees_all_earlier_ones(seen):
    for stage in range(5):
        batches = [note for note in seen.batches if note["epoch"] // 2 == stage]
        for name in METHODS:
            labels = torch.cat([note[name]["y"] for note in batches])
            rows = torch.cat([note[name]["rows"] for note in batches])
            assert int(labels.max()) < 2 * stage + 2 and torch.equal(rows // 4, labels)
    joint = torch.cat([note["joint"]["rows"] for note in seen.batches if note["epoch"] // 2 == 4])
    assert len(set((joint // 4).tolist())) > 6 and len(set(joint.tolist())) > 14
    assert set(seen.data.first_batch().y.tolist()) == {0, 1}


def test_memories_share_the_budget_evenly_and_keep_the_best(seen):
    for name in ("finetune", "kd", "wa"):
        before = {}
        for stage in range(5):
            memory = next(note[name]["memory"] for note in seen.batches if note["epoch"] == 2 * stage)
            assert sorted(memory) == list(range(2 * stage))
            assert all(len(rows) == min(EXEMPLARS_OF[stage], 4) for rows in memory.values())
            assert sum(map(len, memory.values())) == seen.data.num_exemplars(stage) <= 14
            assert all(row // 4 == c for c, rows in memory.items() for row in rows)
            assert all(memory[c] == rows[: len(memory[c])] for c, rows in before.items())
            before = memory
        assert len(seen.task.learners[name].memory.indices()) == 10
    assert seen.task.learners["joint"].memory.indices() == []


def test_all_methods_see_the_same_new_images_turned_by_the_same_angles(seen):
    for note in seen.batches:
        first = 8 * (note["epoch"] // 2)
        new = [note[name]["rows"] >= first for name in ("finetune", "kd", "wa")]
        assert torch.equal(new[0], new[1]) and torch.equal(new[0], new[2])
        assert torch.equal(note["kd"]["y"], note["wa"]["y"])
        points = new[0].repeat_interleave(5)
        assert torch.equal(note["kd"]["pos"][points], note["wa"]["pos"][points])
    given = seen.data.sets["train"].__getitems__(seen.batches[0]["wa"]["rows"])
    assert not torch.allclose(seen.batches[0]["wa"]["pos"], given.pos, atol=0.1)


def test_methods_are_the_same_until_the_first_alignment(seen):
    ended = {name: seen.ended[name, 2][1] for name in METHODS}
    assert same(ended["finetune"], ended["kd"]) and same(ended["kd"], ended["wa"])
    assert not same(ended["joint"], ended["kd"])
    aligned = {name: seen.ended[name, 4] for name in METHODS}
    assert same(aligned["kd"][0], aligned["wa"][0]) and not same(aligned["kd"][1], aligned["wa"][1])
    assert not same(aligned["finetune"][0], aligned["kd"][0])


def test_alignment_scales_the_rows_of_new_classes_and_nothing_else(seen):
    for name in METHODS:
        for num_seen in (4, 6, 8, 10):
            before, after = seen.ended[name, num_seen]
            if name != "wa":
                assert same(before, after)
                continue
            gamma = seen.task.learners[name].reports[num_seen // 2 - 1]["gamma"]
            assert abs(gamma - 1) > 1e-4
            for key in before:
                expected = before[key].clone()
                if key in HEADS:
                    expected[num_seen - 2 : num_seen] *= gamma
                torch.testing.assert_close(after[key], expected, rtol=1e-6, atol=0)
                assert key in HEADS or torch.equal(after[key], before[key])


def test_the_teacher_of_a_stage_is_the_network_at_the_end_of_the_one_before_aligned_by_wa_alone(seen):
    for note in seen.batches:
        num_old = 2 * (note["epoch"] // 2)
        assert note["finetune"]["teacher"] is None and note["joint"]["teacher"] is None
        for name in ("kd", "wa"):
            if num_old:
                assert same(note[name]["teacher"], seen.ended[name, num_old][1])
    assert not same(seen.ended["wa", 4][0], seen.ended["wa", 4][1])


def test_all_rows_are_new_at_the_start_of_a_stage_the_same_for_all_methods(seen):
    for num_seen in (2, 4, 6, 8, 10):
        for key in HEADS:
            rows = [seen.begun[name, num_seen][1][key] for name in METHODS]
            assert all(torch.equal(other, rows[0]) for other in rows[1:])
            before = seen.begun["wa", num_seen][0][key]
            assert not (rows[0][:num_seen] == before[:num_seen]).any() and not rows[0][num_seen:].any()
            assert float(rows[0][:num_seen].abs().max()) <= 8**-0.5
        others = [{k: v for k, v in part.items() if k not in HEADS} for part in seen.begun["wa", num_seen]]
        assert same(*others)
    assert not torch.equal(seen.begun["wa", 4][1][HEADS[0]][:2], seen.begun["wa", 2][1][HEADS[0]][:2])


def test_every_stage_has_a_new_optimiser_a_falling_rate_and_its_share_of_the_decay(seen):
    for stage in range(5):
        batches = [note for note in seen.batches if note["epoch"] // 2 == stage]
        number = len(batches)
        warm = [min(1.0, (k + 1) / (number / 2)) for k in range(number)]
        expected = [2.5e-3 * (1 + math.cos(math.pi * k / number)) * warm[k] for k in range(number)]
        rates = [rates for epoch, rates in seen.rates if epoch // 2 == stage]
        assert [rate[0] for rate in rates] == pytest.approx(expected)
        assert [rate[1] for rate in rates] == pytest.approx([0.2 / 5e-3 * rate for rate in expected])
        assert batches[0]["used"] == [0, 0] and min(batches[1]["used"]) > 0
        assert all(note["decay"] == pytest.approx([1e-3 / (stage + 1)] * 2) for note in batches)


def test_each_weight_is_trained_by_one_optimiser(seen):
    trained = [[id(p) for g in o.param_groups for p in g["params"]] for o in seen.task.configure_optimizers()]
    heads = [id(head.weight) for learner in seen.task.learners.values() for head in learner.heads]
    assert sorted(trained[1]) == sorted(heads)
    assert sorted(trained[0] + trained[1]) == sorted(id(p) for p in seen.task.parameters() if p.requires_grad)


def test_all_classes_can_come_at_once_and_read_outs_be_clipped_as_the_authors_do():
    words = [f"{DATA}.classes_per_stage", "10", f"{DATA}.epochs_per_stage", "1", "--trainer.max_epochs", "1"]
    words += [f"{MODEL}.methods", "[kd, wa]", f"{MODEL}.align.p", "1", f"{MODEL}.align.clip", "true"]
    cli = run(["fit", *TINY, "--run_dir", "once", *words])
    heads = {name: torch.cat([h.weight for h in learner.heads]) for name, learner in cli.model.learners.items()}
    assert float(heads["wa"].detach().min()) == 0 > float(heads["kd"].detach().min())
    found = json.loads(Path("once/results.json").read_text())
    assert found["classes"] == [10] and found["methods"]["wa"]["old"] is None and "norm of" not in cli.model.report()


def test_the_angle_of_a_measured_image_is_the_same_after_every_stage(seen):
    last = seen.turned[4]
    assert sorted(seen.turned) == list(range(5)) and len(last) == 20
    for stage, turned in seen.turned.items():
        assert len(turned) == 4 * (stage + 1) and all(torch.equal(turn, last[k]) for k, turn in turned.items())
    assert not torch.allclose(last[0], last[1], atol=1e-3)
    assert len({tuple(turn.flatten().tolist()) for turn in last.values()}) == 20


def test_no_image_is_put_into_a_class_that_has_not_come(seen):
    for stage, counts in seen.task.record.counts.items():
        for matrix in (matrix for of_method in counts.values() for matrix in of_method.values()):
            assert int(matrix.sum()) == 4 * (stage + 1) and not matrix[:, 2 * (stage + 1) :].any()


@pytest.mark.parametrize("epoch", [3, 4], ids=["within a stage", "between stages"])
def test_a_run_that_was_stopped_goes_on_with_the_same_bits(seen, epoch, monkeypatch):
    losses, folder = IncrementalTask.losses, f"stopped-{epoch}"

    def stops(self, batch):
        if self.current_epoch == epoch:
            raise InterruptedError
        return losses(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(IncrementalTask, "losses", stops)
        with pytest.raises(InterruptedError):
            run(["fit", *TINY, "--run_dir", folder])
    last = Path(folder) / "checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["epoch"] == epoch - 1
    run(["fit", *TINY, "--run_dir", folder, "--ckpt_path", str(last)])
    whole, again = (torch.load(f / "checkpoints/last.ckpt", weights_only=True) for f in (seen.run, Path(folder)))
    assert same(whole["state_dict"], again["state_dict"])
    for one, other in zip(whole["optimizer_states"], again["optimizer_states"], strict=True):
        assert one["state"] and all(same(one["state"][key], other["state"][key]) for key in one["state"])
    assert whole["incremental"]["learners"] == again["incremental"]["learners"]
    assert (seen.run / "report.txt").read_text() == (Path(folder) / "report.txt").read_text()


def test_a_method_alone_learns_what_it_learns_beside_others(seen):
    cli = run(["fit", *TINY, "--run_dir", "alone", f"{MODEL}.methods", "[wa]"])
    assert same(cli.model.learners["wa"].network.state_dict(), seen.task.learners["wa"].network.state_dict())


def test_labels_are_places_in_the_stream_and_sets_are_sorted_by_them(seen):
    train, measured = seen.data.sets["train"], seen.data.sets["all measured"]
    published = torch.arange(100) % 10
    batch = train.__getitems__(range(40))
    assert torch.equal(batch.y, torch.arange(10).repeat_interleave(4))
    assert torch.equal(published[train.rows], torch.tensor(ORDER)[batch.y])
    assert measured.labels[measured.rows].tolist() == torch.arange(10).repeat_interleave(2).tolist()
    assert [max(int(b.y.max()) for b in seen.data.measured_batches(stage)) for stage in range(5)] == [1, 3, 5, 7, 9]
    assert len(set(train.rows.tolist())) == 40
    drawn = [IncrementalSuperpixelDataModule(order_seed=seed).order for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and sorted(drawn[2]) == list(range(10))


MISTAKES = {
    "divisor": ([f"{DATA}.classes_per_stage", "3"], "classes_per_stage=3; expected a divisor of 10"),
    "budget": ([f"{DATA}.budget", "9"], "budget=9; expected at least 10, an exemplar of each class"),
    "order": ([f"{DATA}.order", "[0,1,2,3,4,5,6,7,8,8]"], "expected the digits 0 to 9, each once"),
    "method": (
        [f"{MODEL}.methods", "[kd, icarl]"],
        "methods=['kd', 'icarl']; expected some of ['joint', 'finetune', 'kd', 'wa']",
    ),
    "no method": ([f"{MODEL}.methods", "[]"], "methods=[]"),
    "twice": ([f"{MODEL}.methods", "[kd, kd]"], "each once"),
    "epochs": (
        ["--trainer.max_epochs", "9"],
        "trainer.max_epochs=9, max_steps=-1; expected 5 stages of 2 epochs, so --trainer.max_epochs 10",
    ),
    "reload": (["--trainer.reload_dataloaders_every_n_epochs", "0"], "reload_dataloaders_every_n_epochs=0; expected 1"),
    "validation": (["--trainer.limit_val_batches", "1.0"], "trainer.limit_val_batches=1.0; expected 0"),
    "images": ([f"{DATA}.num_train", "50"], "images of the digit 4 (train); expected at least 50"),
    "none": ([f"{DATA}.num_test", "0"], "num_train=4, num_test=0; expected at least 1"),
    "part": ([f"{DATA}.measured", "all"], "measured='all'; expected one of"),
    "rates": ([f"{MODEL}.readout_lr", "0"], "readout_lr=0.0, gradient_clip=0.5; expected positive numbers"),
    "average": (["--trainer.callbacks+", "ponita.tasks.callbacks.WeightAverage"], "WeightAverage changes one network"),
    "data": (["--data", "ponita.tasks.superpixel.SuperpixelDataModule"], "expected an IncrementalSuperpixelDataModule"),
    "stream": (
        [f"{DATA}.order_seed", "1", f"{DATA}.order", "null", "--ckpt_path", "run/checkpoints/last.ckpt"],
        "is of another stream: order=",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named(capsys, case):
    words, message = MISTAKES[case]
    with pytest.raises(SystemExit):
        main(["fit", *TINY, "--run_dir", "wrong", *words])
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_more_than_one_device_is_refused():
    data = IncrementalSuperpixelDataModule()
    data.trainer = SimpleNamespace(
        state=SimpleNamespace(fn="fit"),
        max_epochs=25,
        max_steps=-1,
        fast_dev_run=False,
        reload_dataloaders_every_n_epochs=1,
        limit_val_batches=0,
        world_size=2,
    )
    with pytest.raises(ValueError, match=r"2 devices; .* runs on one"):
        data.prepare_data()
