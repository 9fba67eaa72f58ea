"""`ponita relax`: move atoms, and on request the cell, to a minimum of a trained potential."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms, units
from ase.filters import FrechetCellFilter
from ase.io import write
from ase.optimize import BFGS, FIRE, LBFGS

from ponita.data import replacing
from ponita.tasks.arguments import positive
from ponita.tasks.md import inputs
from ponita.tasks.md.simulate import interrupts
from ponita.tasks.pictures import format_table

EPILOG = """examples:
  ponita relax --ckpt_path runs/potential-quick/checkpoints/best.ckpt --structure ethanol.xyz --out relaxed
  ponita relax --ckpt_path best.ckpt --structure crystal.cif --cell --pressure 5 --dtype float64 --out at5GPa

The folder holds relaxed.xyz, the path in path.xyz (both extended xyz) and log.csv. With --cell what falls is the
enthalpy, energy + pressure x volume. Without --fmax in reach within --steps, or after Ctrl-C, the command ends with
status 1, and relaxed.xyz is the last structure; go on from it with --structure."""
OPTIMIZERS = {"bfgs": BFGS, "fire": FIRE, "lbfgs": LBFGS}
RELAXED, PATH, LOG = "relaxed.xyz", "path.xyz", "log.csv"


class Ending(NamedTuple):
    """How a relaxation ended.

    Attributes:
        converged: whether forces are below the limit.
        steps: that were made.
        interrupted: whether it was ended by Ctrl-C.
    """

    converged: bool
    steps: int
    interrupted: bool

    def __str__(self) -> str:
        how = "converged" if self.converged else "INTERRUPTED" if self.interrupted else "NOT converged"
        return f"{how} in {self.steps} steps"


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
    _check(arguments, atoms)
    atoms.calc = inputs.make_calculator(arguments)
    before = _state(atoms, arguments)  # what is wrong with the structure is said before anything is written
    arguments.out.mkdir(parents=True, exist_ok=True)
    ending = relax(atoms, arguments)
    with replacing(arguments.out / RELAXED) as temporary:
        write(temporary, atoms, format="extxyz")
    after = _state(atoms, arguments)
    rows = [(name, f"{before[name]:.6f}", f"{after[name]:.6f}") for name in before]
    print(format_table([("", "before", "after"), *rows]))
    print(f"\n{ending}; everything is in {arguments.out}")
    if not ending.converged:
        sys.exit(1)


def relax(atoms: Atoms, arguments: argparse.Namespace) -> Ending:
    """Move a structure, writing the path and the log on the way.

    Args:
        atoms: with a calculator.
        arguments: of the command.
    """
    moves = FrechetCellFilter(atoms, scalar_pressure=arguments.pressure * units.GPa) if arguments.cell else atoms
    search = OPTIMIZERS[arguments.optimizer](moves, logfile=None)
    with (arguments.out / LOG).open("w", encoding="utf-8") as log, interrupts() as interrupted:
        log.write(",".join(["step", *(_column(name) for name in _state(atoms, arguments))]) + "\n")
        for reached in search.irun(fmax=arguments.fmax, steps=arguments.steps):
            converged = bool(reached)
            values = (f"{value:.10g}" for value in _state(atoms, arguments).values())
            log.write(",".join([str(search.nsteps), *values]) + "\n")
            log.flush()
            write(arguments.out / PATH, atoms, format="extxyz", append=True)
            if interrupted:
                break
    return Ending(converged, search.nsteps, bool(interrupted))


def _check(arguments: argparse.Namespace, atoms: Atoms) -> None:
    if not 0 < arguments.fmax < float("inf"):
        raise ValueError(f"--fmax {arguments.fmax}; expected a positive force (eV/Å).")
    if not abs(arguments.pressure) < float("inf"):
        raise ValueError(f"--pressure {arguments.pressure}; expected a finite number of GPa.")
    if arguments.pressure and not arguments.cell:
        raise ValueError(f"--pressure {arguments.pressure} has no effect on a cell that is held fixed; add --cell.")
    if arguments.cell and not atoms.pbc.all():
        raise ValueError(f"--cell needs a periodic structure; this one has pbc={atoms.pbc.tolist()}. Leave --cell out.")
    inputs.check_unused(arguments.out, (RELAXED, PATH, LOG), "name another folder with --out")


def _state(atoms: Atoms, arguments: argparse.Namespace) -> dict[str, float]:
    state = {"energy (eV)": float(atoms.get_potential_energy())}
    if arguments.cell:
        stress, volume = atoms.get_stress(voigt=False), float(atoms.get_volume())
        pressure = arguments.pressure * units.GPa
        state["enthalpy (eV)"] = state["energy (eV)"] + pressure * volume
        state["volume (Å³)"] = volume
        state["pressure (GPa)"] = -float(np.trace(stress)) / 3 / units.GPa
        state["largest stress left (GPa)"] = float(np.abs(stress + pressure * np.eye(3)).max()) / units.GPa
    return {**state, "largest force (eV/Å)": float(np.linalg.norm(atoms.get_forces(), axis=1).max())}


def _column(name: str) -> str:
    """A name as the heading of a column: "largest force (eV/Å)" is largest_force_eV_per_A."""
    for old, new in (("/", "_per_"), ("Å³", "A3"), ("Å", "A"), (" ", "_")):
        name = name.replace(old, new)
    return name.translate(str.maketrans("", "", "()"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ponita relax",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    inputs.add_arguments(parser)
    parser.add_argument("--fmax", type=float, default=0.01, help="largest force left, eV/Å; default 0.01")
    parser.add_argument("--cell", action="store_true", help="relax the cell too")
    parser.add_argument("--pressure", type=float, default=0.0, help="GPa, with --cell; default 0")
    parser.add_argument("--optimizer", default="bfgs", choices=tuple(OPTIMIZERS))
    parser.add_argument("--steps", type=positive, default=500, help="at most; default 500")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write")
    return parser
