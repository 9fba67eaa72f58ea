"""Pictures of the superpixel task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from torch import Tensor

from ponita.tasks.pictures import figure


def draw_confusion(path: Path, counts: Mapping[str, Tensor], labels: Sequence[int] | None = None) -> None:
    """A panel for each test: how many digits of one class were taken for which.

    Args:
        path: PNG to write.
        counts: by the title of the panel; [K, K], rows the true classes, columns the predicted.
        labels: [K] of the classes; 0 to K - 1 where None.
    """
    with figure(path, columns=len(counts), width=5.2, height=5.0) as axes:
        for axis, (title, matrix) in zip(axes, counts.items(), strict=True):
            _draw_matrix(axis, matrix.cpu(), title, range(len(matrix)) if labels is None else labels)


def _draw_matrix(axis: Axes, counts: Tensor, title: str, labels: Sequence[int]) -> None:
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    # Mistakes are rare: the colour grows with the root of their share, or only the diagonal would show.
    axis.imshow(shares.sqrt().numpy(), cmap="Blues", vmin=0, vmax=1)
    for row, column in counts.nonzero().tolist():
        dark = shares[row, column] > 0.3
        axis.text(
            *(column, row, f"{int(counts[row, column])}"),
            **{"ha": "center", "va": "center", "fontsize": 8, "color": "white" if dark else "black"},
        )
    accuracy = float(counts.diagonal().sum() / counts.sum().clamp(min=1))
    axis.set(xlabel="predicted", ylabel="true", title=f"{title}: {accuracy:.2%} right")
    for ticks in (axis.set_xticks, axis.set_yticks):
        ticks(range(counts.shape[0]), labels)
