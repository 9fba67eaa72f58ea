"""Sections of docs/benchmarks.md about learning one thing after another, and across labs and machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import mean
from typing import Any

Rows = list[tuple[str, ...]]
Record = Mapping[str, Any]


def molecules(record: Record) -> Iterator[str | Rows]:
    """Potentials of molecules that come one after another."""
    found = record["continual_potential"]
    yield (
        "Force errors (meV/Å) on test frames after the last molecule; they came in the order of the columns. Forgetting: growth of the "
        "force error of the molecules before the last since each was just learned, on validation frames.\n"
    )
    rows = [("method", *found["molecules"], "mean", "forgetting", "kB a molecule", "kB in all", "CPU s")]
    for method, one in found["methods"].items():
        errors = one["test_forces"]
        values = (*errors, mean(errors), one["forgetting"], one["kb_per_molecule"], one["kb"])
        rows.append((method, *(f"{value:.1f}" for value in values), f"{one['seconds']:.0f}"))
    yield rows


def classes(record: Record) -> Iterator[str | Rows]:
    """Digits that come two at a time."""
    found = record["continual_superpixel"]
    yield (
        "Accuracy (%) on test images of all classes seen, after each stage; at the end also on images turned at random, on classes of "
        "earlier stages and of the last one, and the factor that new rows of the read-out have, or would have had.\n"
    )
    seen = [str(count) for count in found["classes"]]
    rows = [("method", *seen, "average", "turned", "old", "new", "factors")]
    for method, one in found["methods"].items():
        values = (*one["accuracy"], one["average"], one["accuracy_turned"][-1], one["old"], one["new"])
        factors = " ".join(f"{report['gamma']:.2f}" for report in one["alignment"].values())
        rows.append((method, *(f"{100 * value:.1f}" for value in values), factors))
    yield rows


def federated(record: Record) -> Iterator[str | Rows]:
    """Servers of a federation."""
    results = record["federated"]
    first = next(iter(results.values()))
    labs = list(first["labs"])
    ends = (labs[0], labs[-1])
    yield (
        f"Ethanol in {len(labs)} labs, sorted by energy, the first the calmest; force errors (meV/Å) of the common potential after "
        f"{first['rounds']} rounds, on the test set and on frames of two labs. One seed.\n"
    )
    rows = [("server", "test", *(f"{lab}, there in {first['rates'][lab]:.0%} of the rounds" for lab in ends))]
    for name, one in results.items():
        rows.append((name, *(f"{error:.1f}" for error in (one["test"], *(one["labs"][lab] for lab in ends)))))
    yield rows


def flower(record: Record) -> Iterator[str | Rows]:
    """The same through Flower."""
    found = record["flower_deployment"]
    yield (
        f"{len(found['labs'])} labs of ethanol, {found['rounds']} rounds through a SuperLink and SuperNodes on the loopback address of one "
        f"machine, and by `ponita federate`. Weights have equal bits: {'yes' if found['equal_bits'] else 'no'}.\n"
    )
    seconds, errors = found["seconds"], found["test_error"]
    yield [
        ("", "test force MAE (meV/Å)", "seconds a round"),
        ("before", f"{errors['before']:.2f}", ""),
        ("Flower", f"{errors['flower']:.2f}", f"{seconds['flower_round']:.1f}"),
        ("without it", f"{errors['alone']:.2f}", f"{seconds['alone_round']:.1f}"),
    ]


def one_byte(record: Record) -> Iterator[str | Rows]:
    """Bytes of slopes against averaged gradients."""
    yield (
        "A potential of seven molecules, adapted to ethanol on three machines with frames of their own. Bytes are payload that a machine sends; "
        "evaluations, batches whose loss it computes (with averaged gradients also differentiated).\n"
    )
    rows = [("trained", "method", "steps", "bytes", "evaluations", "F MAE before (meV/Å)", "after", "CPU s")]
    for config, methods in record["one_byte"].items():
        for method, curve in methods.items():
            steps = curve["steps"][-1]
            counts = (steps, steps * curve["step_bytes"], steps * curve["step_evaluations"])
            errors = (f"{curve['forces'][0]:.1f}", f"{curve['forces'][-1]:.1f}")
            rows.append((config, method, *map(str, counts), *errors, f"{curve['cpu_seconds']:.0f}"))
    yield rows


#: By the key of a record that holds its numbers.
SECTIONS = {
    "continual_potential": molecules,
    "continual_superpixel": classes,
    "federated": federated,
    "flower_deployment": flower,
    "one_byte": one_byte,
}
