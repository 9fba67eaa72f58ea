"""Parts of a record as tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

DAY_AT_1_FS = 86.4e-3  # ns a day for a step of 1 fs that takes one second
UNITS = {"ms": 1e3, "s": 1.0}

Rows = list[tuple[str, ...]]


def table(part: Mapping[str, Any]) -> Rows:
    """Rows for one case, the first its head; its kind decides the form.

    Args:
        part: of a record.
    """
    return {"operators": operator_table, "shapes": shape_table}.get(part.get("kind", ""), case_table)(part)


def case_table(part: Mapping[str, Any]) -> Rows:
    """Least time, median and interquartile range of every measure, ratio to the eager reference, rates, and memory."""
    seconds, sizes, kept = part["seconds"], part.get("sizes", {}), part.get("bytes", {})
    measures = list(dict.fromkeys(m for by_measure in seconds.values() for m in by_measure))
    unit, baseline = part.get("unit", "ms"), seconds.get("eager", {})
    rates = "energy and forces" in measures and isinstance(sizes.get("N"), int)
    alone = rates and sizes["G"] == 1
    head = [f"{unit}: least (median, IQR), x faster than eager", *measures]
    head += ["µs/atom"] * rates + ["ns/day (with new lists)"] * alone + ["kept MiB", "peak MiB"] * bool(kept)
    rows = [tuple(head)]
    for variant, by_measure in seconds.items():
        cells = [_cell(by_measure.get(m), baseline.get(m), unit) for m in measures]
        step = by_measure.get("energy and forces")
        if rates:
            cells.append(f"{1e6 * statistics.median(step) / sizes['N']:.1f}" if step else "")
        if alone:
            cells.append(_speed(step, part.get("graph seconds", {})) if step else "")
        sizes_kept = [kept.get(variant, {}).get(kind) for kind in ("saved", "peak")] if kept else []
        rows.append((variant, *cells, *("" if b is None else f"{b / 2**20:.0f}" for b in sizes_kept)))
    return rows


def operator_table(part: Mapping[str, Any]) -> Rows:
    """Time, bandwidth, rate of arithmetic, and fraction of what the machine could reach, of every operator."""
    rows: Rows = [
        ("operator", "backend", "ms: least (median, IQR), x faster than eager", "GB/s", "GFLOP/s", "of the roofline")
    ]
    rates = part["rates"]
    for name, work in part["work"].items():
        bound = max(work["bytes"] / rates["copy"], work["flops"] / rates["product"])
        baseline = part["seconds"].get("eager", {}).get(name)
        for backend, by_operator in part["seconds"].items():
            if name not in by_operator:
                continue
            least = min(by_operator[name])
            numbers = (
                f"{work['bytes'] / least / 1e9:.1f}",
                f"{work['flops'] / least / 1e9:.1f}",
                f"{bound / least:.0%}",
            )
            rows.append((name, backend, _cell(by_operator[name], baseline, "ms"), *numbers))
    return rows


def shape_table(part: Mapping[str, Any]) -> Rows:
    """What a step costs when its shape was never seen, and when it was."""
    rows: Rows = [
        ("variant", "new shapes: all, s", "slowest, ms", "seen before: all, s", "slowest, ms", "graphs compiled")
    ]
    for variant, by_pass in part["seconds"].items():
        cells = [f(by_pass[name]) for name in ("new shapes", "seen before") for f in (_total, _slowest)]
        rows.append((variant, *cells, str(part["graphs compiled"].get(variant, ""))))
    return rows


def remarks(part: Mapping[str, Any]) -> list[str]:
    """What belongs below a table."""
    lines = [f"{name}: {note}" for name, note in part.get("notes", {}).items()]
    graph = part.get("graph seconds", {})
    if graph:
        times = ", ".join(f"{name} {1e3 * statistics.median(seconds):.2f} ms" for name, seconds in graph.items())
        lines.append(f"not in the times: {times}")
    for variant, seconds in part.get("compile seconds", {}).items():
        lines.append(f"{variant}: compiled in " + ", ".join(f"{s:.0f} s ({name})" for name, s in seconds.items()))
    warm = part.get("warm-up seconds", {})
    if warm:
        slowest = max(((s, f"{v}, {m}") for v, by in warm.items() for m, s in by.items()), default=(0.0, ""))
        lines.append(f"slowest first call after the check: {slowest[0]:.2f} s ({slowest[1]})")
    if "rates" in part:
        copy, product = (part["rates"][name] / 1e9 for name in ("copy", "product"))
        lines.append(f"roofline: copying at {copy:.1f} GB/s, float32 products at {product:.0f} GFLOP/s, measured here")
    lines += [f"not measured, {name}: {reason}" for name, reason in part["skipped"].items()]
    return lines + [f"**wrong**, {name}: {reason}" for name, reason in part["failed"].items()]


def spread(values: Sequence[float]) -> float:
    """Distance of the quartiles."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def _cell(seconds: Sequence[float] | None, baseline: Sequence[float] | None, unit: str) -> str:
    if not seconds:
        return ""
    least, median, iqr = (UNITS[unit] * f(seconds) for f in (min, statistics.median, spread))
    digits = 1 if least >= 10 else 2
    text = f"{least:.{digits}f} ({median:.{digits}f}, {iqr:.{digits}f})"
    return text if not baseline else f"{text} {min(baseline) / min(seconds):5.2f}x"


def _speed(step: Sequence[float], graph: Mapping[str, Sequence[float]]) -> str:
    median = statistics.median(step)
    every = median + sum(statistics.median(seconds) for seconds in graph.values())
    return f"{DAY_AT_1_FS / median:.3g} ({DAY_AT_1_FS / every:.3g})"


def _total(seconds: Sequence[float]) -> str:
    return f"{sum(seconds):.2f}"


def _slowest(seconds: Sequence[float]) -> str:
    return f"{1e3 * max(seconds):.1f}"
