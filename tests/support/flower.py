"""The app of examples/flower at a size for tests, and the same federation without Flower."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from ponita.tasks import configs
from ponita.tasks.federated.command import configured
from ponita.tasks.federated.federate import Federation, federate, make_server
from support.tiny_runs import write_springs

APP = Path(__file__).resolve().parents[2] / "examples" / "flower"
NETWORK = {"hidden_channels": 8, "basis_channels": 8, "num_layers": 2, "num_orientations": 6, "widening": 2}


def tiny_settings(server: str, rounds: int = 3, folder: str = "runs") -> dict[str, Any]:
    """Settings of a run of three labs that hold a molecule on springs; writes what they need to the working folder.

    Args:
        server: its name.
        rounds: in all.
        folder: that the run leaves its results in.
    """
    data = Path("data/rmd17").resolve()
    if not data.exists():
        write_springs(data)
    source = yaml.safe_load(configs.packaged()["federated/potential"].read_text())
    source["problem"] |= {"network": NETWORK, "labs": 3, "local_steps": 2, "rates": [0.5, 0.9]}
    source["problem"]["data"]["init_args"] |= {"num_valid": 6, "num_test": 8, "batch_size": 4, "download": False}
    source |= {"every": 2, "progress": False, "threads": 1}
    config = Path("tiny.yaml").resolve()
    config.write_text(yaml.safe_dump(source))
    names = {"config": str(config), "root": str(data), "server": server, "run-dir": str(Path(folder).resolve())}
    return {**names, "options": f"--rounds {rounds}", "start-seconds": 60.0, "round-seconds": 120.0}


def participation(settings: dict[str, Any]) -> list[list[str]]:
    """Names of those who took part in each round of a run, as its server wrote them down."""
    lines = (Path(settings["run-dir"]) / "rounds.csv").read_text().splitlines()
    return [line.split(",")[3].split() for line in lines[1:]]


def federated_without_flower(settings: dict[str, Any], present: Sequence[Sequence[str]] | None = None) -> Federation:
    """`ponita federate` with the settings of a run.

    Args:
        settings: of the run.
        present: who takes part in each round; who the configuration names where None.
    """
    words = ["--config", settings["config"], "--problem.data.init_args.root", settings["root"]]
    _, config, _, problem = configured([*words, *settings["options"].split()])
    problem.setup()
    if present is not None:
        rounds = iter(present)
        problem.participation = lambda: SimpleNamespace(round=lambda: set(next(rounds)))
    server = make_server(settings["server"], problem, config.server_lr, config.cutoff)
    return federate(
        problem, settings["server"], server, config.rounds, problem.new_task(), every=config.every, progress=False
    )
