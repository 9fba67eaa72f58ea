"""The app of examples/flower, server and labs in one process: the bits of a federation without Flower, labs that are away, going on."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.flower import APP, federated_without_flower, participation, tiny_settings

pytest.importorskip("flwr")
identity = pytest.importorskip("flwr.supercore.task_identity", reason="of Flower 1.41 and later")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*instantiate_classes")


@pytest.fixture(autouse=True)
def app(tmp_path, monkeypatch):
    """Modules of the app, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(APP)
    for name in ("_run_id", "_node_id", "_task_id"):  # messages are of a run
        monkeypatch.setattr(identity.TaskIdentity, name, 1)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def served(settings, connected=(1, 2, 3)):
    """The server of the app, whose messages labs of the same process answer at once; node 1 is the first lab."""
    from labs.client_app import answer
    from labs.server_app import serve

    asked = []

    def send_and_receive(messages, timeout):
        asked.append([message.metadata.dst_node_id for message in messages])
        nodes = [(message, {"partition-id": message.metadata.dst_node_id - 1}) for message in messages]
        return [answer(message, settings, node) for message, node in reversed(nodes)]

    grid = SimpleNamespace(get_node_ids=lambda: list(connected), send_and_receive=send_and_receive)
    return serve(grid, settings), asked


@pytest.mark.parametrize("server", ["fedau", "mifa", "participating", "full"])
def test_the_app_has_the_bits_of_a_federation_without_flower(server):
    settings = tiny_settings(server, rounds=4)
    run, asked = served(settings)
    expected = federated_without_flower(settings)
    assert all(torch.equal(run.state[name], value) for name, value in expected.state.items())
    assert run.rounds == 4 and run.errors == expected.errors and run.absent == []
    assert all(sorted(nodes) == [1, 2, 3] for nodes in asked if nodes)  # also those that are away are asked
    assert (len(set(map(tuple, participation(settings)))) == 1) == (server == "full")


def test_what_the_server_leaves():
    settings = tiny_settings("fedau", rounds=5)
    run, _ = served(settings)
    folder = Path(settings["run-dir"])
    assert {path.name for path in folder.iterdir()} == {
        "errors.png",
        "fedau.ckpt",
        "fedau.pt",
        "report.txt",
        "results.json",
        "rounds.csv",
    }
    rows = [line.split(",") for line in (folder / "rounds.csv").read_text().splitlines()]
    assert rows[0] == ["round", "seconds", "force_error", "labs"] and [row[0] for row in rows[1:]] == list("12345")
    second, fourth, last = (f"{error:.2f}" for _, error in run.errors)
    assert [row[2] for row in rows[1:]] == ["", second, "", fourth, last]


def test_a_stopped_federation_goes_on_as_if_it_had_not_been():
    whole, _ = served(tiny_settings("fedau", rounds=5, folder="whole"))
    served(tiny_settings("fedau", rounds=2, folder="parts"))
    with Path("parts/rounds.csv").open("a") as table:
        table.write("3,1.0,,lab-01\n")  # of a round that was not kept
    settings = tiny_settings("fedau", rounds=5, folder="parts")
    rest, _ = served(settings)
    assert rest.rounds == 5 and all(torch.equal(rest.state[name], value) for name, value in whole.state.items())
    assert participation(settings) == participation(tiny_settings("fedau", rounds=5, folder="whole"))


def test_a_lab_that_is_not_connected_is_absent():
    settings = tiny_settings("fedau", rounds=4)
    served({**settings, "start-seconds": 0.0}, connected=(1, 2))
    assert {lab for labs in participation(settings) for lab in labs} == {"lab-01", "lab-02"}
    known = torch.load("runs/fedau.pt", weights_only=True)["server"]["clients"]
    assert known["lab-03"] == [1.0, 0, 4]  # a gap of four rounds that has not ended


def test_the_server_waits_for_labs_that_are_late_but_not_for_ever():
    from labs.server_app import wait_for_labs

    seen = iter([[], [1], [1, 2, 3]])
    grid = SimpleNamespace(get_node_ids=lambda: next(seen))
    wait_for_labs(grid, 3, 60.0)
    assert list(seen) == []
    begun = time.monotonic()
    wait_for_labs(SimpleNamespace(get_node_ids=lambda: [1]), 3, 0.5)
    assert time.monotonic() - begun < 5


def test_a_number_that_no_lab_has_is_refused():
    from labs.client_app import answer

    for number in (-1, 3):
        with pytest.raises(ValueError, match=f"partition-id={number}; expected 0 to 2"):
            answer(None, tiny_settings("fedau"), {"partition-id": number})


def test_a_lab_with_another_problem_than_the_servers_does_not_train():
    from labs.client_app import answer
    from labs.settings import federation, fingerprint

    settings = tiny_settings("full")
    ours = fingerprint(federation(settings)[1])
    record = {"fingerprint": ours, "rounds-before": 0, "server-round": 1}
    for option in (
        "--problem.local_lr 1e-3",
        "--problem.network.hidden_channels 16",
        "--problem.data.init_args.batch_size 3",
    ):
        changed = {**settings, "options": f"--rounds 3 {option}"}
        with pytest.raises(ValueError, match=f"the server {ours}; give both the same configuration"):
            answer(SimpleNamespace(content={"config": record}), changed, {"partition-id": 0})
    assert fingerprint(federation({**settings, "options": "--rounds 9 --threads 2"})[1]) == ours
    assert fingerprint(federation(settings, {"root": str(Path("data").resolve())})[1]) == ours  # a lab's own affair


def test_a_lab_reads_the_data_of_its_own_folder(tmp_path):
    from labs.settings import federation

    settings = tiny_settings("fedau")
    assert federation(settings)[0].data.root == federation(settings, {"root": settings["root"]})[0].data.root
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        federation(settings, {"root": str(tmp_path / "elsewhere")})


def test_settings_are_those_of_the_file_and_words_change_them(tmp_path):
    from run_settings import read_settings

    (tmp_path / "data").mkdir()
    settings = read_settings(["server=mifa", "root=data", "round-seconds=5", "options=--rounds 3 --every 1"])
    assert settings["server"] == "mifa" and settings["round-seconds"] == 5.0
    assert settings["root"] == str(tmp_path / "data") and settings["options"] == "--rounds 3 --every 1"
    assert read_settings([])["config"] == "federated/potential"
    for word in ("rounds=3", "server"):
        with pytest.raises(ValueError, match="expected KEY=VALUE with a key among config, root, server"):
            read_settings([word])
