"""A potential trained by labs that come and go, servers compared: errors after all rounds.

    python benchmarks/federated.py --root DIR [--folder RUN]

Runs `ponita federate --config federated/potential`, unless --folder has a finished run of it; one that was stopped goes on. Stores its
results.json with the machine and the versions in --out (benchmarks/results/federated.json), and prints the table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ponita.tasks.bench.record import environment, write
from ponita.tasks.cli import run


def main() -> None:
    """Train, store, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of rMD17, with npz_data/ and splits/")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "federated-potential", help="of the run")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "federated.json")
    arguments = parser.parse_args()
    words = ["--config", "federated/potential", "--problem.data.init_args.root", arguments.root, "--threads", "1"]
    if not (arguments.folder / "results.json").is_file():
        run(["federate", *words, "--run_dir", str(arguments.folder)])
    results = json.loads((arguments.folder / "results.json").read_text(encoding="utf-8"))
    command = "python benchmarks/federated.py --root DIR"
    write({"command": command, "federated": results, **environment(1)}, arguments.out)
    print((arguments.folder / "report.txt").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
