"""Run folders: everything a run writes is in one, and no run writes into another's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import lightning as L

# Processes of a distributed run are started with the environment of the first and must agree on the folder.
VARIABLE = "PONITA_RUN_DIR"


def choose(name: str, given: str | None, ckpt_path: str | None, command: str) -> Path:
    """The folder of a run.

    Args:
        name: of the configuration, such as nbody/quick.
        given: what the user said with --run_dir.
        ckpt_path: what the user said with --ckpt_path.
        command: fit, validate, test or predict.

    Returns:
        The folder given; else, for a resumed fit, that of the checkpoint; else runs/<name>, with a number behind it
        if that is taken.
    """
    if VARIABLE in os.environ and "LOCAL_RANK" in os.environ:
        return Path(os.environ[VARIABLE])
    folder = Path(given) if given else _default(name, ckpt_path, command)
    os.environ[VARIABLE] = str(folder)
    return folder


def folder_of(trainer: L.Trainer) -> Path:
    """Where a run writes. Not `trainer.log_dir`, which waits for all ranks: only the first may ask."""
    log_dir = getattr(trainer.logger, "log_dir", None)
    return Path(log_dir or trainer.default_root_dir)


def config_beside(ckpt_path: str | None) -> Path | None:
    """config.yaml of the run a checkpoint belongs to, if it is there."""
    if not ckpt_path:
        return None
    path = Path(ckpt_path).resolve().parent.parent / "config.yaml"
    return path if path.is_file() else None


def _default(name: str, ckpt_path: str | None, command: str) -> Path:
    root = Path("runs")
    stem = name.replace("/", "-") + ("" if command == "fit" else f"-{command}")
    if command == "fit" and ckpt_path == "last":
        earlier = sorted(root.glob(f"{stem}*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
        if earlier:
            return earlier[-1].parent.parent
    elif command == "fit" and ckpt_path and Path(ckpt_path).parent.name == "checkpoints":
        return Path(ckpt_path).parent.parent
    folder, number = root / stem, 1
    while folder.exists():
        number += 1
        folder = root / f"{stem}-{number}"
    return folder
