"""Potentials of real data: what the packaged configurations reach, and what it costs to train them.

    python benchmarks/potentials.py --root DIR [--configs 3bpa mlearn nbmotaw mptrj_sample] [--threads 1]

DIR holds the folders `3bpa` and `periodic` with the files that the configurations name. Trains one after another, reads
runs that are finished in --folder instead of repeating them, and writes errors and times to --out
(benchmarks/results/potentials.json); `python benchmarks/report.py` makes the tables.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import yaml

from ponita.models import load
from ponita.tasks.bench.record import environment, write
from ponita.tasks.bench.training import link_data, timed_fit

CONFIGS = ("3bpa", "mlearn", "nbmotaw", "mptrj_sample")
COMMAND = "python benchmarks/potentials.py --root DIR --configs {} --threads {}"


def train(name: str, folder: Path, threads: int) -> dict[str, Any]:
    """One training run, in the present folder: its report, and what it cost.

    Args:
        name: of the configuration.
        folder: of the run.
        threads: of OpenMP.
    """
    cost = timed_fit(folder, f"potential/{name}", [], threads)
    network = load(folder / "checkpoints" / "best.ckpt").network
    trainer = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["trainer"]
    return {
        "config": f"potential/{name}",
        "command": COMMAND.format(name, threads),
        "epochs": trainer["max_epochs"],
        "parameters": sum(p.numel() for p in network.parameters()),
        **cost,
        "tables": [_cells(part) for part in (folder / "report.txt").read_text(encoding="utf-8").split("\n\n")],
    }


def _cells(table: str) -> list[list[str]]:
    """The rows of a table of a report, without the line under its head."""
    lines = [line for line in table.splitlines() if line.strip() and set(line) != {"-"}]
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def main() -> None:
    """Train all, store each as soon as it is finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with 3bpa and periodic")
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS), choices=CONFIGS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/potentials"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "potentials.json")
    arguments = parser.parse_args()
    folder, out = arguments.folder.resolve(), arguments.out.resolve()
    link_data(folder, arguments.root)
    os.chdir(folder)  # the configurations name files below data/
    runs = []
    for name in arguments.configs:
        runs.append(train(name, folder / name, arguments.threads))
        write({"potentials": runs, **environment(arguments.threads)}, out)
        print((folder / name / "report.txt").read_text(encoding="utf-8"), flush=True)


if __name__ == "__main__":
    main()
