"""What methods of learning molecules one after another made of it: a table, a record and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ponita.tasks.pictures import figure, format_table

Record = dict[str, Any]
KILO = 1000.0


@dataclass
class MethodErrors:
    """Mean absolute errors of a method, and what its steps cost.

    Attributes:
        forces: [t][i] meV/Å, after stage t, on validation frames of molecule i, for i up to t.
        energy: [t][i] meV.
        test_forces: [i] meV/Å, of the test.
        test_energy: [i] meV.
        seconds: of the processor, in training.
    """

    forces: list[list[float]] = field(default_factory=list)
    energy: list[list[float]] = field(default_factory=list)
    test_forces: list[float] = field(default_factory=list)
    test_energy: list[float] = field(default_factory=list)
    seconds: float = 0.0


def forgetting(errors: Sequence[Sequence[float]]) -> float | None:
    """By how much errors of all molecules but the last grew, on average, since each was just learned; None of one molecule.

    Args:
        errors: [t][i] after stage t, of molecule i.
    """
    earlier = range(len(errors) - 1)
    if not earlier:
        return None
    return sum(errors[-1][i] - errors[i][i] for i in earlier) / len(earlier)


def record(
    molecules: Sequence[str], found: Mapping[str, MethodErrors], stored: Mapping[str, tuple[int, int]]
) -> Record:
    """All that was found, as plain values.

    Args:
        molecules: in the order in which they came.
        found: by method.
        stored: by method, bytes for each molecule and bytes for all.
    """
    methods = {}
    for method, errors in found.items():
        each, once = stored[method]
        learned = len(errors.forces)
        methods[method] = {
            **asdict(errors),
            "forgetting": forgetting(errors.forces),
            "kb_per_molecule": each / KILO,
            "kb": (once + learned * each) / KILO,
        }
    learned = max((len(errors.forces) for errors in found.values()), default=0)
    return {"molecules": list(molecules[:learned]), "methods": methods}


def report_text(results: Record) -> str:
    """Two tables of the errors of the test: of forces, with forgetting and storage; of energies."""
    molecules = results["molecules"]
    forces = [("force MAE (meV/Å)", *molecules, "mean", "forgetting", "kB a molecule", "kB in all", "CPU s")]
    energies = [("energy MAE (meV)", *molecules, "mean")]
    for method, found in results["methods"].items():
        lost = found["forgetting"]
        costs = (f"{found['kb_per_molecule']:.1f}", f"{found['kb']:.1f}", f"{found['seconds']:.0f}")
        forces.append((method, *_numbers(found["test_forces"]), "-" if lost is None else f"{lost:.1f}", *costs))
        energies.append((method, *_numbers(found["test_energy"])))
    note = (
        "Errors on test frames after the last molecule, which came in the order of the columns. Forgetting: growth of the force error of "
        "the molecules before the last, since each was just learned, on validation frames."
    )
    return f"{note}\n\n{format_table(forces)}\n\n{format_table(energies)}"


def _numbers(errors: Sequence[float]) -> tuple[str, ...]:
    mean = sum(errors) / max(len(errors), 1)
    return (*(f"{error:.1f}" for error in errors), f"{mean:.1f}")


def draw_errors(path: Path, results: Record) -> None:
    """Force errors of each molecule after each stage, a panel for each method, all on one scale."""
    molecules, methods = results["molecules"], results["methods"]
    values = [e for found in methods.values() for row in found["forces"] for e in row]
    with figure(path, columns=len(methods), width=2.9, height=3.6) as axes:
        for axis, (method, found) in zip(axes, methods.items(), strict=True):
            _draw_method(axis, molecules, found["forces"])
            axis.set(title=method, xlim=(0.8, len(molecules) + 0.2), ylim=(0.8 * min(values), 1.25 * max(values)))
        axes[0].set_ylabel("force MAE (meV/Å), validation frames")
        axes[0].legend(frameon=False, fontsize=8)


def _draw_method(axis: Axes, molecules: Sequence[str], errors: Sequence[Sequence[float]]) -> None:
    for i, molecule in enumerate(molecules):
        stages = range(i, len(errors))
        axis.plot([t + 1 for t in stages], [errors[t][i] for t in stages], marker="o", markersize=3.5, label=molecule)
    axis.set(xlabel="molecules learned", yscale="log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
