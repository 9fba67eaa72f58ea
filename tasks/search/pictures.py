"""Pictures of searches: whether the state of a controller tells what it decided."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.axes import Axes
from torch import Tensor

from ponita.tasks.pictures import figure

if TYPE_CHECKING:
    from ponita.sharing.search.hidden_states import HiddenStateAnalysis

#: Of the pairs' mean; quantities with fewer different values have one bin for each.
NUM_BINS = 15
#: Of the gap between two values, by which points of one value are spread, so that they do not hide each other.
JITTER = 0.6
LABELS = {"distance": "distance of architectures", "score_difference": "difference of scores"}


def draw_hidden_states(path: Path, analyses: Mapping[str, HiddenStateAnalysis]) -> None:
    """Distance of hidden states against distance of architectures, and against the difference of scores where there are any.

    A panel for each analysis and quantity: every pair, mean and standard deviation in bins, and the rank correlation.

    Args:
        path: PNG to write.
        analyses: by the name of the controller.

    Raises:
        ValueError: for no analysis.
    """
    panels = [
        (name, analysis, target)
        for name, analysis in analyses.items()
        for target in LABELS
        if getattr(analysis, target) is not None
    ]
    if not panels:
        raise ValueError("no analyses; expected at least one, by the name of its controller.")
    with figure(path, columns=len(panels), height=4.2) as axes:
        for axis, (name, analysis, target) in zip(axes, panels, strict=True):
            _draw(axis, name, analysis, target)


def _draw(axis: Axes, name: str, analysis: HiddenStateAnalysis, target: str) -> None:
    x, y = getattr(analysis, target), analysis.l2
    axis.plot(_spread(x), y, ".", markersize=2, alpha=0.25, color="C0", rasterized=True)
    centres, mean, deviation = binned(x, y)
    axis.errorbar(
        centres, mean, deviation, fmt="o-", color="C3", markersize=4, linewidth=1.2, capsize=2, label="mean ± std"
    )
    axis.set(xlabel=LABELS[target], ylabel="L2 distance of hidden states")
    rank = analysis.correlations["l2", target].spearman
    counts = f"{analysis.num_different} of {len(analysis.architectures)} architectures different"
    axis.set_title(f"{name}: Spearman {rank:.2f}\n{counts}", fontsize=10)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="lower right")


def binned(x: Tensor, y: Tensor, num_bins: int = NUM_BINS) -> tuple[Tensor, Tensor, Tensor]:
    """Mean x, and mean and standard deviation of y, for each value of x, or in bins of equally many if there are many values.

    Args:
        x: [P].
        y: [P].
        num_bins: at most.

    Shape:
        [bins], three times
    """
    values, group = x.unique(return_inverse=True)
    if len(values) <= num_bins:
        parts = [(group == i).nonzero()[:, 0] for i in range(len(values))]
    else:
        parts = x.argsort().tensor_split(num_bins)
    means = [torch.stack([quantity[rows].mean() for rows in parts]) for quantity in (x, y)]
    return (*means, torch.stack([y[rows].std(correction=0) for rows in parts]))


def _spread(x: Tensor) -> Tensor:
    values = x.unique()
    if not 1 < len(values) <= NUM_BINS:
        return x
    random = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype) - 0.5
    return x + JITTER * values.diff().min() * random
