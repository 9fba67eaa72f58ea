"""The app with the processes of a deployment, all on this machine: `python deploy.py --nodes 12 root=DIR "options=--rounds 5"`.

Starts a SuperLink and SuperNodes, runs the app, and ends them. Words are settings of pyproject.toml. What the processes
print, and what the server leaves, is in --folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from run_settings import read_settings

HOST = "127.0.0.1"
APP = Path(__file__).parent


class Deployment:
    """A SuperLink and SuperNodes of this machine, for a `with` block; whatever happens in it, they are ended.

    Args:
        folder: for their logs and homes; the server starts in it.
        nodes: SuperNodes, of the labs 0, 1, ...
        threads: of each process.
    """

    def __init__(self, folder: Path, nodes: int, threads: int = 1) -> None:
        self.folder, self.nodes, self.threads = folder.resolve(), nodes, threads
        self.processes: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Deployment:
        try:
            self.link = f"{HOST}:{free_port()}"
            words = ["--insecure", "--host", HOST, "--port", self.link.split(":")[1]]
            self._start("superlink", ["flower-superlink", *words, "--disable-runtime-dependency-installation"])
            self._wait_for_link()
            for number in range(self.nodes):
                words = ["--insecure", "--superlink", self.link, "--host", HOST, "--port", str(free_port())]
                self._start(f"node-{number}", ["flower-supernode", *words, "--node-config", f"partition-id={number}"])
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def run(self, settings: Mapping[str, Any], app: Path = APP) -> None:
        """Start the app, print what the server prints, and wait for the end.

        Args:
            settings: of the run, those of pyproject.toml.
            app: its folder.

        Raises:
            RuntimeError: if the app failed.
        """
        home = self._home("user")
        (home / "config.toml").write_text(f'[superlink.here]\naddress = "{self.link}"\ninsecure = true\n')
        file = self.folder / "settings.toml"
        file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
        self._start("run", ["flwr", "run", str(app), "here", "--stream", "--run-config", str(file)], home)
        process = self.processes["run"]
        with (self.folder / "run.log").open(encoding="utf-8") as log:
            while (ended := process.poll()) is None:
                print(log.read(), end="", flush=True)
                time.sleep(0.5)
            print(log.read(), flush=True)
        if ended != 0 or "completed" not in self._runs(home):
            raise RuntimeError(f"the app failed; see run.log and superlink.log in {self.folder}.")

    def kill(self, name: str) -> None:
        """End a process and its children at once, as a power cut does: "node-0", say."""
        _signal(self.processes.pop(name), signal.SIGKILL)

    def stop(self) -> None:
        """End all, by the ids of their process groups: first politely."""
        for process in self.processes.values():
            _signal(process, signal.SIGTERM)
        until = time.monotonic() + 10
        while time.monotonic() < until and any(process.poll() is None for process in self.processes.values()):
            time.sleep(0.1)
        for process in self.processes.values():
            _signal(process, signal.SIGKILL)
        self.processes.clear()

    def _runs(self, home: Path) -> str:
        """What the SuperLink knows of its only run."""
        command = [_program("flwr"), "list", "here", "--format", "json"]
        environment = self._environment(home)
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True).stdout

    def _start(self, name: str, command: list[str], home: Path | None = None) -> None:
        with (self.folder / f"{name}.log").open("w", encoding="utf-8") as log:
            self.processes[name] = subprocess.Popen(
                [_program(command[0]), *command[1:]],
                cwd=self.folder,
                env=self._environment(home or self._home(name)),
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def _home(self, name: str) -> Path:
        """Of a process: labs that share one would unpack the app into the same folder at the same time."""
        home = self.folder / "homes" / name
        home.mkdir(parents=True, exist_ok=True)
        return home

    def _environment(self, home: Path) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "OMP_NUM_THREADS": str(self.threads),
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }

    def _wait_for_link(self, seconds: float = 120.0) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.processes["superlink"].poll() is None:
            try:
                with urllib.request.urlopen(f"http://{self.link}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"the SuperLink does not answer on {self.link}; see {self.folder}/superlink.log.")


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def _program(name: str) -> str:
    """A command of the environment of this Python."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise RuntimeError(f"there is no command {name}; install Flower: pip install 'ponita[flower]'.")
    return found


def _signal(process: subprocess.Popen, number: int) -> None:
    """To a process and its children, which are a group of their own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    if number == signal.SIGKILL:
        process.wait()


def main() -> None:
    """Deploy, run, end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=12, help="SuperNodes: the number of labs of the configuration")
    parser.add_argument("--folder", type=Path, default=Path("runs/deployment"))
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    settings = read_settings(arguments.settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with Deployment(arguments.folder, arguments.nodes) as deployment:
        deployment.run(settings)


if __name__ == "__main__":
    main()
