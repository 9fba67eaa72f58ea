"""The picture of a calibration: error against spread, with a reliability line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.axes import Axes
from torch import Tensor

from ponita.tasks.pictures import figure

if TYPE_CHECKING:
    from ponita.tasks.ensemble.calibration import Calibration

NUM_BINS = 12


def reliability(error: Tensor, spread: Tensor, num_bins: int = NUM_BINS) -> tuple[Tensor, Tensor]:
    """Root mean square of spread and of error in bins with equal numbers of the K samples, sorted by spread.

    Args:
        error: [K].
        spread: [K].
        num_bins: at most.

    Shape:
        [bins] and [bins]
    """
    order = spread.argsort()
    bins = min(num_bins, len(order))
    parts = [(spread[rows], error[rows]) for rows in order.tensor_split(bins)]
    return tuple(torch.stack([x.square().mean().sqrt() for x in values]) for values in zip(*parts, strict=True))


def draw_calibration(path: Path, parts: Mapping[str, tuple[Calibration, str]]) -> None:
    """A panel for each quantity.

    Args:
        path: PNG to write.
        parts: calibrations by name, each with its unit.
    """
    with figure(path, columns=len(parts), height=4.2) as axes:
        for axis, (name, (calibration, unit)) in zip(axes, parts.items(), strict=True):
            _draw(axis, name, calibration, unit)


def _draw(axis: Axes, name: str, calibration: Calibration, unit: str) -> None:
    error, spread = calibration.error, calibration.spread
    tiny = torch.finfo(error.dtype).tiny
    axis.plot(spread.clamp(min=tiny), error.clamp(min=tiny), ".", markersize=2, alpha=0.3, color="C0", rasterized=True)
    ends = [float(spread.min()), float(spread.max())]
    axis.plot(ends, ends, color="0.4", linestyle="--", linewidth=1, label="error = spread")
    axis.plot(*reliability(error, spread), "o-", color="C3", markersize=4, linewidth=1.2, label="rms in bins")
    axis.set(xscale="log", yscale="log", xlabel=f"spread ({unit})", ylabel=f"|error| ({unit})")
    axis.set_xlim(left=_lowest(spread))
    axis.set_ylim(bottom=_lowest(error))
    scores = calibration.scores()
    title = f"{name}: rank correlation {scores['spearman']:.2f}, rms error = {scores['error_over_spread']:.2f} spread"
    axis.set_title(title, fontsize=9)
    axis.grid(alpha=0.3, which="both")
    axis.legend(frameon=False, loc="lower right")


def _lowest(values: Tensor) -> float | None:
    """Where an axis begins: few values, and none that are zero, lie below."""
    values = values[values > 0][:1_000_000]
    return 0.8 * float(torch.quantile(values, 0.005)) if len(values) else None
