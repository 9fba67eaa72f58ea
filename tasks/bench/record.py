"""Results as a file, as a table, and against other results."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import ponita
from ponita.tasks.pictures import format_table

PACKAGES = ("torch", "torch-geometric", "numpy", "triton", "torch-scatter", "mace-torch", "e3nn", "nequip")
MACHINE = ("cpu", "threads", "device")  # what must agree for times to be comparable
Record = dict[str, Any]


def environment(threads: int, device: str = "cpu") -> Record:
    """Where, and with what, something was measured.

    Args:
        threads: of torch.
        device: "cpu" or "cuda".
    """
    return {
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "system": f"{platform.system()} {platform.machine()}",
            "threads": threads,
            "device": device if device == "cpu" else torch.cuda.get_device_name(),
            "float32 products": torch.get_float32_matmul_precision(),
        },
        "versions": {"ponita": ponita.__version__, "python": platform.python_version()} | _versions(),
        "commit": _commit(),
    }


def write(record: Record, path: Path) -> None:
    """Store a record as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def read(path: Path) -> Record:
    """Read what `write` stored.

    Raises:
        ValueError: if the file holds something else.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}; expected a file written by `ponita bench`.") from error
    if not isinstance(record, dict) or "cases" not in record:
        raise ValueError(f"{path} holds no cases; expected a file written by `ponita bench`.")
    return record


def times(record: Record) -> dict[tuple[str, str, str], list[float]]:
    """All seconds of a record by (case, variant, measure)."""
    return {
        (case, variant, measure): seconds
        for case, part in record["cases"].items()
        for variant, measures in part["seconds"].items()
        for measure, seconds in measures.items()
    }


def compare(first: Record, second: Record) -> Iterator[str]:
    """Lines that say how many times faster the second record is, least time against least time.

    Args:
        first: the record to compare with.
        second: the record in question.
    """
    for name in MACHINE:
        ours, theirs = second["machine"].get(name), first["machine"].get(name)
        if ours != theirs:
            yield f"note: {name} differs ({theirs} and {ours}): the ratios are not of the software alone"
    before, after = times(first), times(second)
    rows = [("case, variant, measure", "first ms", "second ms", "speed-up")]
    for key in before.keys() & after.keys():
        a, b = min(before[key]), min(after[key])
        rows.append((", ".join(key), f"{1e3 * a:.2f}", f"{1e3 * b:.2f}", f"{a / b:.2f}"))
    yield format_table([rows[0], *sorted(rows[1:])])
    for label, keys in (("first", before.keys() - after.keys()), ("second", after.keys() - before.keys())):
        if keys:
            yield f"only in the {label}: " + "; ".join(sorted(", ".join(key) for key in keys))


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _commit() -> str | None:
    """Of the checkout this code is in, with a mark where files were changed; None outside a checkout."""
    # Of an installed package the folder may lie in a checkout of something else.
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
