"""Flower itself: a deployment on this machine that loses a lab, and a simulation, with the bits of a federation without Flower.

By hand: `pytest -m slow tests/sharing/federated/test_flower_live.py`, in an environment with `ponita[tasks]` and `flwr[simulation]`.
"""

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from support.flower import APP, federated_without_flower, participation, tiny_settings

pytest.importorskip("flwr")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*instantiate_classes"),
]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(APP)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def assert_bits(settings, present=None):
    """The federation that Flower ran has the state, errors and knowledge of labs of the one without it."""
    expected = federated_without_flower(settings, present)
    stored = torch.load(Path(settings["run-dir"]) / "fedau.pt", weights_only=True)
    assert all(torch.equal(stored["state"][name], value) for name, value in expected.state.items())
    assert stored["rounds"] == expected.rounds and stored["errors"] == expected.errors
    return stored["server"]["clients"]


def ended(groups, seconds=20.0):
    """Whether no process of the groups is left."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        left = [group for group in groups if _lives(group)]
        if not left:
            return True
        time.sleep(0.2)
    return False


def _lives(group):
    with suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


def test_a_deployment_that_loses_a_lab_for_ever_has_the_bits_of_a_federation_without_flower(tmp_path):
    """The third lab is killed when two rounds are done; the first and second go on, and it is absent as others are."""
    from deploy import Deployment

    settings, table = tiny_settings("fedau", rounds=4), tmp_path / "runs" / "rounds.csv"
    done = threading.Event()

    def cut_power():
        while not done.wait(0.1):
            if table.is_file() and len(table.read_text().splitlines()) > 2:
                deployment.kill("node-2")
                return

    with Deployment(tmp_path, nodes=3) as deployment:
        groups = [process.pid for process in deployment.processes.values()]
        thread = threading.Thread(target=cut_power)
        thread.start()
        try:
            deployment.run(settings)
        finally:
            done.set()
            thread.join()
    assert ended(groups)
    present = participation(settings)
    planned = participation_of_the_configuration(settings)
    assert present[:2] == planned[:2] and "lab-03" in present[0] + present[1]
    assert present[2:] == [[lab for lab in labs if lab != "lab-03"] for labs in planned[2:]] != planned[2:]
    known = assert_bits(settings, present)
    assert known["lab-03"][2] == 2  # rounds of a gap that has not ended


def participation_of_the_configuration(settings):
    from labs.settings import federation

    problem, config = federation(settings)
    return [sorted(problem.present(number)) for number in range(config.rounds)]


def test_an_app_that_fails_is_said_and_nothing_is_left(tmp_path):
    from deploy import Deployment

    settings = tiny_settings("fedau", rounds=1)
    with pytest.raises(RuntimeError, match="the app failed"), Deployment(tmp_path, nodes=0) as deployment:
        groups = [process.pid for process in deployment.processes.values()]
        deployment.run({**settings, "server": "best"})
    assert ended(groups)
    assert "server 'best'" in (tmp_path / "run.log").read_text()


def test_a_simulation_has_the_bits_of_a_federation_without_flower(tmp_path):
    pytest.importorskip("ray")
    settings = tiny_settings("fedau", rounds=5)
    words = [f"{key}={value}" for key, value in settings.items()]
    environment = {**os.environ, "FLWR_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    environment |= {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    with TemporaryDirectory(prefix="ray-") as short:  # names of sockets may have 107 letters
        environment["RAY_TMPDIR"] = short
        subprocess.run([sys.executable, APP / "simulate.py", *words], check=True, env=environment, timeout=400)
    assert participation(settings) == participation_of_the_configuration(settings)
    assert_bits(settings)
