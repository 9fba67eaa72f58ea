"""`ponita data`: look at files of structures, and pack them for training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import numpy as np

from ponita.data.faults import find_faults, largest_forces
from ponita.data.inspection import describe, fitted, summarize, summarize_elements, summarize_groups
from ponita.data.labels import Keys, Units
from ponita.data.lmdb_structures import LmdbStructures, to_lmdb
from ponita.data.reading import read_structures
from ponita.data.structures import Structures
from ponita.data.units import GPA
from ponita.tasks.pictures import figure, format_table

T = TypeVar("T", Keys, Units)
EPILOG = """examples:
  ponita data inspect train.xyz --picture train.png
  ponita data inspect train.xyz --keys energy=REF_energy forces=REF_forces --units energy=Ha length=bohr
  ponita data pack part1.xyz part2.xyz --out train.lmdb"""


def main(args: Sequence[str]) -> None:
    """Entry point of `ponita data`.

    Args:
        args: the words after `ponita data`.

    Raises:
        ValueError: for files that cannot be read, and unknown keys or units.
        FileNotFoundError: for a missing file.
    """
    arguments = _parser().parse_args(args)
    keys, units = _options(Keys, arguments.keys), _options(Units, arguments.units)
    if arguments.command == "pack":
        parts = (read_structures(path, keys, units) for path in arguments.files)
        print(f"{to_lmdb(parts, arguments.out)} structures are in {arguments.out}")
        return
    structures = _read(arguments.files, keys, units, arguments.limit)
    print(report(structures))
    if arguments.picture:
        draw(structures, arguments.picture)
        print(f"\nhistograms are in {arguments.picture}")


def report(structures: Structures) -> str:
    """Everything `ponita data inspect` prints of a set of structures."""
    tables = [summarize_elements(structures), summarize(structures), summarize_groups(structures)]
    faults = find_faults(structures)
    listed = [f"  - {fault.describe(structures)}" for fault in faults] or ["  nothing"]
    parts = ["\n".join(describe(structures)), *(format_table(rows) for rows in tables if rows)]
    return "\n\n".join([*parts, "\n".join(["what looks wrong:", *listed])])


def draw(structures: Structures, path: Path) -> None:
    """Histograms of sizes, energies, forces and stresses.

    Args:
        structures: what to draw.
        path: PNG to write.
    """
    references = fitted(structures).energies
    explained = structures.composition() @ np.array([references.get(z, 0.0) for z in structures.elements])
    panels = {
        "atoms in a structure": structures.counts,
        "energy an atom less references (eV)": ((structures.energy - explained) / structures.counts),
        "largest force (eV/Å)": largest_forces(structures)[structures.has["forces"]],
        "stress components (GPa)": structures.stress[structures.has["stress"]].ravel() / GPA,
    }
    known = {name: values[np.isfinite(values)] for name, values in panels.items()}
    known = {name: values for name, values in known.items() if values.size}
    with figure(path, columns=len(known)) as axes:
        for axis, (name, values) in zip(axes, known.items(), strict=True):
            axis.hist(values, bins=60, color="tab:blue")
            axis.set(xlabel=name, ylabel="number", yscale="log")
            axis.grid(alpha=0.3)


def _read(files: Sequence[Path], keys: Keys, units: Units, limit: int | None) -> Structures:
    if len(files) == 1 and files[0].suffix == ".lmdb" and limit:
        stored = LmdbStructures(files[0])
        return stored.take(_sample(len(stored), limit))
    structures = read_structures(files, keys, units)
    return structures.take(_sample(len(structures), limit)) if limit else structures


def _sample(num: int, limit: int) -> np.ndarray:
    return np.sort(np.random.default_rng(0).permutation(num)[:limit])


def _options(kind: type[T], words: Sequence[str]) -> T:
    """name=value words as the dataclass of that name."""
    known = [field.name for field in fields(kind)]
    values = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            raise ValueError(f"{word!r} is not understood; expected name=value with a name among {', '.join(known)}.")
        values[name] = value
    return kind(**values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ponita data", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("files", nargs="+", type=Path, metavar="FILE", help="extended xyz, .db, .npz, .lmdb, ...")
    common.add_argument("--keys", nargs="+", default=[], metavar="LABEL=KEY", help="such as energy=REF_energy")
    common.add_argument("--units", nargs="+", default=[], metavar="QUANTITY=UNIT", help="such as energy=kcal/mol")
    inspect = commands.add_parser("inspect", parents=[common], help="print what files hold, and what looks wrong")
    inspect.add_argument("--picture", type=Path, metavar="PNG", help="draw histograms")
    inspect.add_argument("--limit", type=int, metavar="N", help="look at so many structures, drawn at random")
    pack = commands.add_parser("pack", parents=[common], help="write an LMDB database, for sets larger than memory")
    pack.add_argument("--out", type=Path, required=True, metavar="LMDB", help="file to write")
    return parser
