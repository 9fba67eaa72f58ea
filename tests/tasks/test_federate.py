"""`ponita federate`: what a run leaves, going on after a stop, labs that fail, and mistakes."""

import itertools
import json
from pathlib import Path

import pytest
import torch
import yaml
from support.mistakes import assert_refused
from support.tiny_runs import write_springs

from ponita.models import Potential, load
from ponita.sharing.federated import FedAU
from ponita.tasks import configs
from ponita.tasks.cli import main
from ponita.tasks.federated.federate import federate, make_server
from ponita.tasks.federated.problem import FederatedPotential, state_of
from ponita.tasks.potential import RMD17DataModule
from ponita.training import LossWeights

NETWORK = {"hidden_channels": 8, "basis_channels": 8, "num_layers": 2, "num_orientations": 6, "widening": 2}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PONITA_RUN_DIR", raising=False)
    write_springs(Path("data/rmd17"))


def problem(**options: object) -> FederatedPotential:
    data = RMD17DataModule(num_valid=6, num_test=8, batch_size=4, eval_batch_size=8, download=False)
    given = {"labs": 4, "rates": (0.3, 0.9), "local_steps": 2, "loss_weights": LossWeights(0.1, 1.0), **options}
    made = FederatedPotential(NETWORK, [1, 6, 8], data, **given)
    made.setup()
    return made


def words(**options: object) -> list[str]:
    source = yaml.safe_load(configs.packaged()["federated/potential"].read_text())
    source["problem"] |= {"network": NETWORK, "labs": 4, "local_steps": 1, "rates": [0.3, 0.9]}
    source["problem"]["data"]["init_args"] |= {"num_valid": 6, "num_test": 8, "batch_size": 4, "download": False}
    source |= {"servers": ["fedau", "participating"], "rounds": 3, "every": 1, "progress": False, **options}
    Path("mine.yaml").write_text(yaml.safe_dump(source))
    return ["federate", "--config", "mine.yaml"]


def test_a_federation_leaves_a_table_a_picture_and_potentials(capsys):
    main(words())
    folder, printed = Path("runs/federated-mine"), capsys.readouterr().out
    assert (folder / "report.txt").read_text().strip() in printed and "participating" in printed
    assert (folder / "errors.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    results = json.loads((folder / "results.json").read_text())
    assert all(list(results[name]["labs"]) == problem().labs for name in ("fedau", "participating"))
    assert isinstance(load(folder / "fedau.ckpt"), Potential) and (folder / "participating.ckpt").is_file()
    main([*words(rounds=5), "--run_dir", str(folder)])
    assert torch.load(folder / "fedau.pt", weights_only=True)["rounds"] == 5


def test_labs_hold_all_structures_once_from_calm_to_distorted():
    made = problem()
    rows = torch.cat(list(made.rows.values()))
    assert torch.equal(rows.sort().values, torch.arange(24))
    energies = [torch.cat([made.data.sets["train"][int(r)].energy for r in made.rows[lab]]) for lab in made.labs]
    assert all(float(a.max()) <= float(b.min()) for a, b in itertools.pairwise(energies))
    assert list(made.rates.values()) == pytest.approx([0.3, 0.5, 0.7, 0.9])


@pytest.mark.parametrize("pattern", ["bernoulli", "markov", "cyclic"])
def test_who_is_present_in_a_round_does_not_need_the_rounds_before(pattern):
    made = problem(pattern=pattern)
    whole = made.participation()
    rounds = [whole.round() for _ in range(12)]
    assert [made.present(number) for number in (11, 0, 5)] == [rounds[11], rounds[0], rounds[5]]


def test_after_its_update_the_task_has_the_weights_of_the_lab():
    made = problem()
    task = made.new_task()
    state = state_of(task)
    change, after = made.local_update(task, state, "lab-02", 3), state_of(task)
    assert all(torch.equal(change[name], after[name] - value) for name, value in state.items())
    assert any(value.any() for value in change.values())


@pytest.mark.parametrize("name", ["fedau", "mifa"])
def test_a_stopped_federation_goes_on_as_if_it_had_not_been(name, tmp_path):
    made = problem()
    whole = federate(made, name, make_server(name, made, 1.0, 10), 6, made.new_task(), progress=False)
    path = tmp_path / "part.pt"
    federate(made, name, make_server(name, made, 1.0, 10), 3, made.new_task(), path, progress=False)
    rest = federate(made, name, make_server(name, made, 1.0, 10), 6, made.new_task(), path, progress=False)
    assert all(torch.equal(whole.state[k], rest.state[k]) for k in whole.state) and rest.rounds == 6


def test_training_in_labs_lowers_the_error():
    made = problem(local_steps=4, local_lr=1e-2)
    task = made.new_task()
    before = made.error(task, state_of(task))
    run = federate(made, "full", make_server("full", made, 1.0, None), 30, task, progress=False)
    assert made.error(task, run.state) < 0.8 * before
    assert [number for number, _ in run.errors] == [10, 20, 30]


def test_a_lab_that_sends_nan_or_vanishes_is_absent_and_the_rest_goes_on(monkeypatch):
    made, task = problem(rates=(1.0, 1.0)), None
    task = made.new_task()
    update = FederatedPotential.local_update

    def broken(self, task, state, lab, round_):
        found = update(self, task, state, lab, round_)
        return {k: v * float("nan") for k, v in found.items()} if lab == "lab-02" else found

    monkeypatch.setattr(FederatedPotential, "local_update", broken)
    server = FedAU(made.labs, cutoff=None)
    run = federate(made, "fedau", server, 4, task, progress=False)
    assert run.absent == [(number, "lab-02") for number in range(4)]
    assert all(bool(v.isfinite().all()) for v in run.state.values())
    assert server.weights.state_dict()["clients"]["lab-02"] == [1.0, 0, 4]


MISTAKES = {
    "no configuration": (
        lambda: ["federate"],
        "no --config; expected a file or a packaged name, such as federated/potential",
    ),
    "server": (lambda: words(servers=["best"]), "servers ['best']"),
    "pattern": (lambda: [*words(), "--problem.pattern", "moon"], "pattern='moon'"),
    "rates": (lambda: [*words(), "--problem.rates", "[0.0, 0.5]"], "rates above 0"),
    "labs": (lambda: [*words(), "--problem.labs", "99"], "24 training structures for 99 parts"),
    "rounds": (lambda: words(rounds=0), "rounds=0"),
    "step": (lambda: words(server_lr=-1.0), "a positive step"),
    "network": (lambda: [*words(), "--problem.network", '{"space": "R9"}'], "R9"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named_before_anything_is_written(case, capsys):
    args, message = MISTAKES[case]
    assert_refused(args(), message, capsys)
