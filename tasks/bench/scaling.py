"""How the cost grows with the number of atoms at fixed neighbours, with neighbours, with orientations; large boxes."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch

from ponita import Ponita
from ponita.ops import backends
from ponita.tasks.bench import geometry
from ponita.tasks.bench.cases import Case, periodic
from ponita.tasks.bench.measure import EAGER, INFERENCE, interleaved, loss
from ponita.tasks.bench.memory import saved_bytes
from ponita.tasks.bench.variants import paired

#: Boxes of unit cells, each at least four wide, so that a cut-off for twenty neighbours fits.
BOXES = {
    100: (4, 5, 5),
    300: (5, 6, 10),
    1000: (10, 10, 10),
    3000: (10, 15, 20),
    10000: (20, 20, 25),
    30000: (25, 30, 40),
    100000: (40, 50, 50),
}
ATOMS = tuple(BOXES)
LARGEST = 10000  # atoms that a computer without a GPU is asked for
NEIGHBOURS = (10, 20, 40, 80)
ORIENTATIONS = (6, 12, 20, 32, 42)
SPACING = 2.0  # Å
#: Small enough for ten thousand atoms in the memory of a desktop computer.
SMALL = {"in_channels": 3, "hidden_channels": 32, "basis_channels": 64, "num_layers": 3, "kernel": "spline"}
#: A full-sized network for large boxes (S5), where each atom has sixty neighbours.
LARGE = {"in_channels": 3, "num_orientations": 16, "basis_channels": 128}
LARGE_NEIGHBOURS, LARGE_ATOMS = 60, (1000, 10000, 100000)


def cases(largest: int = LARGEST, device: str = "cpu") -> dict[str, Case]:
    """One case for each point of the three sweeps, by labels such as "atoms 100".

    Args:
        largest: number of atoms at which to stop.
        device: to measure on.
    """
    points = {f"atoms {n}": _case(n, 20, 12) for n in ATOMS if n <= largest}
    middle = min(1000, largest)
    width = SPACING * min(BOXES[middle])
    points |= {f"neighbours {k}": _case(middle, k, 12) for k in NEIGHBOURS if 2 * _cutoff(k) <= width}
    points |= {f"orientations {o}": _case(min(300, largest), 20, o) for o in ORIENTATIONS}
    backend = backends.resolve("auto", device)
    for case in points.values():
        case.network["backend"] = backend
    return {label: case.to(device) for label, case in points.items()}


def departure(seconds: dict[int, float]) -> float:
    """How far the cost for an atom is from being constant: the largest relative distance from its mean.

    Args:
        seconds: time by number of atoms.
    """
    each = [time / atoms for atoms, time in seconds.items()]
    mean = sum(each) / len(each)
    return max(abs(value / mean - 1) for value in each)


def departure_from_line(seconds: dict[int, float]) -> float:
    """The same against a straight line with a constant part, fitted to the relative residuals.

    Args:
        seconds: time by number of atoms, at least three.
    """
    atoms, times = (torch.tensor(list(values), dtype=torch.float64) for values in (seconds, seconds.values()))
    columns = torch.stack([1 / times, atoms / times], dim=1)
    line = torch.linalg.lstsq(columns, torch.ones_like(times)[:, None]).solution[:, 0]
    return float((times / (line[0] + line[1] * atoms) - 1).abs().max())


def large(largest: int = LARGEST) -> dict[str, Case]:
    """Boxes of a thousand atoms and more for the full-sized network, by labels such as "S5, 10000 atoms".

    Args:
        largest: number of atoms at which to stop.
    """
    atoms = [n for n in LARGE_ATOMS if n <= largest] or [largest]
    return {f"S5, {n} atoms": _box(n, LARGE_NEIGHBOURS, LARGE) for n in atoms}


def measure(repeats: int, largest: int, device: str = "cpu") -> dict[str, Any]:
    """Time a small network with frozen spline kernels, the fastest form, on systems that grow.

    The memory kept is that of a training step of the same network.

    Args:
        repeats: of every measure.
        largest: number of atoms at which to stop.
        device: to measure on.

    Returns:
        Part of a record; see `ponita.tasks.bench.suite.measure`.
    """
    found = cases(largest, device)
    models = {label: Ponita(**case.network).to(device) for label, case in found.items()}
    inputs = {label: paired(case.inputs) for label, case in found.items()}
    kept = {label: saved_bytes(partial(loss, model, inputs[label])) for label, model in models.items()}
    part: dict[str, Any] = {
        "about": f"frozen spline {next(iter(models.values())).backend} kernels, periodic boxes of random points",
        "sizes": {
            n: {"atoms": len(c.inputs["pos"]), "edges": c.inputs["edge_index"].shape[1]} for n, c in found.items()
        },
        "notes": {},
        "skipped": {},
        "failed": {},
        "seconds": {label: {} for label in found},
        "bytes": {label: {"saved": size} for label, size in kept.items()},
    }
    for name in INFERENCE:
        call = EAGER.named()[name]
        works = {label: partial(call, model.requires_grad_(False), inputs[label]) for label, model in models.items()}
        for label, timing in interleaved(works, repeats).items():
            part["seconds"][label][name] = timing.seconds
    return part


def _case(num_atoms: int, neighbours: int, num_orientations: int) -> Case:
    return _box(num_atoms, neighbours, {**SMALL, "num_orientations": num_orientations})


def _box(num_atoms: int, neighbours: int, network: dict[str, Any]) -> Case:
    generator = torch.Generator().manual_seed(num_atoms)
    pos = geometry.jittered_lattice(BOXES[num_atoms], SPACING, generator)
    box = SPACING * torch.tensor(BOXES[num_atoms], dtype=torch.float64)
    numbers = torch.tensor(geometry.ELEMENTS)[torch.randint(3, (num_atoms,), generator=generator)]
    network = {**network, "cutoff": _cutoff(neighbours)}
    about = f"random points, about {neighbours} neighbours each"
    return periodic(f"{num_atoms} atoms", about, [(pos, numbers, box)], network, loops=False)


def _cutoff(neighbours: int) -> float:
    """Radius (Å) of a ball that holds so many lattice points besides its centre."""
    return round(SPACING * (3 * (neighbours + 1) / (4 * math.pi)) ** (1 / 3), 3)
