"""Molecular dynamics through ASE: what a step costs, beside MACE and the classical potentials of ASE.

    python benchmarks/dynamics.py --peers peers/bin/python [--threads 1 2] [--seconds 6] [--calculators NAME ...]

Two cells, NVE by velocity Verlet from 300 K: 192 atoms of water (steps of 0.5 fs) and 1000 atoms of copper (2 fs).
Every calculator runs in a process of its own, MACE with the interpreter of --peers (docs/benchmarks.md says how to make
that environment), the others with this one. Weights are random in all networks: a step costs the same with trained
ones, but its energies mean nothing, so networks are scaled down until atoms fly almost freely. Writes --out
(benchmarks/results/dynamics.json); `python benchmarks/report.py` makes the table.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.constraints import FixBondLengths
from ase.md.verlet import VelocityVerlet

from ponita.ops import keep_freed_memory
from ponita.tasks.bench.peers import mace_network
from ponita.tasks.bench.record import environment, write
from ponita.tasks.pictures import format_table

CUTOFF = 5.0  # Å, of all networks
TEMPERATURE = 300.0  # K
#: eV of one unit of a random network: forces of about a meV/Å.
SCALE = 1e-3
NETWORK = {"hidden_channels": 64, "num_orientations": 12, "num_layers": 3, "cutoff": CUTOFF}
NODES = (128, 64)
OH, HOH = 0.9572, math.radians(104.52)  # Å; of TIP3P
WATER_MASS = 18.015 / 0.602214  # g/mol over Avogadro's number: of one molecule, in g/cm³ Å³
MIN_DISTANCE = 1.5  # Å, between atoms of different molecules
DIRECTIONS = 64  # that a molecule is tried in
COPPER_CELL = 3.615  # Å
MACE_IRREPS = {"MACE 128x0e": "128x0e", "MACE 128x0e + 128x1o": "128x0e + 128x1o"}


def water(per_side: int = 4, seed: int = 0) -> Atoms:
    """Rigid molecules at 1 g/cm³ on a rattled cubic lattice, in random directions that keep them apart.

    Args:
        per_side: molecules along an edge of the cubic box.
        seed: of the displacements and the directions.

    Raises:
        ValueError: if two molecules overlap all the same.
    """
    random = np.random.default_rng(seed)
    spacing = WATER_MASS ** (1 / 3)
    nodes = np.stack(np.meshgrid(*[np.arange(per_side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    oxygen = spacing * (nodes + random.uniform(-0.1, 0.1, nodes.shape))
    box = per_side * spacing
    molecules = oxygen[:, None] + _directions(random, len(oxygen))
    for _ in range(3):
        for k in range(len(oxygen)):
            candidates = oxygen[k] + _directions(random, DIRECTIONS)
            rooms = [_room(c, np.delete(molecules, k, axis=0), box) for c in (*candidates, molecules[k])]
            best = int(np.argmax(rooms))
            molecules[k] = candidates[best] if best < DIRECTIONS else molecules[k]
    least = min(_room(m, np.delete(molecules, k, axis=0), box) for k, m in enumerate(molecules))
    if least < MIN_DISTANCE:
        raise ValueError(
            f"atoms of two molecules are {least:.2f} Å apart, less than {MIN_DISTANCE} Å; try another seed."
        )
    return Atoms("OHH" * len(oxygen), molecules.reshape(-1, 3), cell=[box] * 3, pbc=True)


def metal(cells: tuple[int, int, int] = (5, 5, 10), seed: int = 0) -> Atoms:
    """Face-centred cubic copper, atoms off their places by 0.05 Å along every axis.

    Args:
        cells: cubes of four atoms along every axis.
        seed: of the displacements.
    """
    atoms = bulk("Cu", "fcc", a=COPPER_CELL, cubic=True).repeat(cells)
    atoms.positions += 0.05 * np.random.default_rng(seed).standard_normal(atoms.positions.shape)
    return atoms


def network(atoms: Atoms, tabulate: tuple[int, int] | None = None) -> Calculator:
    """A random potential of this library.

    Args:
        atoms: whose elements it knows.
        tabulate: nodes of a table in the place of its kernels.
    """
    from ponita import Ponita, Potential
    from ponita.interfaces.ase import PonitaCalculator

    torch.manual_seed(0)
    elements = sorted(set(atoms.numbers.tolist()))
    potential = Potential(Ponita(len(elements), **NETWORK), elements, self_loops=False)
    potential.set_normalization(0.0, SCALE)
    return PonitaCalculator(potential, dtype="float32", tabulate=tabulate)


def mace(atoms: Atoms, irreps: str) -> Calculator:
    """A random MACE; see `mace_network`.

    Args:
        atoms: whose elements it knows, and whose mean number of neighbours it is told.
        irreps: of its features.
    """
    elements = sorted(set(atoms.numbers.tolist()))
    neighbors = len(atoms) / atoms.get_volume() * 4 / 3 * math.pi * CUTOFF**3
    torch.manual_seed(0)
    options = {"atomic_inter_scale": SCALE, "atomic_inter_shift": 0.0}
    model = mace_network("ScaleShiftMACE", elements, CUTOFF, neighbors, irreps, **options)
    with warnings.catch_warnings(), torch.serialization.safe_globals([slice]):
        warnings.simplefilter("ignore")  # of the TorchScript it is made of
        from mace.calculators import MACECalculator

        return MACECalculator(models=model, device="cpu", default_dtype="float32")


def emt(atoms: Atoms) -> Calculator:
    """Effective medium theory in plain Python and NumPy, which is meant for teaching; metals only."""
    from ase.calculators.emt import EMT

    return EMT()


def tip3p(atoms: Atoms) -> Calculator:
    """Rigid water in plain Python and NumPy, with the constraints that keep its molecules rigid."""
    from ase.calculators.tip3p import TIP3P

    first = np.arange(0, len(atoms), 3)[:, None]
    atoms.constraints = FixBondLengths(np.concatenate([first + pair for pair in ([0, 1], [0, 2], [1, 2])]))
    return TIP3P(rc=CUTOFF, width=1.0)


CELLS: dict[str, tuple[Callable[[], Atoms], float, str]] = {
    "water": (water, 0.5, "64 water molecules at 1 g/cm³"),
    "metal": (metal, 2.0, "5 x 5 x 10 cubes of fcc copper"),
}
CALCULATORS: dict[str, Callable[[Atoms], Calculator]] = {
    "mlp": network,
    "tabulated": lambda atoms: network(atoms, tabulate=NODES),
    **{name: (lambda atoms, irreps=irreps: mace(atoms, irreps)) for name, irreps in MACE_IRREPS.items()},
    "ASE EMT": emt,
    "ASE TIP3P": tip3p,
}
ONLY = {"ASE EMT": "metal", "ASE TIP3P": "water"}


def measure(atoms: Atoms, calculator: Calculator, step: float, blocks: int, seconds: float) -> dict[str, Any]:
    """Times of steps of velocity Verlet, new neighbour lists among them.

    Args:
        atoms: where they start; they get velocities, and are moved.
        calculator: of the forces.
        step: fs.
        blocks: of steps that are timed, all of the same number of steps; three at least are, others only while there
            is time.
        seconds: that all blocks should take together; a block has one step at least.

    Returns:
        "seconds per step" of each block, "steps" of a block, and, where the calculator tells, how many "lists" of
        neighbours were made meanwhile.
    """
    atoms.calc = calculator
    spread = np.sqrt(units.kB * TEMPERATURE * atoms.get_masses())[:, None]
    atoms.set_momenta(spread * np.random.default_rng(0).standard_normal((len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, step * units.fs)
    dynamics.run(1)
    start = time.perf_counter()
    dynamics.run(1)
    steps = max(1, round(seconds / blocks / (time.perf_counter() - start)))
    lists, times = getattr(calculator, "neighbors", None), []
    before = 0 if lists is None else lists.builds
    while len(times) < min(3, blocks) or (len(times) < blocks and steps * sum(times) < 2 * seconds):
        start = time.perf_counter()
        dynamics.run(steps)
        times.append((time.perf_counter() - start) / steps)
    found = {} if lists is None else {"lists": lists.builds - before}
    return {"seconds per step": times, "steps": steps, **found}


def run_here(name: str, cell: str, threads: int, blocks: int, seconds: float) -> dict[str, Any]:
    """`measure` by names, with what the interpreter has installed."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    make, step, _ = CELLS[cell]
    atoms = make()
    try:
        found = measure(atoms, CALCULATORS[name](atoms), step, blocks, seconds)
    except ImportError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {**found, "versions": versions()}


