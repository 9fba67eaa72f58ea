"""Adapting a potential of seven molecules of rMD17 to the eighth on three machines: one byte a sample against averaged gradients.

    python benchmarks/one_byte.py --root DIR --checkpoint CKPT [--configs readouts lora]

CKPT is the result of `ponita fit --config potential/rmd17_seven`. Runs the packaged configurations of `ponita onebyte` in --folder,
where one that was stopped goes on and one that is finished is read. Writes --out (benchmarks/results/one_byte.json) and prints the tables.
cpu_seconds are those of all machines of a method, without the measuring of errors.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ponita.tasks.bench.record import environment, write

CONFIGS = ("readouts", "lora")
PROGRAM = "from ponita.tasks.cli import main; main()"


def run(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Curves of the methods of a configuration that is finished, or is run now.

    Raises:
        subprocess.CalledProcessError: if the command fails.
    """
    finished = folder / "errors.json"
    if not finished.is_file():
        words = [
            "onebyte",
            "--config",
            f"one_byte/{name}",
            "--checkpoint",
            arguments.checkpoint,
            "--run_dir",
            str(folder),
        ]
        words += ["--data.root", arguments.root, "--threads", str(arguments.threads)]
        environ = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
        subprocess.run([sys.executable, "-c", PROGRAM, *words], check=True, env=environ)
    return json.loads(finished.read_text(encoding="utf-8"))


def main() -> None:
    """Run what is missing, store, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of rMD17, with npz_data/ and splits/")
    parser.add_argument("--checkpoint", required=True, help="of ponita fit --config potential/rmd17_seven")
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS), choices=CONFIGS)
    parser.add_argument("--threads", type=int, default=1, help="of each machine")
    parser.add_argument("--folder", type=Path, default=Path("runs/one_byte"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "one_byte.json")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    for name in arguments.configs:
        found[name] = run(name, arguments.folder / name, arguments)
        record = {"command": "python benchmarks/one_byte.py --root DIR --checkpoint CKPT"}
        write({**record, "one_byte": found, **environment(arguments.threads)}, arguments.out)
    for name in arguments.configs:
        print(f"{name}\n\n{(arguments.folder / name / 'report.txt').read_text(encoding='utf-8')}")


if __name__ == "__main__":
    main()
