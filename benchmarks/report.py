"""Make docs/benchmarks.md and docs/benchmarks.png from the JSON files in benchmarks/results.

    python benchmarks/report.py [--results benchmarks/results] [--docs docs]

The files are written by `ponita bench --out benchmarks/results/NAME.json`, and by the other files of this folder.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from sharing_tables import SECTIONS
from study_tables import STUDIES

from ponita.tasks.bench.scaling import departure, departure_from_line
from ponita.tasks.bench.tables import DAY_AT_1_FS, remarks, table
from ponita.tasks.pictures import figure

HERE = Path(__file__).resolve().parent
ALLOWED_DEPARTURE = 0.15
INTRODUCTION = """# Benchmarks

Made by `python benchmarks/report.py` from the files in `benchmarks/results`; do not edit.

Every variant has the same weights and was checked in float64 before it was timed: mlp variants against the eager
reference (energies, forces, gradients of a force loss: 1e-8), tabulated ones by their force error (1e-4), spline ones
against themselves in plain torch and, in their forces, against differences of energies. One that fails is not timed.

*eager* is the published network in ordinary autograd, which stores what the published code stores, for every directed
edge and self-loop (`tasks/bench/eager.py`). *mlp* evaluates the kernel network for every pair as published ("every edge":
for both directions of a pair), *spline* on a lattice; *tabulated* is the spline form of an mlp network for inference.
Kernels end at 5 Å; all edges given are computed, also longer ones.

Times are wall times in float32, in turns in one process. The neighbour list, and sorting its edges and matching pairs,
are done before; below a table stands what they take. A training step is the gradient of a loss on energies and forces in
all parameters, without an optimiser. *Kept* is the memory that autograd keeps for it (sum of distinct storages), *peak*
how far it raised the memory of the process. IQR is the distance of the quartiles; µs/atom and ns/day (steps of 1 fs) are
of energies and forces. Weights are frozen for the forward pass and for energies and forces, as in a simulation, so that
what depends on weights alone is computed once. The process keeps freed memory (`ponita.ops.keep_freed_memory`): without
that, page faults made the eager reference up to 1.4 times slower (475 ms forward, 957 ms energies and forces, 3.1 s for a
step in another run), and all ratios larger. A quarter of the pairs of S2 are beyond 5 Å; spline kernels skip what is
computed with their zero weights, the others do not. *eager compiled* is the eager reference by `torch.compile`, the derivative inside the graph
(`--compiled`).

Networks of other packages have the same width and the same edges, other functions and other accuracy: their times put
ours in proportion, no more. MACE has two interactions of 128 scalars and vectors with correlation 3, SchNet and ViSNet of
PyTorch Geometric six layers of 128 channels. MACE pins versions, so it is measured in an environment of its own:

    python -m venv peers
    peers/bin/pip install -c constraints.txt torch==2.13.0 mace-torch==0.3.16 torch-geometric lightning jsonargparse
    peers/bin/pip install --no-deps -e .
    peers/bin/ponita bench --case S2 --variant eager "mlp cpp" "spline cpp" "PyG SchNet" "PyG ViSNet" MACE \\
        --out benchmarks/results/peers.json
"""
DYNAMICS = """
Molecular dynamics through ASE as a user runs it: velocity Verlet at 300 K with a calculator, so that neighbour lists, the
Python of ASE and stresses are in the times. Medians over blocks of steps after a warm-up. *mlp* and *tabulated* (128 x
64 nodes) have 64 channels, 12 directions and three layers, MACE (mace-torch, its ASE calculator without compilation) two
interactions of the features in its name with correlation 3; all end at 5 Å and compute in float32. **All weights are
random**: this is about speed, not accuracy, and networks of other sizes take other times. Their energies are scaled down
until atoms fly almost freely at their thermal velocities, which sets how soon a list of neighbours has to be made again.
The classical potentials of ASE are Python and NumPy, with one thread. TIP3P needs rigid molecules, and of its step the
constraints of ASE take 99 %: its forces alone take about 10 ms.
"""


def main() -> None:
    """Read the results, write the page and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs")
    arguments = parser.parse_args()
    records = {path.name: json.loads(path.read_text()) for path in sorted(arguments.results.glob("*.json"))}
    arguments.docs.mkdir(parents=True, exist_ok=True)
    (arguments.docs / "benchmarks.md").write_text("\n".join([INTRODUCTION, *page(records)]))
    for record in records.values():
        if "scaling" in record.get("cases", {}):
            draw_scaling(record["cases"]["scaling"], arguments.docs / "benchmarks.png")
        if "dynamics" in record:
            draw_dynamics(record, arguments.docs / "dynamics.png")


