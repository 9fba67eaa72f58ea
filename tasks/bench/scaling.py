"""How the cost grows: with the number of atoms at fixed neighbours, with neighbours, and with orientations."""

from __future__ import annotations

import math

import torch

from ponita.ops import backends
from ponita.tasks.bench import geometry
from ponita.tasks.bench.cases import Case, periodic

#: Boxes of unit cells, each at least four wide, so that a cut-off for twenty neighbours fits.
BOXES = {100: (4, 5, 5), 300: (5, 6, 10), 1000: (10, 10, 10), 3000: (10, 15, 20), 10000: (20, 20, 25)}
ATOMS = tuple(BOXES)
NEIGHBOURS = (10, 20, 40, 80)
ORIENTATIONS = (6, 12, 20, 32, 42)
SPACING = 2.0  # Å
#: Small enough for ten thousand atoms in the memory of a desktop computer.
NETWORK = {"in_channels": 3, "hidden_channels": 32, "basis_channels": 64, "num_layers": 3, "kernel": "spline"}


def cases(largest: int = ATOMS[-1], device: str = "cpu") -> dict[str, Case]:
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


def _case(num_atoms: int, neighbours: int, num_orientations: int) -> Case:
    generator = torch.Generator().manual_seed(num_atoms)
    pos = geometry.jittered_lattice(BOXES[num_atoms], SPACING, generator)
    box = SPACING * torch.tensor(BOXES[num_atoms], dtype=torch.float64)
    numbers = torch.tensor(geometry.ELEMENTS)[torch.randint(3, (num_atoms,), generator=generator)]
    network = {**NETWORK, "num_orientations": num_orientations, "cutoff": _cutoff(neighbours)}
    return periodic("scaling", "random points", (pos, numbers, box), network, loops=False)


def _cutoff(neighbours: int) -> float:
    """Radius (Å) of a ball that holds so many lattice points besides its centre."""
    return round(SPACING * (3 * (neighbours + 1) / (4 * math.pi)) ** (1 / 3), 3)
