"""How the weight of energies decides whether a potential of crystals learns forces.

    python benchmarks/energy_weights.py --root DIR [--epochs 2] [--threads 1]

Trains `potential/mlearn` for a few epochs with the constant weights of `WEIGHTS`, and for the number of epochs of the
configuration with the constant and with the growing weight. DIR holds the folder `periodic`. Runs that are finished in
--folder are read, not repeated. Writes --out (benchmarks/results/energy_weights.json) and prints a table.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ponita.tasks.bench.record import environment, write
from ponita.tasks.bench.training import link_data, timed_fit
from ponita.tasks.pictures import format_table, read_metrics

CONFIG = "potential/mlearn"
OPTION = "--model.init_args.loss_weights"
#: Constant weights of energies, trained shortly.
WEIGHTS = (0.5, 5.0, 100.0)
METRICS = {"energy_per_atom_mae": "E MAE (meV/atom)", "forces_mae": "F MAE (meV/Å)", "stress_mae": "stress MAE (GPa)"}


def runs(epochs: int) -> dict[str, list[str]]:
    """Names of the runs, with the options of each."""
    constant = [f"{OPTION}.energy_growth", "1"]
    short = {
        f"energy {weight:g}, {epochs} epochs": [
            *(f"{OPTION}.energy", str(weight), *constant),
            *("--trainer.max_epochs", str(epochs)),
        ]
        for weight in WEIGHTS
    }
    return {**short, "energy 0.5, whole training": constant, "energy 0.5 to 20, whole training": []}


def main() -> None:
    """Train what is missing, store, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with periodic/mlearn_6elements_*.xyz")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/energy_weights"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "energy_weights.json")
    arguments = parser.parse_args()
    folder, out = arguments.folder.resolve(), arguments.out.resolve()
    link_data(folder, arguments.root)
    os.chdir(folder)  # the configuration names files below data/
    found: dict[str, dict[str, Any]] = {}
    for name, words in runs(arguments.epochs).items():
        run = folder / name.replace(",", "").replace(" ", "-")
        cost = timed_fit(run, CONFIG, words, arguments.threads)
        metrics = read_metrics(run / "metrics.csv")
        found[name] = {metric: list(metrics[f"test/{metric}"].values())[-1] for metric in METRICS} | cost
        record = {"command": f"python benchmarks/energy_weights.py --root DIR --epochs {arguments.epochs}"}
        write({**record, "energy_weights": found, **environment(arguments.threads)}, out)
    rows = [("test set of mlearn", *METRICS.values())]
    rows += [(name, *(f"{values[metric]:.4g}" for metric in METRICS)) for name, values in found.items()]
    print(format_table(rows))


if __name__ == "__main__":
    main()
