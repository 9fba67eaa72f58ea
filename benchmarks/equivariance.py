"""How equivariant are these networks, and what lowers the error? Untrained ones on every grid, and trained potentials.

    python benchmarks/equivariance.py                     # untrained: three minutes on one thread
    python benchmarks/equivariance.py --parts trained [--data data/rmd17] [--epochs 10] [--folder runs/equivariance]
    python benchmarks/equivariance.py --report            # only the page, from the stored results

The trained part runs `ponita fit --config potential/quick` for a few epochs for each of `TRAININGS`; runs that are
finished in --folder are read, not repeated. A part that is not measured keeps its last results. Writes
benchmarks/results/equivariance.json, and from it the tables between the marks in docs/equivariance.md and
docs/equivariance.png.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from ponita import Ponita, Potential
from ponita.data import load_rmd17, load_split
from ponita.geometry import fibonacci_grid, fully_connected, get_space, random_rotations, sphere_grid
from ponita.models import load
from ponita.nn import calibrate
from ponita.tasks.bench.record import environment, write
from ponita.tasks.pictures import figure
from ponita.testing import equivariance_error

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "equivariance.json"
DOCS = HERE.parent / "docs"

NUM_GRAPHS, NUM_ATOMS, NUM_ROTATIONS = 4, 12, 12
GRIDS = {
    "R2xS1": (4, 5, 6, 8, 10, 16),
    "R3xS2": (6, 12, 16, 20, 32, 42, 64),
    "SE3": (12, 24, 60),
}
#: Networks without a grid: exact up to rounding.
EXACT = {
    "R2": {"space": "R2"},
    "R3": {"space": "R3"},
    "R2xS1, cloud": {"space": "R2xS1", "mode": "cloud"},
    "R3xS2, cloud": {"space": "R3xS2", "mode": "cloud"},
    "R3xS2, cloud, complete": {"space": "R3xS2", "mode": "cloud", "invariants": "complete"},
    "SE3, cloud": {"space": "SE3", "mode": "cloud"},
    "R3xS2, cloud of edges": {"space": "R3xS2", "mode": "cloud"},
}
LARGER = (12, 20, 32, 42, 64)
COPIES = (1, 2, 4, 8, 16, 32, 64)
AVERAGED = {"R2xS1": 5, "R3xS2": 12, "SE3": 12}
FEW_ROTATIONS = 6  # where every evaluation is many
#: Orientations and changes of potential/quick.
TRAININGS = {
    "12 orientations": (12, []),
    "12, axis_smoothing 0.5": (12, ["--model.init_args.model.init_args.axis_smoothing", "0.5"]),
    "12, axis_smoothing 1": (12, ["--model.init_args.model.init_args.axis_smoothing", "1.0"]),
    "12, molecules not turned": (12, ["--model.init_args.augment", "false"]),
    "20 orientations": (20, []),
}
FULLY_MEASURED = ("12 orientations", "12, axis_smoothing 0.5")
NUM_FRAMES = 100
COLORS = {"R2xS1": "C0", "R3xS2": "C1", "SE3": "C2"}
MILLI = 1000.0  # energies in meV, forces in meV/Å


def random_inputs(dim: int, seed: int, vectors: bool = True) -> dict[str, Tensor]:
    """Arguments of a network for fully connected Gaussian molecules, in float64.

    Args:
        dim: d.
        seed: of the positions and features.
        vectors: with vectors at the points.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = torch.arange(NUM_GRAPHS).repeat_interleave(NUM_ATOMS)

    def draw(*shape: int) -> Tensor:
        return torch.randn(batch.numel(), *shape, generator=generator, dtype=torch.float64)

    inputs = {"pos": draw(dim), "x": draw(3), "vec": draw(2, dim)}
    if not vectors:
        del inputs["vec"]
    return inputs | {"batch": batch, "edge_index": fully_connected(batch, loops=True)}


