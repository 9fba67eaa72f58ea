"""`ponita onebyte`: what a study leaves, machines that die, going on after a stop, and mistakes."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support.mistakes import assert_refused
from support.one_byte_machines import Killer, fails, write_study

from ponita.models import EnergyForces, Potential, load, save
from ponita.sharing.adapters import load_adapted
from ponita.sharing.federated.one_byte import ByteLog, LocalTransport, publish
from ponita.tasks import runs
from ponita.tasks.cli import main
from ponita.tasks.one_byte.machines import new_store, run_machines
from ponita.tasks.one_byte.problem import OneByteProblem
from ponita.tasks.one_byte.study import Curve, agreed_log
from ponita.tasks.one_byte.training import Averaging, OneByte, log_of, marks, new_spsa, send_bytes
from ponita.tasks.potential import RMD17DataModule
from ponita.training import LossWeights

WEIGHTS = LossWeights(energy=5.0, forces=1.0, energy_per_atom=True)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(runs.VARIABLE, raising=False)


def problem(weights=WEIGHTS, **options):
    write_study()
    data = RMD17DataModule(num_valid=6, num_test=8, batch_size=4, download=False)
    made = OneByteProblem("seven.ckpt", data, train=".*readouts.*", machines=2, loss_weights=weights, **options)
    made.setup()
    return made


def entries(folder):
    return [ByteLog(log_of(Path(folder), machine)).entries for machine in range(2)]


def weights(path):
    return load(path).state_dict()


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def by_hand(steps):
    """The bytes of two machines of one process, and the weights they end with."""
    made, machines = problem(), []
    for _ in range(2):
        loss = made.new_loss()
        machines.append((loss, new_spsa(made, loss, OneByte(steps, 2, 0.02), LocalTransport())))
    for step in range(steps):
        messages = {}
        for number, (loss, spsa) in enumerate(machines):
            spsa.machine = number
            closures = [made.closure(loss, number, step, sample) for sample in range(2)]
            messages[number] = bytes(spsa.measure(sample, one)[1] for sample, one in enumerate(closures))
        for _, spsa in machines:
            spsa.apply(step, messages)
    return machines[0][1].log.entries, machines[0][0].task.potential.state_dict()


def test_a_study_leaves_a_table_a_picture_potentials_and_the_bytes_of_machines(capsys):
    main(write_study(methods=("onebyte", "adam", "sgd")))
    folder, printed = Path("runs/one_byte-mine"), capsys.readouterr().out
    assert (folder / "report.txt").read_text().strip() in printed and "2 machines of 12 frames" in printed
    assert (folder / "errors.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    found = json.loads((folder / "errors.json").read_text())
    assert {name: curve["step_bytes"] for name, curve in found.items()} == {"onebyte": 2, "adam": 72, "sgd": 72}
    assert {name: curve["step_evaluations"] for name, curve in found.items()} == {"onebyte": 4, "adam": 1, "sgd": 1}
    assert [curve["steps"] for curve in found.values()] == [list(range(7))] * 3
    assert all(curve["cpu_seconds"] > 0 for curve in found.values())
    assert len({(curve["energies"][0], curve["forces"][0]) for curve in found.values()}) == 1
    expected, state = by_hand(6)
    assert entries(folder) == [expected, expected]
    assert equal(weights(folder / "onebyte.ckpt"), state)
    before = weights("seven.ckpt")
    for name in found:
        after = weights(folder / f"{name}.ckpt")
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert changed == {"reference_energies"} | {key for key in before if "readouts" in key}


def test_averaged_gradients_are_the_mean_of_those_of_all_machines():
    main(write_study(steps=1, methods=("sgd",)))
    made = problem()
    loss = made.new_loss()
    parameters = loss.trained()
    expected = {}
    for machine in range(2):
        value = loss(made.batch(machine, 0), create_graph=True)
        for name, gradient in zip(parameters, torch.autograd.grad(value, parameters.values()), strict=True):
            expected[name] = expected.get(name, 0) + gradient / 2
    after = weights("runs/one_byte-mine/sgd.ckpt")
    for name, p in parameters.items():
        moved = p.detach() - 0.01 * expected[name]
        torch.testing.assert_close(after[name.removeprefix("task.model.")], moved, rtol=1e-5, atol=1e-7)


def test_machines_that_are_killed_and_started_again_end_with_the_same_bits():
    words = write_study(steps=60)
    killer = Killer(Path("killed/bytes"), [(1, 3), (0, 25)])
    killer.start()
    main([*words, "--run_dir", "killed"])
    killer.join(timeout=1)
    assert [machine for machine, _ in killer.killed] == [1, 0] and all(steps < 60 for _, steps in killer.killed)
    expected, state = by_hand(60)
    assert entries("killed") == [expected, expected]
    assert equal(weights("killed/onebyte.ckpt"), state)


def test_a_machine_that_comes_late_replays_what_was_decided_and_evaluates_nothing(monkeypatch):
    expected, _ = by_hand(4)
    store = dist.HashStore()
    for step, messages in expected:
        publish(store, step, messages)
    store.set("agreed/4", "True")

    def refused(*_):
        raise AssertionError("a loss was evaluated")

    monkeypatch.setattr(OneByteProblem, "closure", refused)
    log_of(Path("late"), 1).parent.mkdir(parents=True)
    send_bytes(1, store, problem().private(1), OneByte(4, 2, 0.02), Path("late"), 1, False)
    assert ByteLog(log_of(Path("late"), 1)).entries == expected


def test_a_stopped_study_goes_on_from_its_logs_with_the_same_bits():
    main([*write_study(steps=6, methods=("onebyte", "adam")), "--run_dir", "whole"])
    main([*write_study(steps=4, methods=("onebyte", "adam")), "--run_dir", "part"])
    path = log_of(Path("part"), 1)
    path.write_bytes(
        b"".join(path.read_bytes().splitlines(True)[:2]) + b"0000 [3, {"
    )  # of a machine that stopped earlier
    main([*write_study(steps=6, methods=("onebyte", "adam")), "--run_dir", "part"])
    assert entries("part") == entries("whole") and len(entries("part")[0]) == 6
    for name in ("onebyte", "adam"):
        assert equal(weights(f"part/{name}.ckpt"), weights(f"whole/{name}.ckpt"))
    with pytest.raises(SystemExit):
        main([*write_study(steps=6, methods=("onebyte", "adam")), "--run_dir", "part", "--onebyte.lr", "0.5"])


def test_factors_of_lora_are_trained_and_read_again():
    main(write_study(steps=3, config="lora"))
    folder = Path("runs/one_byte-mine")
    potential = load_adapted(folder / "onebyte-adapter")
    before = load("seven.ckpt").state_dict()
    changed = {name for name, value in potential.state_dict().items() if not torch.equal(value, before[name])}
    expected = {f"network.blocks.{k}.linear_{i}.weight" for k in (0, 1) for i in (1, 2)}
    assert changed == expected | {"reference_energies"}


def test_frames_are_dealt_out_by_energy_and_a_machine_is_given_its_own():
    made = problem()
    energies = [torch.cat([frame.energy for frame in made.frames[machine]]) for machine in range(2)]
    assert [len(part) for part in energies] == [12, 12] and float(energies[0].max()) <= float(energies[1].min())
    part = made.private(1)
    assert part.data is None and list(part.frames) == [1] and list(made.frames) == [0, 1]
    assert torch.equal(part.batch(1, 3, 0).pos, made.batch(1, 3, 0).pos)
    with pytest.raises(KeyError):
        part.batch(0, 0)
    poses = [made.batch(*key).pos for key in [(1, 3, 0), (0, 3, 0), (1, 4, 0), (1, 3, 1)]]
    assert all(not torch.equal(poses[0], other) for other in poses[1:]) and poses[0].shape == (20, 3)
    part.frames[0] = part.frames[1]
    assert not torch.equal(part.batch(0, 3, 0).energy, part.batch(1, 3, 0).energy)
    assert not part.new_loss().task.model.training


def test_reference_energies_are_corrected_once_and_are_the_same_for_all():
    made = problem()
    potential = made.private(0).new_loss().task.potential
    assert torch.equal(potential.reference_energies, made.new_loss().task.potential.reference_energies)
    assert not torch.equal(potential.reference_energies, load("seven.ckpt").reference_energies)
    loss = made.new_loss()
    with torch.no_grad():
        left = torch.cat([b.energy - loss.task(b).energy for b in made.data.batches("train")])
    assert abs(float(left.mean())) < 1e-3 * float(left.std())


def test_energies_alone_are_evaluated_without_forces_and_without_a_graph(monkeypatch):
    made = problem(LossWeights(energy=5.0, forces=0.0, energy_per_atom=True))
    both = problem()
    loss, other = made.new_loss(), both.new_loss()
    batch = made.batch(0, 0)
    with torch.no_grad():
        predicted = other.task(batch)
        expected = 5.0 * ((predicted.energy - batch.energy) / other.task.potential.scale / 5).square().mean()
        squares = ((predicted.forces - batch.forces) / other.task.potential.scale).square().mean()
        torch.testing.assert_close(other(batch), expected + squares.double())

    def refused(*_, **__):
        raise AssertionError("forces were computed")

    monkeypatch.setattr(Potential, "energy_forces", refused)
    monkeypatch.setattr(torch.autograd, "grad", refused)
    with torch.no_grad():
        value = made.closure(loss, 0, 0, 0)({})
    torch.testing.assert_close(value, expected)
    assert not value.requires_grad and loss(batch, create_graph=True).requires_grad


def test_errors_are_those_of_the_test_frames():
    made = problem()
    loss = made.new_loss()
    energy, force = made.errors(loss)
    batch = next(made.data.batches("test"))
    predicted = loss.task(batch)
    labels = EnergyForces(batch.energy, batch.forces)
    assert energy == pytest.approx(1e3 * float((predicted.energy - labels.energy).abs().mean()), rel=1e-5)
    assert force == pytest.approx(1e3 * float((predicted.forces - labels.forces).abs().mean()), rel=1e-5)


def test_bytes_to_an_error_are_those_of_the_first_measured_step_below_it():
    curve = Curve(8, 16, [0, 1, 2, 5], [0.0] * 4, [500.0, 300.0, 320.0, 200.0])
    assert [curve.bytes_to(error) for error in (600, 300, 299, 200, 100)] == [0, 8, 40, 40, None]


def test_errors_are_measured_ten_times_a_decade_and_at_the_end():
    assert marks(7) == [1, 2, 3, 4, 5, 6, 7] and marks(1) == [1]
    assert marks(150) == [1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 63, 79, 100, 126, 150]


def test_logs_that_contradict_each_other_are_refused(tmp_path):
    logs = [ByteLog(tmp_path / f"{k}.log") for k in range(3)]
    for k, log in enumerate(logs):
        log.append(0, {0: b"\x01", 1: b"\x02"})
        if k:
            log.append(1, {0: b"\x03", 1: bytes([k])})
    assert agreed_log(logs[:2]) is logs[1]
    with pytest.raises(ValueError, match=r"2.log and .*1.log contradict each other at step 1"):
        agreed_log(logs)


@pytest.mark.parametrize(
    "how, said, starts",
    [("raises", "machine 1 ended with status 1", 1), ("is killed", "machine 1 was killed by signal 9", 3)],
)
def test_a_machine_that_fails_ends_the_others(how, said, starts):
    store = new_store()
    with pytest.raises(RuntimeError, match=said):
        run_machines(store, 2, fails, lambda machine: (how,), restarts=2)
    assert store.add("starts", 0) == starts
    pid = int(store.get("pid"))
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.05)
    os.kill(pid, 0)
    raise AssertionError("the other machine is still there")


MISTAKES = {
    "no configuration": (lambda: ["onebyte"], "such as one_byte/lora, one_byte/readouts"),
    "method": (lambda: write_study(methods=("onebyte", "best")), "methods ['best']; expected some of ['onebyte',"),
    "no method": (lambda: write_study(methods=()), "methods none"),
    "no machine": (lambda: write_study(machines=0), "machines=0; expected at least 1"),
    "too many machines": (lambda: write_study(machines=25), "24 training structures for 25 parts"),
    "weights": (lambda: write_study(loss_weights={"energy": 0, "forces": 0}), "not both 0"),
    "pattern": (lambda: write_study(train=".*head.*"), "train='.*head.*' matches no parameter"),
    "step": (lambda: [*write_study(), "--onebyte.lr", "0"], "expected positive numbers"),
    "samples": (lambda: [*write_study(), "--onebyte.samples", "0"], "samples=0"),
    "mode": (lambda: [*write_study(), "--onebyte.mode", "inplace"], "mode='inplace'"),
    "rate": (lambda: [*write_study(), "--adam.lr", "-1"], "a positive rate"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named_before_anything_is_written(case, capsys):
    args, message = MISTAKES[case]
    assert_refused(args(), message, capsys)


def test_a_checkpoint_of_something_else_is_refused(capsys):
    words = write_study()
    save(load("seven.ckpt").network, "network.ckpt")
    wrong = {
        "network.ckpt": "holds a Ponita; only potentials can be adapted",
        "missing.ckpt": "no checkpoint at missing.ckpt",
    }
    for checkpoint, message in wrong.items():
        assert_refused([*words, "--checkpoint", checkpoint], message, capsys)


@pytest.mark.parametrize("kind, options", [(OneByte, {"eps": 0.0}), (OneByte, {"steps": 0}), (Averaging, {"steps": 0})])
def test_settings_that_cannot_be_are_refused(kind, options):
    with pytest.raises(ValueError, match="expected at least"):
        kind(**options)
