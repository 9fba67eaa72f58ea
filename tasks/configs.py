"""Packaged configurations: <task>/<name>.yaml beside the code of the task."""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path


def packaged() -> dict[str, Path]:
    """Names such as nbody/quick, with their files."""
    root = Path(str(files("ponita.tasks")))
    return {f"{path.parent.name}/{path.stem}": path for path in sorted(root.glob("*/*.yaml"))}


def resolve(name: str) -> Path:
    """The file a configuration's name stands for.

    Args:
        name: path of a file, or a packaged name.

    Raises:
        ValueError: if it is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = packaged()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"no configuration {name!r}: not a file, and not among the packaged {sorted(known)}{hint}")


def listing() -> str:
    """A line for each packaged configuration: its name, and the first comment of its file."""
    lines, width = [], max(map(len, packaged()))
    for name, path in packaged().items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        lines.append(f"{name:{width}s} {first.lstrip('# ')}")
    return "\n".join(lines)
