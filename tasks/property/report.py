"""What a test of properties found, in a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ponita.data.qm9_targets import TARGETS
from ponita.tasks.pictures import draw_parity, figure, format_table


class Tested(NamedTuple):
    """K molecules of a test, in the units of the targets.

    Attributes:
        scalars: [K, S] predicted.
        vectors: [K, V, 3] predicted.
        true_scalars: [K, S] labels, NaN where unknown.
        true_vectors: [K, V, 3] the same.
        mean: [K, S] mean of the training set.
        atoms: [K, S] least squares over compositions of the training set; the mean for targets that do not grow with the
            molecule.
    """

    scalars: Tensor
    vectors: Tensor
    true_scalars: Tensor
    true_vectors: Tensor
    mean: Tensor
    atoms: Tensor


def error_rows(names: Sequence[str], tested: Tested) -> list[dict[str, float | str | None]]:
    """Mean absolute errors of each target in the paper's units.

    Args:
        names: of the scalars, then of the vectors.
        tested: all of the test.

    Returns:
        A row for each target under "target", "unit", "molecules", "mean" (predictor), "atoms" (None where they do not
        count) and "model"; of a vector the mean length of the error, where the mean predictor is zero, and a further row
        for the error of its length.
    """
    rows = []
    for column, name in enumerate(names[: tested.scalars.shape[1]]):
        true = tested.true_scalars[:, column]
        errors = {k: (getattr(tested, k)[:, column] - true).abs() for k in ("mean", "atoms", "scalars")}
        rows.append(
            _row(name, name, errors["mean"], errors["atoms"] if TARGETS[name].additive else None, errors["scalars"])
        )
    for column, name in enumerate(names[tested.scalars.shape[1] :]):
        true, predicted = tested.true_vectors[:, column], tested.vectors[:, column]
        length = true.norm(dim=1)
        rows.append(_row(name, f"{name}, length of the error", length, None, (predicted - true).norm(dim=1)))
        off = (length - length.nanmean()).abs()
        rows.append(_row(name, f"{name}, error of the length", off, None, (predicted.norm(dim=1) - length).abs()))
    return rows


def error_report(names: Sequence[str], tested: Tested, title: str) -> str:
    """The table of `error_rows`."""
    lines = [(title, "unit", "molecules", "mean predictor", "atoms only", "PONITA")]
    for row in error_rows(names, tested):
        numbers = ("-" if row[k] is None else f"{row[k]:.4g}" for k in ("mean", "atoms", "model"))
        lines.append((f"MAE of {row['target']}", str(row["unit"]), str(row["molecules"]), *numbers))
    return format_table(lines)


def draw_parities(path: Path, names: Sequence[str], tested: Tested) -> None:
    """A panel for each target: predicted against true values; those that grow with the molecule less their atoms.

    Args:
        path: PNG to write.
        names: of the scalars, then of the vectors.
        tested: all of the test; what has no label is left out.
    """
    panels = []
    for column, name in enumerate(names):
        target, title = TARGETS[name], f"{name}, components" if TARGETS[name].vector else name
        if target.vector:
            place = column - tested.scalars.shape[1]
            true, predicted = (part[:, place].flatten() for part in (tested.true_vectors, tested.vectors))
        else:
            offset = tested.atoms[:, column] if target.additive else 0.0
            true, predicted = (part[:, column] - offset for part in (tested.true_scalars, tested.scalars))
            title += ", less its atoms" if target.additive else ""
        known = ~true.isnan()
        if bool(known.any()):
            panels.append((target.per_unit * true[known], target.per_unit * predicted[known], title, target.shown))
    with figure(path, columns=len(panels)) as axes:
        for axis, panel in zip(axes, panels, strict=True):
            draw_parity(axis, *panel)


def _row(name: str, title: str, mean: Tensor, atoms: Tensor | None, model: Tensor) -> dict[str, float | str | None]:
    factor = TARGETS[name].per_unit

    def of(errors: Tensor | None) -> float | None:
        return None if errors is None else factor * float(errors.double().nanmean())

    known = int((~model.isnan()).sum())
    return {
        "target": title,
        "unit": TARGETS[name].shown,
        "molecules": known,
        "mean": of(mean),
        "atoms": of(atoms),
        "model": of(model),
    }
