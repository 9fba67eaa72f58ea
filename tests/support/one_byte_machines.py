"""A tiny study of `ponita onebyte`, and machines that fail."""

from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing import active_children
from pathlib import Path

import torch
import yaml
from torch.distributed import Store

from ponita import Ponita, Potential
from ponita.models import save
from ponita.tasks import configs
from support.tiny_runs import write_springs

NETWORK = {"hidden_channels": 8, "basis_channels": 8, "num_layers": 2, "num_orientations": 6, "widening": 2}


def write_study(
    steps: int = 6, methods: tuple[str, ...] = ("onebyte",), config: str = "readouts", **options
) -> list[str]:
    """Data, a potential that was trained for nothing, and the words of a study of two machines with 12 frames each.

    Args:
        steps: of every method.
        methods: to compare.
        config: the packaged one that is changed.
        **options: of it.
    """
    if not Path("data").exists():
        write_springs(Path("data/rmd17"))
        torch.manual_seed(0)
        network = Ponita(in_channels=3, kernel="spline", cutoff=5.0, lattice=(16, 8), **NETWORK)
        potential = Potential(network, [1, 6, 8], self_loops=False)
        potential.set_normalization(0.0, 2.0)
        save(potential, "seven.ckpt")
    source = yaml.safe_load(configs.packaged()[f"one_byte/{config}"].read_text())
    source["data"] |= {"root": "data/rmd17", "num_valid": 6, "num_test": 8, "batch_size": 4, "download": False}
    source |= {"checkpoint": "seven.ckpt", "machines": 2, "methods": list(methods), "progress": False, **options}
    for name in {"adam", "sgd"} & source.keys():
        source[name] = {"steps": steps, "lr": 0.01}
    source["onebyte"] |= {"steps": steps, "samples": 2, "lr": 0.02}
    Path("mine.yaml").write_text(yaml.safe_dump(source))
    return ["onebyte", "--config", "mine.yaml"]


class Killer(threading.Thread):
    """Kills machines when their logs have so many steps.

    Args:
        folder: of the logs.
        when: (machine, steps), in the order of time.
    """

    def __init__(self, folder: Path, when: list[tuple[int, int]]) -> None:
        super().__init__(daemon=True)
        self.folder, self.when, self.killed = folder, when, []

    def run(self) -> None:
        for machine, steps in self.when:
            path = self.folder / f"machine-{machine}.log"
            while not path.is_file() or path.read_bytes().count(b"\n") < steps:
                time.sleep(0.002)
            process = next(one for one in active_children() if one.name == f"machine-{machine}")
            os.kill(process.pid, signal.SIGKILL)
            self.killed.append((machine, path.read_bytes().count(b"\n")))


def fails(machine: int, store: Store, how: str) -> None:
    """The first machine waits for long; the second fails, or is killed whenever it is started.

    Args:
        machine: its number.
        store: that counts how often it was started.
        how: "raises" or "is killed".
    """
    if machine == 0:
        store.set("pid", str(os.getpid()))
        time.sleep(100)
    store.wait(["pid"])
    store.add("starts", 1)
    if how == "raises":
        raise ArithmeticError("of its own")
    os.kill(os.getpid(), signal.SIGKILL)