def network(seed: int, **options: Any) -> Ponita:
    """An untrained network in float64, its biases and norms moved from their initial values."""
    torch.manual_seed(seed)
    vectors = 2 if get_space(options["space"]).has_fibre else 0
    sizes = {"hidden_channels": 32, "num_layers": 3, "basis_channels": 10, "widening": 2, "pooling": None}
    model = Ponita(3, vectors, out_channels=2, out_vector_channels=vectors, **sizes, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def measure(
    options: Mapping[str, Any],
    seeds: int,
    change: Callable[[Ponita], nn.Module] | None = None,
    grid: Tensor | None = None,
    orientations: bool = False,
    num_rotations: int = NUM_ROTATIONS,
) -> dict[str, list[float]]:
    """Relative errors of calibrated networks under the same random rotations, one for each seed.

    Args:
        options: of `Ponita`.
        seeds: how many networks.
        change: of the calibrated network.
        grid: the one to calibrate on, instead of the network's.
        orientations: give every point one (cloud mode).
        num_rotations: how many.
    """
    dim = get_space(options["space"]).dim
    turns = random_rotations(num_rotations, dim=dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    errors: dict[str, list[float]] = {"scalars": [], "vectors": []}
    for seed in range(seeds):
        model = network(seed, **options)
        inputs = random_inputs(dim, seed, vectors=model.space.has_fibre)
        if orientations:
            inputs["orientations"] = random_orientations(model.space, inputs["pos"].shape[0])
        if grid is not None:
            model.set_grid(grid)
        calibrate(model, inputs)
        error = equivariance_error(model if change is None else change(model), inputs, rotations=turns)
        errors["scalars"].append(error.scalars)
        errors["vectors"].append(error.vectors)
    return errors


def random_orientations(space: Any, count: int) -> Tensor:
    """Of points in cloud mode."""
    turns = random_rotations(count, dim=space.dim, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return turns if space.fibre == "frames" else turns[:, :, 0].contiguous()


def measure_untrained(seeds: int) -> dict[str, list[dict[str, Any]]]:
    """All errors of untrained networks, by the part of the page they belong to."""
    start = {"space": "R3xS2", "num_orientations": 12}
    return {
        "exact": [
            {"name": name, **measure(options, seeds, orientations="cloud" in name and "edges" not in name)}
            for name, options in EXACT.items()
        ],
        "grids": list(measure_grids(seeds)),
        "larger": [{"num_orientations": n, **measure(start, seeds, lambda m, n=n: on_grid(m, n))} for n in LARGER],
        "averaged": list(measure_averages(seeds)),
    }


def measure_grids(seeds: int) -> Iterator[dict[str, Any]]:
    """Every grid of every space, and Fibonacci lattices in place of the antipodal ones."""
    for space, sizes in GRIDS.items():
        for size in sizes:
            options = {"space": space, "num_orientations": size}
            rotations = len(get_space(space).grid_symmetry(size))
            yield {"grid": space, **options, "exact_under": rotations, **measure(options, seeds)}
    for size in GRIDS["R3xS2"]:
        options = {"space": "R3xS2", "num_orientations": size}
        errors = measure(options, seeds, grid=fibonacci_grid(size))
        yield {"grid": "R3xS2, Fibonacci", **options, "exact_under": 1, **errors}


def measure_averages(seeds: int) -> Iterator[dict[str, Any]]:
    """Averages over rotated copies of a grid."""
    for space, size in AVERAGED.items():
        options = {"space": space, "num_orientations": size}
        for n in COPIES:
            errors = measure(options, seeds, lambda m, n=n: m.average_over_grids(n), num_rotations=FEW_ROTATIONS)
            yield {**options, "copies": n, **errors}


def on_grid(model: Ponita, num_orientations: int) -> Ponita:
    """The same network on another grid."""
    model.set_grid(sphere_grid(num_orientations))
    return model


def train(name: str, arguments: argparse.Namespace) -> Potential:
    """The best checkpoint of a short training, in a process of its own."""
    orientations, changes = TRAININGS[name]
    folder = Path(arguments.folder) / name.replace(", ", "-").replace(" ", "-")
    if not (folder / "report.txt").is_file():
        command = [sys.executable, "-c", "from ponita.tasks.cli import main; main()", "fit"]
        command += ["--config", "potential/quick", "--run_dir", str(folder), "--data.init_args.root", arguments.data]
        command += ["--trainer.max_epochs", str(arguments.epochs), "--trainer.enable_progress_bar", "false", *changes]
        command += ["--model.init_args.model.init_args.num_orientations", str(orientations)]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return load(folder / "checkpoints" / "best.ckpt").eval()


def measure_trained(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Errors of trained potentials: on their own grid, averaged over copies of it, and on larger grids."""
    frames = HeldOutFrames(arguments.data)
    rows = []
    for name, (size, _) in TRAININGS.items():
        potential, start = train(name, arguments), {"training": name, "trained_on": size}
        space, own = potential.network.space, potential.network.grid
        for copies in COPIES if name in FULLY_MEASURED else COPIES[:3]:
            turns = potential.network.average_over_grids(copies).rotations
            errors = frames.errors(potential, [space.rotate_grid(own, turn) for turn in turns])
            rows.append({**start, "num_orientations": size, "copies": copies, **errors})
            potential.network.set_grid(own)
        for larger in LARGER[1:] if name in FULLY_MEASURED else ():
            errors = frames.errors(potential, [sphere_grid(larger)])
            rows.append({**start, "num_orientations": larger, "copies": 1, **errors})
    return rows


class HeldOutFrames:
    """Ethanol frames of the official test split 1, as given and each turned at random.

    Args:
        root: folder of rMD17.
    """

    def __init__(self, root: str) -> None:
        frames = load_rmd17(root, "ethanol", download=False)
        _, test = load_split(root, "ethanol", 1, len(frames.energies))
        values = (frames.positions, frames.energies, frames.forces)
        self.pos, self.energy, self.forces = (torch.from_numpy(part[test[:NUM_FRAMES]]) for part in values)
        self.numbers = torch.from_numpy(frames.numbers)
        self.turns = random_rotations(NUM_FRAMES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def errors(self, potential: Potential, grids: Sequence[Tensor]) -> dict[str, float]:
        """Mean absolute errors of energies and forces, and mean absolute changes when the frames turn; meV and meV/Å.

        Args:
            potential: trained.
            grids: to average over.
        """
        energy, forces = self.predict(potential, grids, self.pos)
        turned_energy, turned_forces = self.predict(potential, grids, self.pos @ self.turns.mT)
        differences = {
            "energy_mae": energy - self.energy,
            "forces_mae": forces - self.forces,
            "energy_error": turned_energy - energy,
            "forces_error": turned_forces @ self.turns - forces,
        }
        return {name: MILLI * float(difference.abs().mean()) for name, difference in differences.items()}

    def predict(self, potential: Potential, grids: Sequence[Tensor], pos: Tensor) -> tuple[Tensor, Tensor]:
        """Means over grids: [G] eV, [G, n, 3] eV/Å."""
        parts = []
        numbers = self.numbers.repeat(len(pos))
        batch = torch.arange(len(pos)).repeat_interleave(len(self.numbers))
        for grid in grids:
            potential.network.set_grid(grid)
            parts.append(potential.energy_forces(pos.flatten(0, 1).float(), numbers, batch=batch))
        energy, forces = (torch.stack(part).double().mean(0) for part in zip(*parts, strict=True))
        return energy, forces.view_as(pos)


def report(record: Mapping[str, Any], docs: Path = DOCS) -> None:
    """Write the tables between the marks of the page, and the picture.

    Args:
        record: what was measured.
        docs: folder of equivariance.md.
    """
    page = docs / "equivariance.md"
    text = page.read_text(encoding="utf-8")
    for name, table in tables(record):
        text = between_marks(text, name, table)
    page.write_text(text, encoding="utf-8")
    draw(record, docs / "equivariance.png")


def between_marks(text: str, name: str, table: str) -> str:
    """A page with the part between `<!-- NAME -->` and `<!-- end NAME -->` replaced.

    Raises:
        ValueError: if a mark is missing.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"docs/equivariance.md needs the marks {begin} and {end}, once each.")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"


def tables(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The tables of the page by their marks."""
    parts, trained = record["untrained"], record.get("trained", {}).get("rows", [])
    yield "exact", markdown(exact_rows(parts["exact"]))
    yield "grids", markdown(grid_rows(parts["grids"]))
    yield "averaged", markdown(averaged_rows(parts["averaged"]))
    head = ("orientations", "scalars", "vectors")
    yield "larger", markdown([head, *((str(row["num_orientations"]), *percents(row)) for row in parts["larger"])])
    yield "trained", markdown(trained_rows(trained))
    yield "lowered", markdown(lowered_rows(trained))


def exact_rows(measured: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Cells of the table of networks without a grid: the largest errors."""
    yield ("network", "scalars", "vectors")
    for row in measured:
        yield (row["name"], *(f"{max(row[key]):.0e}" if max(row[key]) else "none" for key in ("scalars", "vectors")))


def grid_rows(measured: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Cells of the table of grids; Fibonacci lattices stand beside the grids of their size."""
    lattices = {row["num_orientations"]: row for row in measured if row["grid"] != row["space"]}
    yield ("space", "orientations", "exact under", "scalars", "vectors", "Fibonacci: scalars", "vectors")
    for row in (row for row in measured if row["grid"] == row["space"]):
        exact = f"{row['exact_under']} rotations" if row["exact_under"] > 1 else "none"
        lattice = percents(lattices[row["num_orientations"]]) if row["space"] == "R3xS2" else ("", "")
        yield (row["space"], str(row["num_orientations"]), exact, *percents(row), *lattice)


def averaged_rows(measured: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Cells of the table of averages, a row for each number of copies."""
    spaces = list(dict.fromkeys((row["space"], row["num_orientations"]) for row in measured))
    yield ("copies", *(f"{space}, {size}: {kind}" for space, size in spaces for kind in ("scalars", "vectors")))
    for copies in dict.fromkeys(row["copies"] for row in measured):
        rows = [row for row in measured if row["copies"] == copies]
        yield (str(copies), *(cell for row in rows for cell in percents(row)))


def trained_rows(measured: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Cells of the table of trainings, each used on the grid of its training."""
    yield ("trained with", "force error", "forces change by", "energy error", "energies change by")
    for row in (row for row in measured if row["copies"] == 1 and row["trained_on"] == row["num_orientations"]):
        keys = ("forces_mae", "forces_error", "energy_mae", "energy_error")
        yield (row["training"], *(f"{row[key]:.1f}" for key in keys))


def lowered_rows(measured: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Cells of the table of trained potentials on other grids, a column for each training."""
    columns = [name for name in FULLY_MEASURED if measured]
    yield ("used on", *(f"{name}: {kind}" for name in columns for kind in ("force error", "forces change by")))
    of = {(row["training"], row["copies"], row["num_orientations"]): row for row in measured}
    for copies, size in dict.fromkeys(key[1:] for key in of if key[0] in columns):
        used = f"{copies} grids of {size}" if copies > 1 else f"{size} orientations"
        rows = (of[name, copies, size] for name in columns)
        yield (used, *(f"{row[key]:.1f}" for row in rows for key in ("forces_mae", "forces_error")))


def percents(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Mean and standard deviation over the networks, in per cent."""
    return tuple(_percent(torch.tensor(row[key], dtype=torch.float64)) for key in ("scalars", "vectors"))


def _percent(errors: Tensor) -> str:
    mean, spread = (100 * float(value) for value in (errors.mean(), errors.std(correction=0)))
    if mean < 1e-11:
        return "rounding"
    if mean < 0.01:
        return f"{mean:.0e} %"
    digits = max(0, 1 - math.floor(math.log10(mean)))
    return f"{mean:.{digits}f} ± {spread:.{digits}f} %"


def markdown(rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    """A table, the first row its head."""
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + "-|" * (head.count("|") - 1), *body])


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Errors of untrained networks against the number of orientations and of copies, and of trained potentials.

    Args:
        record: what was measured.
        path: PNG to write.
    """
    parts, trained = record["untrained"], record.get("trained", {}).get("rows", [])
    with figure(path, columns=3 if trained else 2, width=4.8, height=4.4) as axes:
        _draw_grids(axes[0], parts["grids"])
        _draw_averages(axes[1], parts["averaged"], parts["larger"])
        if trained:
            _draw_trained(axes[2], trained)
        for axis, ticks in zip(axes, ((4, 6, 8, 12, 20, 32, 64), COPIES, COPIES), strict=False):
            axis.set(xscale="log", yscale="log")
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.set_xticks([], minor=True)
            axis.grid(alpha=0.3, which="major")
        # In the plane the error falls to rounding; in space little would be seen of the rest. And room for the legend.
        axes[1].set_ylim(bottom=1e-4)
        axes[-1].set_ylim(top=500 if trained else None)
        for axis in axes:
            axis.legend(frameon=False, fontsize=8)


def _draw_grids(axis: Axes, measured: Sequence[Mapping[str, Any]]) -> None:
    for name in dict.fromkeys(row["grid"] for row in measured):
        rows = [row for row in measured if row["grid"] == name]
        style = "-" if name in COLORS else ":"
        _curve(axis, [row["num_orientations"] for row in rows], rows, name, rows[0]["space"], style)
    axis.set(xlabel="orientations O", ylabel="error of vectors, relative", title="untrained, by grid")


def _draw_averages(axis: Axes, averaged: Sequence[Mapping[str, Any]], larger: Sequence[Mapping[str, Any]]) -> None:
    for space, size in AVERAGED.items():
        rows = [row for row in averaged if row["space"] == space]
        _curve(axis, [row["copies"] for row in rows], rows, f"{space}, O = {size}", space, "-")
    sizes = [row["num_orientations"] / LARGER[0] for row in larger]
    _curve(axis, sizes, larger, "R3xS2, one grid, O = 12 n", "R3xS2", "--")
    axis.set(xlabel="grids n", ylabel="error of vectors, relative", title="untrained, averaged over n grids")


def _curve(
    axis: Axes, x: Sequence[float], rows: Sequence[Mapping[str, Any]], label: str, space: str, style: str
) -> None:
    """Means and standard deviations over networks."""
    errors = torch.tensor([row["vectors"] for row in rows])
    options = {"label": label, "color": COLORS[space], "linestyle": style, "markersize": 4, "capsize": 2}
    axis.errorbar(x, errors.mean(1), errors.std(1, correction=0), marker="s" if style == "--" else "o", **options)


def _draw_trained(axis: Axes, measured: Sequence[Mapping[str, Any]]) -> None:
    """Change of forces under rotations of the potentials that were measured on all grids, and their error."""
    for name, color in zip(FULLY_MEASURED, ("C1", "C3"), strict=True):
        rows = [row for row in measured if row["training"] == name]
        copies = [row for row in rows if row["num_orientations"] == LARGER[0]]
        larger = [copies[0], *(row for row in rows if row["num_orientations"] != LARGER[0])]
        x, sizes = [row["copies"] for row in copies], [row["num_orientations"] / LARGER[0] for row in larger]
        axis.plot(x, [row["forces_error"] for row in copies], "o-", color=color, markersize=4, label=name)
        label = f"{name}, one grid, O = 12 n"
        axis.plot(sizes, [row["forces_error"] for row in larger], "s--", color=color, markersize=4, label=label)
        if name == FULLY_MEASURED[0]:
            axis.plot(x, [row["forces_mae"] for row in copies], color="0.5", label="error of the forces")
    axis.set(xlabel="grids n", ylabel="mean change of forces when turned (meV/Å)", title="ethanol, trained on O = 12")


def main() -> None:
    """Measure, store, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["untrained"], choices=["untrained", "trained"])
    parser.add_argument("--seeds", type=int, default=5, help="untrained networks")
    parser.add_argument("--data", default="data/rmd17", help="folder of rMD17, for the trained part")
    parser.add_argument("--epochs", type=int, default=10, help="of each training")
    parser.add_argument("--folder", default="runs/equivariance", help="of the trainings")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    record = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if not arguments.report:
        torch.set_num_threads(1)
        record |= {"command": "python benchmarks/equivariance.py --parts untrained trained", **environment(1)}
        if "untrained" in arguments.parts:
            record["untrained"] = {"seeds": arguments.seeds, **measure_untrained(arguments.seeds)}
        if "trained" in arguments.parts:
            record["trained"] = {"epochs": arguments.epochs, "rows": measure_trained(arguments)}
        write(record, RESULTS)
    report(record)


if __name__ == "__main__":
    main()
