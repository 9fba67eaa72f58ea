"""`ponita bench`: correctness, then speed and memory, against the published form of the network."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ponita.data.rmd17 import MOLECULES
from ponita.tasks.arguments import positive
from ponita.tasks.bench import cases, epoch, operators, record, scaling, shapes, suite, tables
from ponita.tasks.pictures import format_table

EPILOG = """cases:
  S1       aspirin, one molecule                      S2, S2x64   five molecules (the published size), 64
  S3       an epoch of rMD17, from a few steps        S4, S4x32   192 atoms of water, periodic; 32 boxes
  S5       periodic boxes, 60 neighbours an atom: 1000 atoms, 10000 and 100000 up to --largest
  S6       16 crystals of 64 copper atoms             shapes      training steps on 50 different graphs
  K        operators one by one, at the size of S2; K-A at that of S2x64, K-B at that of S5 with --largest atoms
  scaling  against atoms, neighbours, orientations    tiny        to try the command

ponita bench compare A.json B.json   how many times faster B is"""
SPECIAL = ("S3", "S5", "K", "K-A", "K-B", "shapes", "scaling")


def main(args: Sequence[str]) -> None:
    """Entry point of `ponita bench`; exits with status 1 if a variant computes something else than it should.

    Args:
        args: the words after `ponita bench`.

    Raises:
        ValueError: for a file that is no record, or unknown names.
    """
    if args and args[0] == "compare":
        arguments = _compare_parser().parse_args(args[1:])
        for line in record.compare(*(record.read(path) for path in (arguments.first, arguments.second))):
            print(line)
        return
    arguments = _parser().parse_args(args)
    torch.set_num_threads(arguments.threads)
    results = record.environment(arguments.threads, arguments.device)
    results["command"] = "ponita bench " + shlex.join(_without_folder(args))
    results["cases"] = {}
    for name in arguments.case:
        for label, part in _run(name, arguments):
            results["cases"][label] = part
            _show(label, part)
            if arguments.out:
                record.write(results, arguments.out)  # after every case: a later one may take long, or fail
    failed = [f"{case}: {v}" for case, part in results["cases"].items() for v in part["failed"]]
    if failed:
        print(f"not timed, because wrong: {'; '.join(failed)}", file=sys.stderr)
        sys.exit(1)


def _run(name: str, arguments: argparse.Namespace) -> Iterator[tuple[str, record.Record]]:
    """The parts of a record that a case on the command line makes, each with its name."""
    device, repeats, wanted = arguments.device, arguments.repeats, tuple(arguments.variant)
    if name == "scaling":
        yield name, scaling.measure(repeats, arguments.largest, device)
    elif name == "S3":
        yield name, epoch.measure(arguments.molecules, wanted, repeats, arguments.data, device)
    elif name == "S5":
        for label, case in scaling.large(arguments.largest).items():
            yield label, suite.measure(case.to(device), wanted, repeats, arguments.compiled)
    elif name == "K-B":
        for case in list(scaling.large(arguments.largest).values())[-1:]:
            yield name, operators.measure(case.to(device), repeats)
    elif name in ("K", "K-A"):
        case = cases.make("S2" if name == "K" else "S2x64", arguments.data)
        yield name, operators.measure(case.to(device), repeats)
    elif name == "shapes":
        yield name, shapes.measure(cases.make("S2", arguments.data).to(device), wanted)
    else:
        case = cases.make(name, arguments.data).to(device)
        yield name, suite.measure(case, wanted, repeats, arguments.compiled)


def _without_folder(args: Sequence[str]) -> list[str]:
    """The words of a command without the folder of the data, which is another on every machine."""
    words = [word for word in args if not word.startswith("--data=")]
    if "--data" in words:
        place = words.index("--data")
        del words[place : place + 2]
    return words


def _show(name: str, part: record.Record) -> None:
    print(f"\n{name}: {part['about']}")
    print(format_table(tables.table(part)))
    for line in tables.remarks(part):
        print(line.replace("**wrong**,", "FAILED"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ponita bench", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = (*cases.CASES, *SPECIAL)
    parser.add_argument("--case", nargs="+", default=["S2"], choices=names, metavar="CASE", help="default S2")
    parser.add_argument("--variant", nargs="+", default=[], help="some of the variants; default all that can be made")
    parser.add_argument(
        "--compiled", action="store_true", help="also the eager reference by torch.compile: takes minutes"
    )
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument(
        "--data", type=Path, default=Path("data/rmd17"), help="folder of rMD17; random points if absent"
    )
    parser.add_argument("--molecules", nargs="+", default=[], choices=MOLECULES, metavar="MOLECULE", help="of S3")
    parser.add_argument(
        "--largest", type=int, default=scaling.LARGEST, choices=scaling.ATOMS, help="atoms in S5, K-B and scaling"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser


def _compare_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ponita bench compare", description="How many times faster the second is.")
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    return parser
