"""What a search leaves: a table, a picture, and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

from ponita.data import replacing
from ponita.models import save
from ponita.sharing.search import Architecture, Latency, Limit, front
from ponita.sharing.search.searchers import Found
from ponita.tasks.pictures import figure, format_table
from ponita.tasks.search.methods.base import Trained
from ponita.tasks.search.problem import PotentialProblem


def write_results(
    folder: Path, problem: PotentialProblem, trained: Trained, found: Found, latency: Latency, limit: Limit | None
) -> str:
    """Write everything to a folder, and return the table.

    Args:
        folder: of the run.
        problem: that was searched.
        trained: supernets.
        found: candidates with their validation errors.
        latency: milliseconds of an architecture.
        limit: that the chosen network meets.
    """
    best = front(found.errors, latency)
    chosen = found.best
    _write_candidates(folder / "candidates.json", problem, found, latency)
    (folder / "front").mkdir(exist_ok=True)
    for number, architecture in enumerate(best, start=1):
        save(trained.extract(architecture), folder / "front" / f"{number:02d}.ckpt")
    save(trained.extract(chosen), folder / "chosen.ckpt")
    draw_front(folder / "front.png", found, best, chosen, latency, limit)
    for name, draw in trained.pictures.items():
        draw(folder / name)
    report = _table(problem, trained, found, best, chosen, latency)
    (folder / "front.txt").write_text(report + "\n", encoding="utf-8")
    return report


def _table(
    problem: PotentialProblem,
    trained: Trained,
    found: Found,
    best: list[Architecture],
    chosen: Architecture,
    latency: Latency,
) -> str:
    rows = [("", *problem.space, "parameters", "ms", "valid", "test (meV/Å)")]
    for number, architecture in enumerate(best, start=1):
        task = trained.leaf_of(architecture)
        alone = trained.extract(architecture)
        mark = f"front/{number:02d}" + (" chosen" if architecture == chosen else "")
        values = map(str, problem.space.decode(architecture).values())
        numbers = (str(sum(p.numel() for p in alone.parameters())), f"{latency(architecture):.2f}")
        errors = (f"{found.errors[architecture]:.1f}", f"{problem.error(task, architecture, 'test'):.1f}")
        rows.append((mark, *values, *numbers, *errors))
    title = f"Force errors with shared weights, ms for {problem.timed_structures} structures; {len(found.errors)} networks were tried."
    return "\n".join([*trained.notes, title, "", format_table(rows)])


def _write_candidates(path: Path, problem: PotentialProblem, found: Found, latency: Latency) -> None:
    tried = [
        {**problem.space.decode(a), "forces_mae": error, "ms": latency(a)}
        for a, error in sorted(found.errors.items(), key=lambda item: item[1])
    ]
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(tried, indent=1) + "\n", encoding="utf-8")


def draw_front(
    path: Path, found: Found, best: list[Architecture], chosen: Architecture, latency: Latency, limit: Limit | None
) -> None:
    """Errors against latencies: all candidates, the front, the limit and what was chosen."""
    with figure(path, width=6.0, height=4.2) as (axis,):
        points = [(latency(a), error) for a, error in found.errors.items()]
        axis.scatter(*zip(*points, strict=True), s=12, color="0.7", label="tried")
        line = [(latency(a), found.errors[a]) for a in best]
        axis.step(*zip(*line, strict=True), where="post", color="C0", linewidth=1)
        axis.scatter(*zip(*line, strict=True), s=22, color="C0", label="front", zorder=3)
        axis.scatter(
            [latency(chosen)],
            [found.errors[chosen]],
            s=90,
            facecolors="none",
            edgecolors="C3",
            label="chosen",
            zorder=4,
        )
        if limit is not None:
            axis.axvline(limit.most, color="C3", linestyle=":", linewidth=1, label=f"limit {limit.most:g} ms")
        axis.set(
            xlabel="energies and forces (ms)", ylabel="force error, shared weights (meV/Å)", xscale="log", yscale="log"
        )
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_formatter("{x:g}")
            scale.set_minor_formatter("{x:g}")
        axis.legend(frameon=False)
