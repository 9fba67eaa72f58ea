"""What a test of a potential found, in tables and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ponita.data.elements import SYMBOLS
from ponita.data.references import References
from ponita.models import EnergyForces, Potential
from ponita.tasks.pictures import draw_parity, figure, format_table
from ponita.tasks.potential.metrics import MILLI, Errors, PotentialErrors

MOST_ELEMENTS = 20  # rows of the table of elements


class Tested(NamedTuple):
    """A batch of a test.

    Attributes:
        predicted: by the potential.
        true: labels, NaN where unknown.
        sizes: [G] atoms.
        references: [G] eV, sum of the reference energies.
    """

    predicted: EnergyForces
    true: EnergyForces
    sizes: Tensor
    references: Tensor


def molecule_report(molecule: str, title: str, metrics: Mapping[str, Tensor]) -> str:
    """Errors of one molecule, of its whole energy."""
    energy, forces = (f"{float(metrics[f'test/{name}_mae']):.2f}" for name in ("energy", "forces"))
    return format_table([(title, "energy MAE (meV)", "force MAE (meV/Å)"), (f"PONITA, {molecule}", energy, forces)])


def error_report(errors: PotentialErrors, tables: Mapping[str, Errors], title: str) -> str:
    """Tables of all structures, of each group of them, and of each element's forces.

    Args:
        errors: of the test.
        tables: its tables.
        title: of the first.
    """
    rows = [_row("all structures", {name: table.overall() for name, table in tables.items()}, 0)]
    if len(errors.groups) > 1:
        rows += [
            row for k, name in enumerate(errors.groups) if (row := _row(name or "(no group)", tables, k))[1] != "0"
        ]
    heading = (
        "structures",
        "E MAE (meV/atom)",
        "E RMSE",
        "E RMSE (meV)",
        "F MAE (meV/Å)",
        "F RMSE",
        "stress MAE (GPa)",
    )
    shown = [k for k in range(len(heading)) if any(row[k + 1] != "-" for row in rows)]
    lines = [(title, *heading), *rows]
    parts = [format_table([(line[0], *(line[k + 1] for k in shown)) for line in lines])]
    of_elements = _element_rows(errors, tables)
    return "\n\n".join([*parts, format_table(of_elements)] if len(of_elements) > 2 else parts)


def described_references(potential: Potential, references: Mapping[str, References]) -> list[str]:
    """Lines about what the potential measures energies from, and its unit."""
    lines = [f"scale: {float(potential.scale):.6g} eV and eV/Å"]
    if not references:
        return [*lines, f"reference energies: the mean energy of a structure, {float(potential.shift):.6f} eV"]
    for head, found in references.items():
        of_head = f" of {head}" if len(references) > 1 else ""
        lines += [
            f"reference energies{of_head}: {found.source}; they leave {round(found.residual_mean, 4) + 0.0:.4f} eV an atom on average, "
            f"with a spread of {found.residual_rms:.4f} eV",
            format_table(found.rows()),
            *(f"warning: {doubt}" for doubt in found.warnings),
        ]
    return lines


def draw_parities(path: Path, tested: Sequence[Tested]) -> None:
    """Predicted against true energies and forces.

    Energies are those an atom less references, or of whole structures about their mean where there are no references.

    Args:
        path: PNG to write.
        tested: batches; what has no label is left out.
    """
    energies = [torch.cat([_relative(t, part.energy) for t, part in _pairs(tested, k)]).cpu() for k in (1, 0)]
    forces = [torch.cat([part.forces.flatten() for _, part in _pairs(tested, k)]).cpu() for k in (1, 0)]
    with_references = any(bool(t.references.any()) for t in tested)
    panels = []
    for (true, predicted), title, unit in ((energies, "energy", "meV"), (forces, "forces", "eV/Å")):
        known = ~true.isnan()
        if bool(known.any()):
            panels.append((true[known], predicted[known], title, unit))
    with figure(path, columns=len(panels)) as axes:
        for axis, (true, predicted, title, unit) in zip(axes, panels, strict=True):
            if title == "energy":
                offset = 0.0 if with_references else true.mean()
                true, predicted = MILLI * (true - offset), MILLI * (predicted - offset)
                unit = "meV/atom" if with_references else "meV"
            draw_parity(axis, true, predicted, title, unit)


def _pairs(tested: Sequence[Tested], k: int) -> list[tuple[Tested, EnergyForces]]:
    return [(t, t[k]) for t in tested]


def _relative(t: Tested, energy: Tensor) -> Tensor:
    return (energy - t.references) / t.sizes if bool(t.references.any()) else energy


def _row(name: str, tables: Mapping[str, Errors], k: int) -> tuple[str, ...]:
    def shown(quantity: str, kind: str, digits: int) -> str:
        errors = tables.get(quantity)
        if errors is None or not float(errors.count[k]):
            return "-"
        return f"{float(getattr(errors, kind)[k]):.{digits}f}"

    energies, energy = tables.get("energy_per_atom"), "energy_per_atom"
    count = "-" if energies is None else str(int(energies.count[k]))
    return (
        name,
        count,
        shown(energy, "mae", 2),
        shown(energy, "rmse", 2),
        shown("energy", "rmse", 1),
        shown("forces", "mae", 1),
        shown("forces", "rmse", 1),
        shown("stress", "mae", 3),
    )


def _element_rows(errors: PotentialErrors, tables: Mapping[str, Errors]) -> list[tuple[str, ...]]:
    table = tables.get("of_elements")
    if table is None:
        return []
    known = [k for k in range(len(errors.elements)) if float(table.count[k])]
    shown = sorted(known, key=lambda k: -float(table.count[k]))[:MOST_ELEMENTS]
    title = "forces on" if len(known) == len(shown) else f"forces on the {len(shown)} commonest elements"
    rows = [(title, "MAE (meV/Å)", "RMSE (meV/Å)")]
    for k in sorted(shown):
        rows.append((SYMBOLS[errors.elements[k]], f"{float(table.mae[k]):.1f}", f"{float(table.rmse[k]):.1f}"))
    return rows
