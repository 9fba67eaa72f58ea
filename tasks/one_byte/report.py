"""The table and the picture of a study."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from matplotlib.axes import Axes

from ponita.tasks.one_byte.problem import OneByteProblem
from ponita.tasks.one_byte.study import Curve, number_of_weights
from ponita.tasks.pictures import figure, format_table


def write_results(problem: OneByteProblem, found: dict[str, Curve], targets: list[float], folder: Path) -> str:
    """Write report.txt, errors.json and errors.png.

    Args:
        problem: with the machines.
        found: curves by method.
        targets: force errors (meV/Å) whose bytes are told.
        folder: to write to.

    Returns:
        The report.
    """
    report = f"{_title(problem)}\n\n{format_table(_rows(found, targets))}"
    (folder / "report.txt").write_text(report + "\n", encoding="utf-8")
    content = {name: asdict(curve) for name, curve in found.items()}
    (folder / "errors.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draw_errors(folder / "errors.png", found)
    return report


def _title(problem: OneByteProblem) -> str:
    counts = sorted({len(frames) for frames in problem.frames.values()})
    sizes = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"{problem.machines} machines of {sizes} frames, sorted by energy, train {number_of_weights(problem)} numbers. Bytes are "
        "payload that a machine sends;\nevaluations, batches whose loss it computes (with averaged gradients also "
        "differentiated); CPU s, of all machines together; errors, those of the test frames."
    )


def _rows(found: dict[str, Curve], targets: list[float]) -> list[tuple[str, ...]]:
    head = ("method", "steps", "evaluations", "CPU s", "bytes", "E before, after (meV)", "F before, after (meV/Å)")
    rows = [(*head, *(f"bytes to {target:g}" for target in targets))]
    for name, curve in found.items():
        steps = curve.steps[-1]
        counts = (steps, steps * curve.step_evaluations, round(curve.cpu_seconds), steps * curve.step_bytes)
        errors = (f"{values[0]:.1f}, {values[-1]:.1f}" for values in (curve.energies, curve.forces))
        reached = (curve.bytes_to(target) for target in targets)
        rows.append((name, *map(str, counts), *errors, *("never" if r is None else str(r) for r in reached)))
    return rows


def draw_errors(path: Path, found: dict[str, Curve]) -> None:
    """Force errors against bytes sent, and against evaluations, a line for each method; dotted before the first step."""
    with figure(path, columns=2, width=5.0, height=4.0) as axes:
        for axis, attribute, label in zip(
            axes,
            ("step_bytes", "step_evaluations"),
            ("bytes sent by each machine", "batches evaluated by each machine"),
            strict=True,
        ):
            _draw(axis, attribute, found)
            axis.set(xlabel=label, ylabel="force error (meV/Å)", xscale="log", yscale="log")
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("{x:g}")
            axis.grid(alpha=0.3)
        axes[0].legend(frameon=False, fontsize=8)


def _draw(axis: Axes, attribute: str, found: dict[str, Curve]) -> None:
    for name, curve in found.items():
        each = getattr(curve, attribute)
        axis.plot([each * step for step in curve.steps[1:]], curve.forces[1:], label=name, linewidth=1.4)
    axis.axhline(next(iter(found.values())).forces[0], color="0.5", linestyle=":", linewidth=1, label="before")
