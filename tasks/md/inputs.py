"""What the commands that simulate have in common: structures, potentials and their options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from ase import Atoms
from ase.io import read

from ponita.interfaces.ase import CommitteeCalculator, PonitaCalculator
from ponita.tasks.arguments import positive

#: Arrays of a structure that a simulation keeps; labels of data sets are not its own.
KEPT = ("numbers", "positions", "momenta", "masses", "tags")
NODES = (128, 64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a potential, a structure and how to evaluate."""
    parser.add_argument("--ckpt_path", type=Path, metavar="CKPT", help="checkpoint of a potential")
    parser.add_argument("--structure", type=Path, metavar="FILE", help="anything ASE reads; its last frame is used")
    parser.add_argument("--committee", type=Path, nargs="+", default=[], metavar="CKPT", help="further members")
    parser.add_argument("--head", help="level of theory; default the first of the potential")
    parser.add_argument(
        "--tabulate",
        type=int,
        nargs="*",
        metavar="NODES",
        help="evaluate tables instead of kernels, on 128 64 nodes or on those given",
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), help="default that of the checkpoint")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--skin", type=float, default=0.3, help="of the neighbour list, Å; default 0.3")
    parser.add_argument("--threads", type=positive, help="of torch; default its own choice")


def check_unused(folder: Path, names: Sequence[str], remedy: str) -> None:
    """Nothing is written over.

    Args:
        folder: that a command will write to.
        names: of files that it writes.
        remedy: what to do where one is there already.

    Raises:
        ValueError: where one is.
    """
    there = [name for name in names if (folder / name).exists()]
    if there:
        raise ValueError(f"{folder} holds {', '.join(there)} already, which would be written over; {remedy}.")


def read_structure(path: Path | None) -> Atoms:
    """The last frame of a file, without the labels and the calculator that came with it.

    Args:
        path: file in any format of ASE.

    Raises:
        ValueError: if no file was named, or it cannot be read or is empty.
        FileNotFoundError: if there is no such file.
    """
    if path is None:
        raise ValueError("no structure; name one with --structure FILE.xyz.")
    if not path.is_file():
        raise FileNotFoundError(f"no structure at {path}.")
    try:
        atoms = read(path, index=-1)
    except Exception as error:  # the readers of ASE raise whatever a damaged file leads them to
        raise ValueError(f"{path} cannot be read as a structure ({type(error).__name__}: {error}).") from error
    if len(atoms) == 0:
        raise ValueError(f"{path} holds no atoms.")
    return bare(atoms)


def bare(atoms: Atoms) -> Atoms:
    """A copy with what moves, and without a calculator."""
    atoms = atoms.copy()
    atoms.info = {}
    for name in set(atoms.arrays) - set(KEPT):
        del atoms.arrays[name]
    return atoms


def make_calculator(arguments: argparse.Namespace) -> PonitaCalculator | CommitteeCalculator:
    """The calculator that the options of `add_arguments` describe.

    Raises:
        ValueError: if there is no checkpoint, and as the calculators.
    """
    if arguments.ckpt_path is None:
        raise ValueError("no potential; name one with --ckpt_path RUN/checkpoints/best.ckpt.")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but torch sees no GPU; use --device cpu.")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    options = {name: getattr(arguments, name) for name in ("device", "dtype", "head", "skin")}
    options["tabulate"] = _nodes(arguments.tabulate)
    if not arguments.committee:
        return PonitaCalculator(arguments.ckpt_path, **options)
    paths = {path.resolve(): path for path in (arguments.ckpt_path, *arguments.committee)}
    return CommitteeCalculator(list(paths.values()), **options)


def _nodes(given: Sequence[int] | None) -> tuple[int, int] | None:
    if given is None or len(given) == 2:
        return given and tuple(given)
    if given:
        raise ValueError(f"--tabulate {' '.join(map(str, given))}; expected two numbers of nodes, or none for 128 64.")
    return NODES
