"""Searches for potentials of ethanol (rMD17) at a measured latency: every method, random search and networks sized by hand.

    python benchmarks/search_study.py --root DIR [--methods ...] [--scale 1.0]

Every method trains its supernet for about --scale x two processor minutes (the seconds that it took are in the table), evaluates 60
candidates of the space with the shared weights, and is asked for the best one below each of three latencies: those of the
networks sized by hand, energies and forces of 20 structures. What it chose is trained on for the same number of steps as all others, alone,
from the shared weights. Random search trains as many random networks from new weights as fit the same time, the ones sized by hand are
trained once, both by the same recipe and with the time of a search added to their steps for the latter. One seed; nothing is
asserted. Each row is stored as soon as it is there and not repeated. Writes --out (benchmarks/results/search_study.json), prints a table.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ponita.models import Ponita, Potential
from ponita.nn import calibrate
from ponita.sharing.search import Architecture, Limit, extract_potential
from ponita.tasks.bench.record import environment, write
from ponita.tasks.pictures import format_table
from ponita.tasks.potential import EnergyForceTask, RMD17DataModule
from ponita.tasks.potential.normalization import normalize_from
from ponita.tasks.search.methods import (
    AutoDistil,
    Enas,
    GradientMatching,
    Method,
    PaDa,
    Sandwich,
    Search,
    Shift,
    Tangle,
    Uniform,
)
from ponita.tasks.search.problem import PotentialProblem
from ponita.training import LossWeights, warmup_cosine

SPACE = {
    "hidden_channels": [16, 32, 64],
    "num_layers": [1, 2, 3],
    "widening": [1, 2],
    "basis_channels": [16, 32],
    "degree": [2, 3],
    "cutoff": [3.5, 5.0],
    "num_orientations": [6, 12],
}
BY_HAND = {
    "small": {
        "hidden_channels": 16,
        "num_layers": 2,
        "widening": 2,
        "basis_channels": 16,
        "degree": 3,
        "cutoff": 5.0,
        "num_orientations": 6,
    },
    "medium": {
        "hidden_channels": 32,
        "num_layers": 2,
        "widening": 2,
        "basis_channels": 32,
        "degree": 3,
        "cutoff": 5.0,
        "num_orientations": 12,
    },
    "large": {
        "hidden_channels": 64,
        "num_layers": 3,
        "widening": 2,
        "basis_channels": 32,
        "degree": 3,
        "cutoff": 5.0,
        "num_orientations": 12,
    },
}
SEARCH = Search("evolution", 60)
TUNE_EPOCHS, LR, CLIP = 10, 3e-3, 1.0
SLACK = 1.05  # of a latency limit, since times of one network differ by that


def methods(scale: float) -> dict[str, Method]:
    """Epochs that take about two processor minutes each."""

    def epochs(number: int) -> int:
        return max(2, round(scale * number))

    return {
        "uniform": Uniform(epochs(40)),
        "sandwich": Sandwich(2, epochs(10)),
        "ENAS": Enas(controller_steps=10, epochs=epochs(30)),
        "TangleNAS": Tangle(epochs=epochs(12)),
        "PA&DA": PaDa(epochs=epochs(38)),
        "gradient matching": GradientMatching([epochs(10)], epochs=epochs(24)),
        "ShiftNAS": Shift(epochs=epochs(14)),
        "AutoDistil": AutoDistil(teacher_epochs=epochs(7), distill_epochs=epochs(2), epochs=epochs(2)),
    }


def tune(problem: PotentialProblem, task: EnergyForceTask, epochs: int, seed_epoch: int = 500) -> dict[str, float]:
    """Train one network alone; errors of validation and test, and processor seconds."""
    start = time.process_time()
    optimizer = torch.optim.Adam(task.parameters(), lr=LR)
    steps = -(-len(problem.data.sets["train"]) // problem.data.batch_size)
    schedule = warmup_cosine(optimizer, steps, epochs * steps)
    for epoch in range(epochs):
        for batch in problem.epoch(seed_epoch + epoch):
            optimizer.zero_grad()
            problem.losses(task, batch).mean.backward()
            torch.nn.utils.clip_grad_norm_(task.parameters(), CLIP)
            optimizer.step()
            schedule.step()
    seconds = time.process_time() - start
    return {"valid": problem.error(task), "test": problem.error(task, part="test"), "cpu_seconds": seconds}


def new_network(problem: PotentialProblem, architecture: Architecture, seed: int) -> EnergyForceTask:
    """One network with new weights, normalised and calibrated."""
    torch.manual_seed(seed)
    network = Ponita(**problem.network, **problem.space.decode(architecture))
    task = EnergyForceTask(network, problem.elements, problem.loss_weights, self_loops=False)
    normalize_from(task.potential, problem.data, problem.loss_weights, None)
    calibrate(task.model, task.model_inputs(problem.data.first_batch()))
    return task


def searched(problem: PotentialProblem, method: Method, limits: dict[str, float]) -> list[dict[str, Any]]:
    """A row for each limit."""
    start = time.process_time()
    trained = method.train(problem, progress=False)
    training = time.process_time() - start
    latency, rows = problem.latency(trained.extract), []
    for name, most in limits.items():
        start = time.process_time()
        found = method.search(problem, trained, SEARCH, Limit(latency, SLACK * most), progress=False)
        cost = training + time.process_time() - start
        chosen = found.best
        tuned = tune(problem, problem.task_of(trained.extract(chosen)), TUNE_EPOCHS)
        rows.append(row(problem, name, most, chosen, latency(chosen), tuned, cost, shared=found.errors[chosen]))
    return rows


def at_random(
    problem: PotentialProblem, seconds: float, latency: Callable, limits: dict[str, float]
) -> list[dict[str, Any]]:
    """Random networks, each trained alone; the best of those below a limit by validation."""
    generator, tried, start = torch.Generator().manual_seed(0), {}, time.process_time()
    while time.process_time() - start < seconds:
        architecture = problem.space.sample(generator)
        if architecture not in tried:
            tried[architecture] = tune(problem, new_network(problem, architecture, len(tried)), TUNE_EPOCHS)
    rows = []
    for name, most in limits.items():
        inside = [a for a in tried if latency(a) <= SLACK * most]
        if inside:
            best = min(inside, key=lambda a: tried[a]["valid"])
            rows.append(row(problem, name, most, best, latency(best), tried[best], seconds, tried=len(inside)))
    return rows


def by_hand(
    problem: PotentialProblem, latency: Callable, limits: dict[str, float], scale: float
) -> list[dict[str, Any]]:
    """Networks sized by hand, trained for the time of a search and of what follows it."""
    rows = []
    for name, values in BY_HAND.items():
        architecture = problem.space.encode(values)
        epochs = TUNE_EPOCHS + round(30 * scale)
        tuned = tune(problem, new_network(problem, architecture, 0), epochs)
        rows.append(row(problem, name, limits[name], architecture, latency(architecture), tuned, 0.0))
    return rows


def row(
    problem: PotentialProblem,
    limit: str,
    most: float,
    architecture: Architecture,
    ms: float,
    tuned: dict[str, float],
    cost: float,
    **more: Any,
) -> dict[str, Any]:
    """What is stored of a network."""
    return {
        "limit": limit,
        "limit_ms": most,
        **problem.space.decode(architecture),
        "ms": ms,
        **tuned,
        "search_seconds": cost,
        **more,
    }


def main() -> None:
    """Search what is missing, store, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of rMD17, with npz_data/ and splits/")
    parser.add_argument("--scale", type=float, default=1.0, help="of all budgets")
    parser.add_argument("--methods", nargs="+", default=[*methods(1.0), "random", "by hand"], metavar="METHOD")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "search_study.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = RMD17DataModule(arguments.root, num_valid=50, num_test=200, batch_size=10, download=False)
    problem = PotentialProblem(SPACE, {"kernel": "spline"}, [1, 6, 8], data, LossWeights(0.02, 1.0))
    problem.setup()
    base = problem.new_task()

    def extract(architecture: Architecture) -> Potential:
        return extract_potential(base.model, architecture)

    latency = problem.latency(extract)
    before = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    limits = before.get("limits") or {name: latency(problem.space.encode(values)) for name, values in BY_HAND.items()}
    found: dict[str, list[dict[str, Any]]] = before.get("search_study", {})
    for name in arguments.methods:
        if name in found:
            continue
        if name == "random":
            rows = at_random(problem, 120 * arguments.scale, latency, limits)
        elif name == "by hand":
            rows = by_hand(problem, latency, limits, arguments.scale)
        else:
            rows = searched(problem, methods(arguments.scale)[name], limits)
        found[name] = rows
        print(name, [(r["limit"], round(r["ms"], 1), round(r["test"], 1)) for r in rows], flush=True)
        record = {
            "command": "python benchmarks/search_study.py --root DIR",
            "limits": limits,
            "search_study": found,
            "scale": arguments.scale,
        }
        write({**record, **environment(1)}, arguments.out)
    lines = [("method", "limit", "ms", "test (meV/Å)", "search CPU s", "network")]
    for name, rows in found.items():
        for r in rows:
            network = " ".join(str(r[key]) for key in SPACE)
            lines.append(
                (
                    name,
                    f"{r['limit']} {r['limit_ms']:.1f}",
                    f"{r['ms']:.1f}",
                    f"{r['test']:.1f}",
                    f"{r['search_seconds']:.0f}",
                    network,
                )
            )
    print(format_table(lines))


if __name__ == "__main__":
    main()
