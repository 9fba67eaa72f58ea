"""Learning one thing after another: errors of each method after each stage, forgetting and storage.

    python benchmarks/continual.py continual/rmd17 --data.init_args.root DIR [--threads 1] [further options of ponita fit]
    python benchmarks/continual.py continual/superpixel --data.init_args.mnist_folder DIR

Trains a configuration of `OUT` by its name, unless --folder has a finished run of it. Stores the results.json that the run leaves, with its cost,
the machine and the versions, in benchmarks/results, and prints the report.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ponita.tasks.bench.record import environment, write
from ponita.tasks.bench.training import timed_fit

#: Names of result files by configuration.
OUT = {"continual/rmd17": "continual_potential.json", "continual/superpixel": "continual_superpixel.json"}


def main() -> None:
    """Train, store, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", choices=OUT)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="of the run (default: runs/CONFIG)")
    parser.add_argument("--out", type=Path)
    arguments, words = parser.parse_known_args()
    folder = arguments.folder or Path("runs") / arguments.config.replace("/", "-")
    cost = timed_fit(folder, arguments.config, words, arguments.threads)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    command = f"python benchmarks/continual.py {arguments.config}"
    out = arguments.out or Path(__file__).parent / "results" / OUT[arguments.config]
    write({"command": command, out.stem: results, **cost, **environment(arguments.threads)}, out)
    print((folder / "report.txt").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