def page(records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Lines of the page after its introduction.

    Args:
        records: by the name of their file.
    """
    for name, record in records.items():
        if "cases" in record:
            yield from _benchmark(name, record)
        elif "force_mae_over_mlp" in record:
            yield from _accuracy(name, record)
        elif "dynamics" in record:
            yield from _dynamics(name, record)
        elif "potentials" in record:
            yield from _potentials(name, record)
        elif record.get("config") == "superpixel/quick":
            yield from _superpixels(name, record)
        else:
            yield from _studies(name, record)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, the first row its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "-|" * len(rows[0]), *lines[1:]]) + "\n"


def sweep(case: Mapping[str, Any], name: str, measure: str) -> dict[int, float]:
    """Least seconds by the value of what was varied.

    Args:
        case: the scaling part of a record.
        name: "atoms", "neighbours" or "orientations".
        measure: name of a measure.
    """
    parts = ((label.split(), seconds) for label, seconds in case["seconds"].items())
    return {int(value): min(seconds[measure]) for (sweep_name, value), seconds in parts if sweep_name == name}


def draw_scaling(case: Mapping[str, Any], path: Path) -> None:
    """Times and memory against atoms, neighbours and orientations.

    Args:
        case: the scaling part of a record.
        path: PNG to write.
    """
    names = [n for n in ("atoms", "neighbours", "orientations") if sweep(case, n, "forward")]
    with figure(path, columns=len(names)) as axes:
        for axis, name in zip(axes, names, strict=True):
            _draw_sweep(axis, case, name)


def dynamics_table(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows for all runs of `benchmarks/dynamics.py`, the first their head.

    Args:
        record: what that wrote.
    """
    rows = [("cell", "calculator", "threads", "ms/step: median (least)", "ns/day", "atom-steps/s", "steps for a list")]
    for run in record["dynamics"]:
        cell, times = record["cells"][run["cell"]], run["seconds per step"]
        median = statistics.median(times)
        numbers = (f"{DAY_AT_1_FS * cell['step'] / median:.3g}", f"{cell['atoms'] / median:,.0f}")
        lists = f"{run['steps'] * len(times) / run['lists']:.0f}" if run.get("lists") else ""
        milli = f"{1e3 * median:.0f} ({1e3 * min(times):.0f})"
        rows.append((run["cell"], run["calculator"], str(run["threads"]), milli, *numbers, lists))
    return rows


def draw_dynamics(record: Mapping[str, Any], path: Path) -> None:
    """Bars of ns/day, a panel for each cell.

    Args:
        record: what `benchmarks/dynamics.py` wrote.
        path: PNG to write.
    """
    cells = {name: [run for run in record["dynamics"] if run["cell"] == name] for name in record["cells"]}
    cells = {name: runs for name, runs in cells.items() if runs}
    with figure(path, columns=len(cells)) as axes:
        for axis, (name, runs) in zip(axes, cells.items(), strict=True):
            labels = list(dict.fromkeys(run["calculator"] for run in runs))[::-1]
            counts = sorted({run["threads"] for run in runs})
            for k, threads in enumerate(counts):
                some = [run for run in runs if run["threads"] == threads]
                step = record["cells"][name]["step"]
                speeds = [DAY_AT_1_FS * step / statistics.median(run["seconds per step"]) for run in some]
                height = 0.8 / len(counts)
                places = [labels.index(run["calculator"]) - height * (k - (len(counts) - 1) / 2) for run in some]
                bars = axis.barh(places, speeds, height, label=f"{threads} thread" + "s" * (threads > 1))
                axis.bar_label(bars, fmt="%.2g", padding=2)
            axis.set(xscale="log", xlabel="ns/day", title=f"{name}, {record['cells'][name]['atoms']} atoms")
            axis.set_yticks(range(len(labels)), labels)
            axis.margins(x=0.2)
            axis.grid(alpha=0.3, axis="x")
            axis.legend(frameon=False)


def _draw_sweep(axis: Axes, case: Mapping[str, Any], name: str) -> None:
    for measure in ("forward", "energy and forces"):
        points = sweep(case, name, measure)
        (line,) = axis.plot(list(points), [1e3 * s for s in points.values()], "o-", label=measure)
        if name == "atoms":
            mean = sum(s / n for n, s in points.items()) / len(points)
            axis.plot(list(points), [1e3 * n * mean for n in points], ":", color=line.get_color(), label="proportional")
    memory = axis.twinx()
    kept = {int(k.split()[1]): b["saved"] / 2**20 for k, b in case["bytes"].items() if k.split()[0] == name}
    memory.plot(list(kept), list(kept.values()), "s--", color="0.6", label="kept for a training step")
    axis.set(xlabel=name, ylabel="ms", title=f"cost against {name}")
    memory.set_ylabel("MiB")
    if name == "atoms":
        for scaled in (axis, memory):
            scaled.set(xscale="log", yscale="log")
    axis.legend(frameon=False, loc="upper left")
    memory.legend(frameon=False, loc="lower right")
    axis.grid(alpha=0.3, which="both")


def _benchmark(name: str, record: Mapping[str, Any]) -> Iterator[str]:
    machine, versions = record["machine"], record["versions"]
    yield f"## {name}\n"
    yield (
        f"`{record['command']}`, commit {record['commit'] or 'unknown'}; {machine['cpu']} ({machine['instructions']}), "
        f"{machine['threads']} of {machine['cores']} cores; "
        + ", ".join(f"{k} {v}" for k, v in versions.items())
        + ".\n"
    )
    for label, case in record["cases"].items():
        yield f"### {label}\n"
        sizes = {k: v for k, v in case["sizes"].items() if isinstance(v, int)}
        yield case["about"] + ("; " + ", ".join(f"{k} = {v}" for k, v in sizes.items()) if sizes else "") + ".\n"
        yield markdown(table(case))
        if label == "scaling":
            yield from _linearity(case)
        yield from (f"- {line}" for line in remarks(case))
        yield ""


def _linearity(case: Mapping[str, Any]) -> Iterator[str]:
    yield "![cost against atoms, neighbours and orientations](benchmarks.png)\n"
    for measure in ("forward", "energy and forces"):
        points = sweep(case, "atoms", measure)
        yield f"- {measure}: the cost for an atom departs from its mean by up to {departure(points):.0%}"
        if len(points) < 3:
            continue
        found = departure_from_line(points)
        verdict = "within" if found <= ALLOWED_DEPARTURE else "**outside**"
        yield f"- {measure}: the cost departs from a straight line by up to {found:.0%}, {verdict} {ALLOWED_DEPARTURE:.0%}"


def _accuracy(name: str, record: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {name}\n"
    yield f"`{record['command']}`: {record['config']}; {record['epochs']} epochs.\n"
    rows = [("kernel", "seed", "energy MAE (meV)", "force MAE (meV/Å)")]
    for run in record["runs"]:
        errors = (f"{run[key]:.2f}" for key in ("energy_mae", "forces_mae"))
        rows.append((run["kernel"], str(run["seed"]), *errors))
    yield markdown(rows)
    ratios = (f"{ratio:.3f} on {nodes} nodes" for nodes, ratio in record["force_mae_over_mlp"].items())
    yield f"Force error of spline kernels over that of mlp kernels, mean over seeds: {', '.join(ratios)}.\n"


def _dynamics(name: str, record: Mapping[str, Any]) -> Iterator[str]:
    machine = record["machine"]
    yield f"## {name}\n"
    yield (
        f"`{record['command']}`; {machine['cpu']} ({machine['instructions']}), {machine['cores']} cores; "
        + ", ".join(f"{k} {v}" for k, v in record["versions"].items())
        + ".\n"
    )
    for label, cell in record["cells"].items():
        box = " x ".join(f"{side:.2f}" for side in cell["box"])
        yield f"- {label}: {cell['about']}, {cell['atoms']} atoms in {box} Å, steps of {cell['step']} fs"
    yield DYNAMICS
    yield markdown(dynamics_table(record))
    yield "![ns/day of every calculator](dynamics.png)\n"
    yield from (f"- not measured, {name}: {reason}" for name, reason in record["skipped"].items())


def _potentials(name: str, record: Mapping[str, Any]) -> Iterator[str]:
    machine = record["machine"]
    yield f"## {name}\n"
    yield (
        f"Trained and tested on {machine['cpu']}, {machine['threads']} thread(s), one seed; "
        "docs/potentials.md says what the numbers mean.\n"
    )
    for run in record["potentials"]:
        yield (
            f"`{run['command']}`: {run['config']}, {run['parameters']:,} parameters, {run['epochs']} epochs, "
            f"{run['cpu_seconds'] / 60:.0f} CPU minutes with validations and test.\n"
        )
        yield from (markdown(table) for table in run["tables"])


def _studies(name: str, record: Mapping[str, Any]) -> Iterator[str]:
    sections = STUDIES | SECTIONS
    for key in sections.keys() & record.keys():
        machine = record["machine"]
        yield f"## {name}\n"
        yield f"`{record['command']}`; {machine['cpu']}, {machine['threads']} thread(s).\n"
        yield from (part if isinstance(part, str) else markdown(part) for part in sections[key](record))


def _superpixels(name: str, record: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {name}\n"
    machine = record["machine"]
    yield (
        f"`{record['command']}`: {record['config']} with the changes of `benchmarks/superpixel.py`; {record['data']}; "
        f"{machine['cpu']}, {machine['threads']} threads; tasks/superpixel/README.md says what it means.\n"
    )
    rows = [("variant", "seed", "test accuracy", "on images turned at random", "epochs", "CPU minutes")]
    for run in record["runs"]:
        accuracies = (f"{run[key]:.2%}" for key in ("accuracy", "accuracy_rotated"))
        rows.append(
            (run["variant"], str(run["seed"]), *accuracies, str(run["epochs"]), f"{run['cpu_seconds'] / 60:.1f}")
        )
    yield markdown(rows)


if __name__ == "__main__":
    main()
