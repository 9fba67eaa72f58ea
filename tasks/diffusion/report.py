"""The verdict on molecules as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ponita.data.chemistry import MoleculeReport, Reading
from ponita.tasks.pictures import format_table

#: Rows of shares: name, and the field of a `Reading`.
SHARES = (
    ("atoms stable", "atoms_stable"),
    ("molecules stable", "molecules_stable"),
    ("valid", "valid"),
    ("in one fragment", "connected"),
    ("unique of valid", "unique"),
    ("novel of unique", "novel"),
    ("valid, unique and novel", "discovered"),
)


def report_table(reports: Mapping[str, MoleculeReport]) -> str:
    """Two columns for each report: bonds by the distance table, and perceived ones with charges.

    Args:
        reports: by title, such as "samples" and, for the ceiling, "training".
    """
    head, rows = [""], [[name] for name, _ in SHARES]
    extra = [["strain (kcal/mol, median)"], ["PoseBusters"], ["too slow, too large, failed"]]
    for title, report in reports.items():
        head += [f"{title}: table", f"{title}: perceived"]
        for row, (_, field) in zip(rows, SHARES, strict=True):
            row += [_percent(getattr(reading, field)) for reading in _readings(report)]
        faults = (report.num_timed_out, report.num_too_large, report.num_crashed)
        values = (_number(report.strain), _percent(report.posebusters), ", ".join(map(str, faults)))
        for row, value in zip(extra, values, strict=True):
            row += ["", value]
    shown = [row for row in (*rows, *extra) if any(cell not in ("", "-") for cell in row[1:])]
    return format_table([tuple(head), *map(tuple, shown)])


def geometry_table(report: MoleculeReport, kinds: int = 12) -> str:
    """Distances of the commonest bonds and angles from those of the reference; empty without a reference.

    Args:
        report: with a reference.
        kinds: rows of bonds, and of angles.
    """
    angles = [row for row in report.geometry if row.kind.count("-") == 2]
    bonds = [row for row in report.geometry if row.kind.count("-") < 2]
    rows = [("kind", "Wasserstein distance", "count", "in reference")]
    for part, unit in ((bonds[:kinds], "Å"), (angles[:kinds], "degrees")):
        for row in part:
            rows.append((row.kind, f"{_number(row.wasserstein, 4)} {unit}", str(row.count), str(row.reference_count)))
    return format_table(rows) if len(rows) > 1 else ""


def _readings(report: MoleculeReport) -> tuple[Reading, Reading]:
    return report.table, report.perceived


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f} %"


def _number(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}g}"
