"""Pictures common to all tasks."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor


@contextmanager
def figure(path: Path, columns: int = 1, width: float = 4.6, height: float = 3.8) -> Iterator[list[Axes]]:
    """Axes in a row, saved to a PNG when the block ends. No global state of matplotlib is touched.

    Args:
        path: file to write.
        columns: number of axes.
        width: of one of them, inches.
        height: inches.
    """
    fig = Figure(figsize=(columns * width, height), layout="constrained")
    FigureCanvasAgg(fig)
    yield list(fig.subplots(1, columns, squeeze=False)[0])
    fig.savefig(path, dpi=130)


def read_metrics(path: Path) -> dict[str, dict[int, float]]:
    """metrics.csv as name -> {epoch: value}; of an epoch logged twice (by a resumed run) the last counts."""
    curves: dict[str, dict[int, float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if not row.get("epoch"):
                continue
            for name, value in row.items():
                if value and name not in ("epoch", "step"):
                    curves.setdefault(name, {})[int(float(row["epoch"]))] = float(value)
    return curves


def draw_learning_curve(metrics: Path, path: Path, units: Mapping[str, str]) -> None:
    """One panel for the training losses and one for each validation metric, against epochs.

    Args:
        metrics: a metrics.csv.
        path: PNG to write.
        units: of the metrics that have one.
    """
    curves = read_metrics(metrics)
    train = {k: v for k, v in curves.items() if k.startswith("train/")}
    valid = {k: v for k, v in curves.items() if k.startswith("valid/")}
    panels = ([train] if train else []) + [{name: curve} for name, curve in sorted(valid.items())]
    if not panels:
        return
    with figure(path, columns=len(panels)) as axes:
        for axis, panel in zip(axes, panels, strict=True):
            for name, curve in sorted(panel.items()):
                epochs = sorted(curve)
                marker = "o" if len(epochs) < 2 else None
                axis.plot(epochs, [curve[e] for e in epochs], label=name, linewidth=1.4, marker=marker)
            # Accuracies crowd at one, where a logarithm shows nothing.
            scale = "linear" if all(name.endswith("accuracy") for name in panel) else "log"
            axis.set(xlabel="epoch", yscale=scale, title=_title(panel, units))
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.grid(alpha=0.3, which="both")
            if len(panel) > 1:
                axis.legend(frameon=False)


def _title(panel: Mapping[str, object], units: Mapping[str, str]) -> str:
    if len(panel) > 1:
        return "training"
    name = next(iter(panel))
    return f"{name} ({units[name]})" if name in units else name


def draw_parity(axis: Axes, true: Tensor, predicted: Tensor, title: str, unit: str) -> None:
    """Predicted against true values with the diagonal and the mean absolute error.

    Args:
        axis: to draw on.
        true: [K].
        predicted: [K].
        title: of the panel.
        unit: of both.
    """
    low, high = float(true.min()), float(true.max())
    axis.plot([low, high], [low, high], color="0.6", linewidth=1)
    axis.plot(true.numpy(), predicted.numpy(), ".", markersize=2, alpha=0.5, rasterized=True)
    error = float((true - predicted).abs().mean())
    axis.set(xlabel=f"true ({unit})", ylabel=f"predicted ({unit})", title=f"{title}: MAE {error:.3g} {unit}")
    axis.grid(alpha=0.3)


def format_table(rows: list[tuple[str, ...]]) -> str:
    """Left-aligned first column, right-aligned others, a rule under the first row."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
