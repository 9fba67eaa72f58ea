"""Does kernel="spline" lose accuracy? Ethanol of rMD17, both kernels, same steps and seeds.

    python benchmarks/spline_accuracy.py --root data/rmd17 [--seeds 0 1] [--epochs 20] [--parallel 2]

Runs `ponita fit --config potential/quick` with a cut-off of 5 Å for each kernel and seed, one thread each, and writes
test errors and training times to benchmarks/results/spline_accuracy.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

import ponita
from ponita.tasks.pictures import read_metrics

NETWORK = "--model.init_args.model.init_args"


def train(kernel: str, seed: int, arguments: argparse.Namespace) -> dict[str, float | str | int]:
    """One training run in a process of its own; its test errors (meV, meV/Å) and wall time."""
    folder = Path(arguments.folder) / f"{kernel}-{seed}"
    command = [sys.executable, "-c", "from ponita.tasks.cli import main; main()", "fit", "--config", "potential/quick"]
    command += ["--run_dir", str(folder), "--data.init_args.root", arguments.root, "--seed_everything", str(seed)]
    command += ["--trainer.max_epochs", str(arguments.epochs), "--trainer.enable_progress_bar", "false"]
    command += [f"{NETWORK}.kernel", kernel, f"{NETWORK}.cutoff", "5.0"]
    start = time.perf_counter()
    with open(f"{folder}.log", "w", encoding="utf-8") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    metrics = read_metrics(folder / "metrics.csv")
    errors = {name: list(metrics[f"test/{name}"].values())[-1] for name in ("energy_mae", "forces_mae")}
    return {"kernel": kernel, "seed": seed, "seconds": time.perf_counter() - start, **errors}


def main() -> None:
    """Train all, print a table, store it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data/rmd17")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--folder", default="runs/spline_accuracy")
    arguments = parser.parse_args()
    Path(arguments.folder).mkdir(parents=True, exist_ok=True)

    jobs = [(kernel, seed) for seed in arguments.seeds for kernel in ("mlp", "spline")]
    with ThreadPoolExecutor(arguments.parallel) as pool:
        runs = list(pool.map(lambda job: train(*job, arguments), jobs))
    for run in runs:
        print(
            "{kernel:7s} seed {seed}  energy {energy_mae:6.2f} meV  forces {forces_mae:6.2f} meV/Å  {seconds:.0f} s".format(
                **run
            )
        )
    mean = {kernel: sum(r["forces_mae"] for r in runs if r["kernel"] == kernel) for kernel in ("mlp", "spline")}
    ratio = mean["spline"] / mean["mlp"]
    print(f"force MAE of spline over mlp: {ratio:.3f}")
    record = {
        "command": "python benchmarks/spline_accuracy.py " + " ".join(sys.argv[1:]),
        "config": "potential/quick, cutoff 5 Å, lattice 48 x 24, one thread a run",
        "epochs": arguments.epochs,
        "runs": runs,
        "force_mae_ratio": ratio,
        "versions": {"ponita": ponita.__version__, "torch": torch.__version__},
    }
    path = Path(__file__).parent / "results" / "spline_accuracy.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
