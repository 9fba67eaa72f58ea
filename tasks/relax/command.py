"""`ponita relax`: move atoms, and on request the cell, to a minimum of a trained potential."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.filters import FrechetCellFilter
from ase.io import write
from ase.optimize import BFGS, FIRE, LBFGS

from ponita.data import replacing
from ponita.tasks.md import inputs
from ponita.tasks.pictures import format_table

EPILOG = """example:
  ponita relax --ckpt_path runs/potential-quick/checkpoints/best.ckpt --structure ethanol.xyz --out relaxed

The folder holds relaxed.xyz, the path in path.xyz (both extended xyz) and log.csv. Without --fmax in reach within
--steps the command ends with status 1, and relaxed.xyz is the last structure."""
OPTIMIZERS = {"bfgs": BFGS, "fire": FIRE, "lbfgs": LBFGS}


def main(args: Sequence[str]) -> None:
    """Entry point of `ponita relax`; exits with status 1 if the forces are not below the limit.

    Args:
        args: the words after `ponita relax`.

    Raises:
        ValueError: for options, structures or checkpoints that do not fit.
        FileNotFoundError: for files that do not exist.
    """
    arguments = _parser().parse_args(args)
    atoms = inputs.read_structure(arguments.structure)
    if arguments.cell and not atoms.pbc.all():
        raise ValueError(f"--cell needs a periodic structure; this one has pbc={atoms.pbc.tolist()}.")
    atoms.calc = inputs.make_calculator(arguments)
    before = _state(atoms, arguments.cell)
    arguments.out.mkdir(parents=True, exist_ok=True)
    converged, steps = relax(atoms, arguments)
    _write(arguments.out / "relaxed.xyz", atoms)
    print(_table(before, _state(atoms, arguments.cell)))
    print(f"\n{'converged' if converged else 'NOT converged'} in {steps} steps; everything is in {arguments.out}")
    if not converged:
        sys.exit(1)


def relax(atoms: Atoms, arguments: argparse.Namespace) -> tuple[bool, int]:
    """Move a structure; returns whether forces are below the limit, and the number of steps.

    Args:
        atoms: with a calculator.
        arguments: of the command.
    """
    moves = FrechetCellFilter(atoms, scalar_pressure=arguments.pressure * units.GPa) if arguments.cell else atoms
    search = OPTIMIZERS[arguments.optimizer](moves, logfile=None)
    path, log = arguments.out / "path.xyz", arguments.out / "log.csv"
    path.write_text("")
    with log.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "energy_eV", "max_force_eV_per_A", "max_stress_eV_per_A3"])

        def record() -> None:
            state = _state(atoms, arguments.cell)
            writer.writerow([search.nsteps, *(f"{value:.10g}" for value in state.values())])
            file.flush()
            _write(path, atoms, append=True)

        search.attach(record, interval=1)
        converged = bool(search.run(fmax=arguments.fmax, steps=arguments.steps))
    return converged, search.nsteps


def _state(atoms: Atoms, cell: bool) -> dict[str, float]:
    forces = np.linalg.norm(atoms.get_forces(), axis=1)
    state = {"energy (eV)": float(atoms.get_potential_energy()), "largest force (eV/Å)": float(forces.max())}
    return {**state, "largest stress (eV/Å³)": float(np.abs(atoms.get_stress()).max())} if cell else state


def _table(before: dict[str, float], after: dict[str, float]) -> str:
    rows = [(name, f"{before[name]:.6f}", f"{after[name]:.6f}") for name in before]
    return format_table([("", "before", "after"), *rows])


def _write(path: Path, atoms: Atoms, append: bool = False) -> None:
    if append:
        write(path, atoms, format="extxyz", append=True)
        return
    with replacing(path) as temporary:
        write(temporary, atoms, format="extxyz")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ponita relax", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    inputs.add_arguments(parser)
    parser.add_argument("--fmax", type=float, default=0.01, help="largest force left, eV/Å; default 0.01")
    parser.add_argument("--cell", action="store_true", help="relax the cell too")
    parser.add_argument("--pressure", type=float, default=0.0, help="GPa, with --cell; default 0")
    parser.add_argument("--optimizer", default="bfgs", choices=tuple(OPTIMIZERS))
    parser.add_argument("--steps", type=int, default=500, help="at most; default 500")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write")
    return parser
