"""`ponita bench`: correctness, then speed and memory, against the published form of the network."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from ponita import Ponita
from ponita.tasks.bench import cases, gate, measure, operators, record, scaling, variants
from ponita.tasks.pictures import format_table

EPILOG = """cases:
  S1       aspirin, one molecule        S2       aspirin, five molecules: the published size
  S4       192 atoms, periodic          K        operators one by one, at the size of S2
  scaling  against atoms, neighbours and orientations            tiny     to try the command

ponita bench compare A.json B.json   how many times faster B is"""
SPECIAL = ("K", "scaling")


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
    results["command"] = "ponita bench " + " ".join(args)
    results["cases"] = {}
    for name in arguments.case:
        results["cases"][name] = _run(name, arguments)
        _show(name, results["cases"][name])
        if arguments.out:
            record.write(results, arguments.out)  # after every case: a later one may take long, or fail
    failed = [f"{case}: {v}" for case, part in results["cases"].items() for v in part["failed"]]
    if failed:
        print(f"not timed, because wrong: {'; '.join(failed)}", file=sys.stderr)
        sys.exit(1)


def measure_case(case: cases.Case, wanted: tuple[str, ...], repeats: int) -> record.Record:
    """Check and time the variants of a case.

    Args:
        case: what to measure.
        wanted: names of variants; all where empty.
        repeats: of every measure.

    Returns:
        Its part of a record.
    """
    made, skipped = variants.build(case, wanted)
    errors, failed = gate.check(case, made)
    right = {name: variant for name, variant in made.items() if name not in failed}
    part = {
        "about": case.about,
        "sizes": case.sizes,
        "notes": {name: variant.note for name, variant in right.items() if variant.note},
        "skipped": skipped,
        "errors": errors,
        "failed": failed,
        "seconds": {name: {} for name in right},
        "bytes": {name: {} for name in right},
    }
    for name, function in measure.MEASURES.items():
        works = {n: partial(function, v.model, case.inputs) for n, v in right.items() if name in v.measures}
        for variant, seconds in measure.interleaved(works, repeats).items():
            part["seconds"][variant][name] = seconds
    for name, variant in right.items():
        if "training step" in variant.measures:
            saved = measure.saved_bytes(partial(measure.loss, variant.model, case.inputs))
            peak = measure.peak_bytes(partial(measure.training_step, variant.model, case.inputs))
            part["bytes"][name] = {"saved": saved, "peak": peak}
    return part


def measure_operators(case: cases.Case, repeats: int) -> record.Record:
    """Check and time the operators one by one; as `measure_case`."""
    timed, skipped, errors, failed = operators.works(case)
    part = {
        "about": f"operators at the size of {case.name}; the eager form has a kernel for every directed edge",
        "sizes": case.sizes,
        "notes": {},
        "skipped": skipped,
        "errors": errors,
        "failed": failed,
        "seconds": {},
    }
    for name, works in timed.items():
        for backend, seconds in measure.interleaved(works, repeats).items():
            part["seconds"].setdefault(backend, {})[name] = [s / operators.INNER for s in seconds]
    return part


def measure_scaling(repeats: int, largest: int, device: str = "cpu") -> record.Record:
    """Time a small network with frozen spline kernels, the fastest form, on systems that grow; as `measure_case`.

    The memory kept is that of a training step of the same network.
    """
    found = scaling.cases(largest, device)
    models = {label: Ponita(**case.network).to(device) for label, case in found.items()}
    kept = {n: measure.saved_bytes(partial(measure.loss, models[n], case.inputs)) for n, case in found.items()}
    part: record.Record = {
        "about": f"frozen spline {next(iter(models.values())).backend} kernels, periodic boxes of random points",
        "sizes": {
            n: {"atoms": len(c.inputs["pos"]), "edges": c.inputs["edge_index"].shape[1]} for n, c in found.items()
        },
        "notes": {},
        "skipped": {},
        "failed": {},
        "seconds": {n: {} for n in found},
        "bytes": {n: {"saved": size} for n, size in kept.items()},
    }
    for name in measure.INFERENCE:
        works = {
            n: partial(measure.MEASURES[name], m.requires_grad_(False), found[n].inputs) for n, m in models.items()
        }
        for label, seconds in measure.interleaved(works, repeats).items():
            part["seconds"][label][name] = seconds
    return part


def _run(name: str, arguments: argparse.Namespace) -> record.Record:
    if name == "scaling":
        return measure_scaling(arguments.repeats, arguments.largest, arguments.device)
    if name == "K":
        return measure_operators(cases.make("S2", arguments.data).to(arguments.device), arguments.repeats)
    return measure_case(
        cases.make(name, arguments.data).to(arguments.device), tuple(arguments.variant), arguments.repeats
    )


def _show(name: str, part: record.Record) -> None:
    print(f"\n{name}: {part['about']}")
    print(format_table(record.table(part)))
    for label, reasons in (("skipped", part["skipped"]), ("FAILED", part["failed"])):
        for variant, reason in reasons.items():
            print(f"{label} {variant}: {reason}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ponita bench", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = (*cases.CASES, *SPECIAL)
    parser.add_argument("--case", nargs="+", default=["S2"], choices=names, metavar="CASE", help="default S2")
    parser.add_argument("--variant", nargs="+", default=[], help="some of the variants; default all that can be made")
    parser.add_argument("--threads", type=_positive, default=1)
    parser.add_argument("--repeats", type=_positive, default=5)
    parser.add_argument(
        "--data", type=Path, default=Path("data/rmd17"), help="folder of rMD17; random points if absent"
    )
    parser.add_argument("--largest", type=int, default=scaling.ATOMS[-1], choices=scaling.ATOMS, help="of scaling")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser


def _compare_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ponita bench compare", description="How many times faster the second is.")
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}; expected at least 1")
    return value
