"""`ponita export`: write a trained potential as a file that LAMMPS, ASE and others run through metatomic."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ponita.interfaces import metatomic

EPILOG = """examples:
  ponita export --ckpt_path runs/mine/checkpoints/best.ckpt --out model.pt
  ponita export --ckpt_path best.ckpt --out pbe.pt --head pbe --dtype float32 --tabulate 192 96

In LAMMPS (built with its package ML-METATOMIC), the atomic number of each of its atom types in order:
  pair_style metatomic model.pt
  pair_coeff * * 8 12"""
NODES = (128, 64)


def main(args: Sequence[str]) -> None:
    """Entry point of `ponita export`.

    Args:
        args: the words after `ponita export`.

    Raises:
        ValueError: for options or checkpoints that do not fit, and where the file exists.
        FileNotFoundError: if there is no such checkpoint.
    """
    arguments = _parser().parse_args(args)
    if arguments.out.exists():
        raise ValueError(f"{arguments.out} exists already and would be written over; name another file with --out.")
    model = metatomic.export(
        arguments.ckpt_path,
        arguments.out,
        head=arguments.head,
        dtype=arguments.dtype,
        tabulate=tuple(arguments.tabulate or NODES),
    )
    capabilities = model.capabilities()
    print(model.metadata().description)
    print(f"elements: {' '.join(map(str, capabilities.atomic_types))} (the numbers that pair_coeff takes)")
    print(f"interaction range: {capabilities.interaction_range:g} Å")
    print(f"\nwritten: {arguments.out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ponita export",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--ckpt_path", type=Path, required=True, metavar="CKPT", help="checkpoint of a potential")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write, such as model.pt")
    parser.add_argument("--head", help="level of theory; default the first of the potential")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        help="of the weights, default that of the checkpoint; energies are float64",
    )
    parser.add_argument(
        "--tabulate",
        type=int,
        nargs="*",
        metavar="NODES",
        help="nodes of the tables that the kernels become; default 128 64",
    )
    return parser
