"""Training on batches of ever new shapes: what compiles or tunes itself for a shape shows here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ponita.geometry import radius_graph
from ponita.tasks.bench import gate, variants
from ponita.tasks.bench.cases import Case, Inputs
from ponita.tasks.bench.measure import timed

SHAPES = 50


def measure(case: Case, wanted: tuple[str, ...]) -> dict[str, Any]:
    """Time a training step on every one of fifty graphs with different numbers of edges, then on the same again.

    Args:
        case: of isolated molecules, whose points are joined up to fifty radii.
        wanted: names of variants; the eager reference and the library's own choice of kernels where empty.

    Returns:
        Part of a record; see `ponita.tasks.bench.suite.measure`.
    """
    graphs = shapes(case)
    # What is compiled is compiled for the first of these shapes when it is checked.
    made, skipped = variants.build(replace(case, inputs=graphs[0]), wanted or variants.fastest(case))
    made = {name: variant for name, variant in made.items() if variant.kind not in ("tabulated", "peer")}
    errors, failed = gate.check(replace(case, inputs=graphs[0]), made)
    part: dict[str, Any] = {
        "kind": "shapes",
        "about": f"training steps on {len(graphs)} graphs of the points of {case.name}, each with another number of edges",
        "sizes": {"N": case.sizes["N"], "least E": _edges(graphs[0]), "most E": _edges(graphs[-1])},
        "notes": {},
        "skipped": skipped,
        "errors": errors,
        "failed": failed,
        "compile seconds": {name: v.compiled.seconds for name, v in made.items() if v.compiled},
        "graphs compiled": {},
        "seconds": {},
    }
    for name, variant in made.items():
        if name in failed:
            continue
        before = _compiled_graphs()
        work = _steps(variant, [variant.prepare(graph) for graph in graphs])
        part["seconds"][name] = {label: work() for label in ("new shapes", "seen before")}
        part["graphs compiled"][name] = _compiled_graphs() - before
    return part


def shapes(case: Case) -> list[Inputs]:
    """The inputs of a case with the pairs closer than fifty growing radii, all with different numbers of edges."""
    pos, batch = case.inputs["pos"], case.inputs["batch"]
    r = (pos[case.inputs["edge_index"][0]] - pos[case.inputs["edge_index"][1]]).norm(dim=1)
    lengths = r[r > 0].unique()
    radii = lengths[torch.linspace(len(lengths) // 3, len(lengths) - 1, SHAPES).long()]
    graphs = [{**case.inputs, "edge_index": radius_graph(pos, float(s), batch, loops=True)} for s in radii]
    return list({_edges(graph): graph for graph in graphs}.values())


def _steps(variant: variants.Variant, inputs: list[Inputs]) -> Callable[[], list[float]]:
    return lambda: [timed(partial(variant.calls.training_step, variant.model, one)) for one in inputs]


def _edges(inputs: Inputs) -> int:
    return inputs["edge_index"].shape[1]


def _compiled_graphs() -> int:
    """How many graphs torch.compile has made in this process."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]