def versions() -> dict[str, str]:
    """Of everything that the times depend on."""
    found = environment(1)["versions"]
    for name in ("ase", "vesin", "matscipy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def run_apart(name: str, cell: str, threads: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """`run_here` in a process of its own, MACE with the interpreter of the peers."""
    python = arguments.peers if name in MACE_IRREPS else sys.executable
    job = json.dumps([name, cell, threads, arguments.blocks, arguments.seconds])
    command = [str(python), str(Path(__file__).resolve()), "--job", job]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(words: Sequence[str] | None = None) -> None:
    """Measure everything, print a table, store it.

    Args:
        words: of the command line; those of the process where None.
    """
    arguments = _parser().parse_args(words)
    if arguments.job:
        print(json.dumps(run_here(*json.loads(arguments.job))))
        return
    record = environment(max(arguments.threads))
    record |= {"command": _command(arguments), "versions": versions(), "cells": _about(arguments.cells)}
    runs, skipped = [], {}
    for cell in arguments.cells:
        for name in (n for n in arguments.calculators if ONLY.get(n, cell) == cell):
            if name in MACE_IRREPS and arguments.peers is None:
                skipped[name] = "no --peers"
                continue
            # The potentials of ASE have one thread whatever they are given.
            for threads in arguments.threads[: 1 if name in ONLY else None]:
                found = run_apart(name, cell, threads, arguments)
                if "error" in found:
                    skipped[name] = found["error"]
                    break
                record["versions"] = {**found.pop("versions"), **record["versions"]}
                runs.append({"cell": cell, "calculator": name, "threads": threads, **found})
                write({**record, "dynamics": runs, "skipped": skipped}, arguments.out)
    rows = [("cell, calculator, threads", "ms/step")]
    for run in runs:
        median = 1e3 * float(np.median(run["seconds per step"]))
        rows.append((f"{run['cell']}, {run['calculator']}, {run['threads']}", f"{median:.1f}"))
    print(format_table(rows))
    for name, reason in skipped.items():
        print(f"not measured, {name}: {reason}")


def _about(names: Sequence[str]) -> dict[str, Any]:
    about = {}
    for name in names:
        make, step, text = CELLS[name]
        atoms = make()
        about[name] = {"about": text, "atoms": len(atoms), "step": step, "box": atoms.cell.lengths().round(3).tolist()}
    return about


def _directions(random: np.random.Generator, number: int) -> np.ndarray:
    """[number, 3, 3] atoms of a molecule relative to its oxygen, in random directions."""
    first, other = random.standard_normal((2, number, 3))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    other -= (other * first).sum(1, keepdims=True) * first
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    second = math.cos(HOH) * first + math.sin(HOH) * other
    return OH * np.stack([np.zeros_like(first), first, second], axis=1)


def _room(molecule: np.ndarray, others: np.ndarray, box: float) -> float:
    """Least distance between the atoms of a molecule and those of the others, images included."""
    r = molecule[:, None] - others.reshape(1, -1, 3)
    r -= box * np.round(r / box)
    return float(np.sqrt((r**2).sum(-1).min()))


def _command(arguments: argparse.Namespace) -> str:
    """The command, without paths, which are others on every machine."""
    words = f"python benchmarks/dynamics.py --threads {' '.join(map(str, arguments.threads))}"
    return words + (" --peers PYTHON" if arguments.peers else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="interpreter of an environment with mace-torch and this package")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS))
    names = list(CALCULATORS)
    parser.add_argument("--calculators", nargs="+", default=names, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--seconds", type=float, default=6.0, help="that the timed steps of one run should take")
    parser.add_argument("--blocks", type=int, default=5, help="of steps that are timed apart")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "dynamics.json")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
