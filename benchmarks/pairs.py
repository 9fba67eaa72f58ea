"""What storing every pair once saves, and what torch-scatter would: a batch of five aspirins at the published size.

    python benchmarks/pairs.py [--threads 1] [--repeats 5]

Prints ratios measured side by side in one process and writes them to benchmarks/results/pairs.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

import ponita
from ponita import EdgeSet, Ponita
from ponita.geometry import fully_connected
from ponita.ops import backends, segment_sum

NUM_MOLECULES, NUM_ATOMS = 5, 21


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Least time of some repetitions, after one that is not counted."""
    function()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    model = Ponita(in_channels=4, num_orientations=20)
    batch = torch.arange(NUM_MOLECULES).repeat_interleave(NUM_ATOMS)
    pos, x = 2.0 * torch.randn(batch.numel(), 3), torch.randn(batch.numel(), 4)
    paired = EdgeSet.from_edge_index(fully_connected(batch, loops=True), batch.numel())
    results = {
        name: {kind: seconds(lambda f=step, e=edges: f(model, pos, x, batch, e), arguments.repeats) for kind, edges in
               {"pairs": paired, "single": paired.without_pairs()}.items()}
        for name, step in {"forward": forward, "energy and forces": energy_forces, "training step": training_step}.items()
    }  # fmt: skip
    for name, times in results.items():
        ratio = times["single"] / times["pairs"]
        print(
            f"{name:18s} pairs {times['pairs'] * 1e3:7.1f} ms   single {times['single'] * 1e3:7.1f} ms   {ratio:.2f}x"
        )
    results["segment sum"] = segment_sums(paired, arguments.repeats)
    store(results, arguments)


def forward(model, pos, x, batch, edges):
    """Energies without gradients."""
    with torch.no_grad():
        return model(pos, edges, x, batch=batch)


def energy_forces(model, pos, x, batch, edges, create_graph=False):
    """Energies, and forces."""
    moving = pos.clone().requires_grad_()
    energy = model(moving, edges, x, batch=batch).scalars.sum()
    return energy, torch.autograd.grad(energy, moving, create_graph=create_graph)[0]


def training_step(model, pos, x, batch, edges):
    """Gradient of an energy and force loss."""
    energy, forces = energy_forces(model, pos, x, batch, edges, create_graph=True)
    (energy.square() + forces.square().sum()).backward()
    model.zero_grad()


def segment_sums(edges: EdgeSet, repeats: int) -> dict[str, float]:
    """Time of one sum over the pairs, by backend."""
    values = torch.randn(edges.num_pairs, 20, 128)
    receiver = edges.pair_index[1].contiguous()
    times = {
        name: seconds(lambda b=name: segment_sum(values, receiver, edges.num_nodes, b), 10 * repeats)
        for name in backends.available()
    }
    print("one segment sum   ", "   ".join(f"{name} {t * 1e3:.2f} ms" for name, t in times.items()))
    return times


def store(results: dict, arguments: argparse.Namespace) -> None:
    """Write what was measured, where and with what."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    record = {
        "seconds": results,
        "threads": arguments.threads,
        "cpu": cpu,
        "versions": {"ponita": ponita.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    path = Path(__file__).parent / "results" / "pairs.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
