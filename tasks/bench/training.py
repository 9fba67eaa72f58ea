"""A training run in a process of its own, and what it cost."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

RUN = "from ponita.tasks.cli import main; main()"
COST = "cost.json"


def timed_fit(folder: Path, config: str, words: Sequence[str], threads: int) -> dict[str, float]:
    """Run `ponita fit`, unless the folder holds a run that is finished.

    Args:
        folder: of the run; its log.txt holds what the command printed, its cost.json what is returned.
        config: file or packaged name.
        words: further options of the command.
        threads: of OpenMP.

    Returns:
        "wall_seconds" of the whole command, with validations and tests, and "cpu_seconds" of all its threads.

    Raises:
        subprocess.CalledProcessError: if the command fails.
    """
    finished = folder / COST
    if not finished.is_file():
        command = [sys.executable, "-c", RUN, "fit", "--config", config, *words, "--run_dir", str(folder)]
        command += ["--trainer.enable_progress_bar", "false"]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            subprocess.run(command, check=True, stdout=log, stderr=log, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cost = {"wall_seconds": round(time.monotonic() - start, 1), "cpu_seconds": round(cpu, 1)}
        finished.write_text(json.dumps(cost) + "\n", encoding="utf-8")
    return json.loads(finished.read_text(encoding="utf-8"))


def link_data(folder: Path, root: Path) -> None:
    """Make a folder in which data/ is another: configurations name their files below data/.

    Args:
        folder: to make.
        root: of the data.

    Raises:
        ValueError: if there are no data.
    """
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}; name the one with the data.")
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "data"
    if link.is_symlink():
        link.unlink()
    link.symlink_to(root.resolve(), target_is_directory=True)
