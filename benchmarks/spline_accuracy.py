"""Does kernel="spline" lose accuracy? Ethanol of rMD17, both kernels, same steps and seeds.

    python benchmarks/spline_accuracy.py --root data/rmd17 [--seeds 0 1] [--epochs 20] [--lattices 64x32] [--parallel 2]

Runs `ponita fit --config potential/quick` with a cut-off of 5 Å for each kernel, lattice and seed, one thread each, and writes
the test errors to benchmarks/results/spline_accuracy.json. Runs that are finished in --folder are read, not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

import ponita
from ponita.tasks.pictures import read_metrics

NETWORK = "--model.init_args.model.init_args"


def train(kernel: str, seed: int, arguments: argparse.Namespace) -> dict[str, float | str | int]:
    """One training run in a process of its own; its test errors (meV, meV/Å).

    Args:
        kernel: "mlp", or the nodes of a lattice such as "64x32".
        seed: of everything.
        arguments: of the command.
    """
    folder = Path(arguments.folder) / f"{kernel}-{seed}"
    if not (folder / "report.txt").is_file():
        command = [
            sys.executable,
            "-c",
            "from ponita.tasks.cli import main; main()",
            "fit",
            "--config",
            "potential/quick",
        ]
        command += ["--run_dir", str(folder), "--data.init_args.root", arguments.root, "--seed_everything", str(seed)]
        command += ["--trainer.max_epochs", str(arguments.epochs), "--trainer.enable_progress_bar", "false"]
        command += [f"{NETWORK}.cutoff", "5.0", f"{NETWORK}.kernel", "mlp" if kernel == "mlp" else "spline"]
        if kernel != "mlp":
            command += [f"{NETWORK}.lattice", f"[{kernel.replace('x', ',')}]"]
        with open(f"{folder}.log", "w", encoding="utf-8") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    metrics = read_metrics(folder / "metrics.csv")
    errors = {name: list(metrics[f"test/{name}"].values())[-1] for name in ("energy_mae", "forces_mae")}
    return {"kernel": kernel, "seed": seed, **errors}


def main() -> None:
    """Train all, print a table, store it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data/rmd17")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lattices", nargs="+", default=["64x32"])
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--folder", default="runs/spline_accuracy")
    arguments = parser.parse_args()
    Path(arguments.folder).mkdir(parents=True, exist_ok=True)

    kernels = ["mlp", *arguments.lattices]
    jobs = [(kernel, seed) for seed in arguments.seeds for kernel in kernels]
    with ThreadPoolExecutor(arguments.parallel) as pool:
        runs = list(pool.map(lambda job: train(*job, arguments), jobs))
    for run in runs:
        print("{kernel:7s} seed {seed}  energy {energy_mae:6.2f} meV  forces {forces_mae:6.2f} meV/Å".format(**run))
    total = {kernel: sum(r["forces_mae"] for r in runs if r["kernel"] == kernel) for kernel in kernels}
    ratios = {kernel: total[kernel] / total["mlp"] for kernel in arguments.lattices}
    for kernel, ratio in ratios.items():
        print(f"force MAE of a spline of {kernel} nodes over that of the mlp: {ratio:.3f}")
    record = {
        "command": "python benchmarks/spline_accuracy.py",
        "config": "potential/quick, cutoff 5 Å, rMD17 ethanol split 1, one thread a run",
        "epochs": arguments.epochs,
        "runs": runs,
        "force_mae_over_mlp": ratios,
        "versions": {"ponita": ponita.__version__, "torch": torch.__version__},
    }
    path = Path(__file__).parent / "results" / "spline_accuracy.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
