"""What is known of the classes seen after each stage: the record, its table, its numbers and its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.ticker import FixedLocator
from torch import Tensor

from ponita.tasks.pictures import figure, format_table
from ponita.tasks.superpixel.pictures import draw_confusion
from ponita.tasks.superpixel.task import AS_GIVEN, ROTATED


@dataclass
class Record:
    """Confusion matrices after every stage, of every method, on images as given and turned.

    Attributes:
        order: the digit at each place of the stream.
        classes_per_stage: that come together.
        counts: by stage, method and way of looking: [10, 10], rows the true classes, as places in the stream.
        seconds: of the processor, for training and measuring.
    """

    order: list[int]
    classes_per_stage: int
    counts: dict[int, dict[str, dict[str, Tensor]]] = field(default_factory=dict)
    seconds: float = 0.0

    def accuracy(self, method: str, stage: int, title: str = AS_GIVEN, classes: slice = slice(None)) -> float:
        """Share of the images of some classes that are put right; of all classes seen, unless others are named."""
        counts = self.counts[stage][method][title]
        return float(counts.diagonal()[classes].sum() / counts[classes].sum())

    def accuracies(self, method: str, title: str = AS_GIVEN) -> list[float]:
        """After each stage, on all classes seen."""
        return [self.accuracy(method, stage, title) for stage in sorted(self.counts)]

    def num_classes(self) -> list[int]:
        """Classes seen after each stage."""
        return [(stage + 1) * self.classes_per_stage for stage in sorted(self.counts)]

    def old_and_new(self, method: str) -> tuple[float | None, float]:
        """Accuracy on old and on new classes, of all classes seen, after the last stage."""
        last = max(self.counts)
        border = last * self.classes_per_stage
        new = self.accuracy(method, last, classes=slice(border, border + self.classes_per_stage))
        return (self.accuracy(method, last, classes=slice(border)) if border else None), new

    def average(self, method: str) -> float:
        """Mean of the accuracies after each stage."""
        found = self.accuracies(method)
        return sum(found) / len(found)


Reports = dict[str, dict[int, dict[str, Any]]]


def numbers(record: Record, reports: Reports) -> dict[str, Any]:
    """All of it, for a JSON file.

    Args:
        record: of the run.
        reports: by method and stage, what alignment did, or would have done.
    """
    last = max(record.counts)
    methods = {}
    for method in record.counts[last]:
        old, new = record.old_and_new(method)
        methods[method] = {
            "accuracy": record.accuracies(method),
            "accuracy_turned": record.accuracies(method, ROTATED),
            "average": record.average(method),
            "old": old,
            "new": new,
            "alignment": {str(stage): report for stage, report in reports[method].items()},
            "confusion": record.counts[last][method][AS_GIVEN].tolist(),
        }
    return {
        "order": record.order,
        "classes": record.num_classes(),
        "cpu_seconds": round(record.seconds, 1),
        "methods": methods,
    }


def tables(record: Record, reports: Reports, title: str) -> str:
    """Accuracies, and norms of the read-outs before alignment.

    Args:
        record: of the run.
        reports: by method and stage, what alignment did, or would have done.
        title: what was learned.
    """
    stages = sorted(record.counts)
    seen = [str(count) for count in record.num_classes()]
    rows = [("accuracy (%) after classes", *seen, "average", "last, turned", "old", "new")]
    for method in record.counts[stages[-1]]:
        old, new = record.old_and_new(method)
        turned = record.accuracy(method, stages[-1], ROTATED)
        values = [*record.accuracies(method), record.average(method), turned, old, new]
        rows.append((method, *("-" if value is None else f"{100 * value:.1f}" for value in values)))
    text = f"{title}\n\n{format_table(rows)}\n\nold, new: classes of the last stage and those before it, among all classes seen."
    if len(stages) < 2:
        return text
    norms = [("norm of old rows / of new rows", *seen[1:])]
    for method, by_stage in reports.items():
        norms.append((method, *(_ratio(by_stage.get(stage)) for stage in stages[1:])))
    return f"{text}\n\n{format_table(norms)}\n\nbefore alignment, which gives new rows this factor, but none above its bound."


def _ratio(report: dict[str, Any] | None) -> str:
    return "-" if report is None else f"{report['norm_old'] / report['norm_new']:.2f}"


def draw_accuracy(path: Path, record: Record) -> None:
    """Accuracy on the classes seen against their number, a line for each method, dashed where images are turned."""
    seen = record.num_classes()
    with figure(path, width=6.4, height=4.4) as (axis,):
        for method in record.counts[max(record.counts)]:
            (line,) = axis.plot(
                seen, [100 * a for a in record.accuracies(method)], marker="o", markersize=4, label=method
            )
            turned = [100 * a for a in record.accuracies(method, ROTATED)]
            axis.plot(seen, turned, linestyle="--", linewidth=1, color=line.get_color())
        axis.plot([], [], linestyle="--", linewidth=1, color="0.3", label=f"images {ROTATED}")
        axis.xaxis.set_major_locator(FixedLocator(seen))
        axis.set(xlabel="classes seen", ylabel="accuracy on them (%)")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)


def draw_last_confusion(path: Path, record: Record) -> None:
    """A panel for each method: which digits were taken for which at the end, in the order they came."""
    last = max(record.counts)
    seen: Sequence[int] = record.order[: record.num_classes()[-1]]
    panels = {m: counts[AS_GIVEN][: len(seen), : len(seen)] for m, counts in record.counts[last].items()}
    draw_confusion(path, panels, labels=seen)
