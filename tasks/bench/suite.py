"""A case measured: correctness first, then what fits in memory is timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from ponita import EdgeSet
from ponita.tasks.bench import gate, memory, variants
from ponita.tasks.bench.cases import Case
from ponita.tasks.bench.measure import FULL, INFERENCE, MEASURES, Inputs, interleaved, loss
from ponita.tasks.bench.variants import Variant

Part = dict[str, Any]  # of a record, for one case
LARGE = 20_000  # edges from which it is asked first whether a variant fits
PROBES = (500, 2000)  # edges of the parts on which that is measured
#: Peak memory over what autograd keeps, of the energy for the first two and of the loss for the third: the largest of
#: any variant on five aspirins, where the eager reference has 0.3, 1.4 and 1.7.
PEAK_OVER_KEPT = {"forward": 1.0, "energy and forces": 2.1, "training step": 3.0}


def measure(case: Case, wanted: tuple[str, ...], repeats: int, compiled: bool = False) -> Part:
    """Check and time the variants of a case.

    Args:
        case: what to measure.
        wanted: names of variants; all where empty.
        repeats: of every measure.
        compiled: with the compiled eager reference.

    Returns:
        Its part of a record.
    """
    made, skipped = variants.build(case, wanted, compiled)
    limits = {name: reasons for name, variant in made.items() if (reasons := too_large(case, variant))}
    for name, reasons in limits.items():
        skipped |= {f"{name}, {measure}": reason for measure, reason in reasons.items()}
    errors, failed = gate.check(case, made)
    right = {name: variant for name, variant in made.items() if name not in failed}
    inputs = {name: variant.prepare(case.inputs) for name, variant in right.items()}
    part = {
        "about": case.about,
        "sizes": case.sizes,
        "notes": {name: variant.note for name, variant in right.items() if variant.note},
        "skipped": skipped,
        "errors": errors,
        "failed": failed,
        "graph seconds": graph_seconds(case, repeats),
        "compile seconds": {name: v.compiled.seconds for name, v in right.items() if v.compiled},
        "warm-up seconds": {name: {} for name in right},
        "seconds": {name: {} for name in right},
        "bytes": {name: {} for name in right},
    }
    for name in MEASURES:
        works = {
            n: partial(v.calls.named()[name], v.model, inputs[n])
            for n, v in right.items()
            if name in v.measures and name not in limits.get(n, ())
        }
        for variant in right.values():  # weights that no gradient is asked for, as in a simulation
            variant.model.requires_grad_(name not in INFERENCE and variant.kind != "tabulated")
        _time(part, name, works, repeats)
    for name, variant in right.items():
        if "training step" in part["seconds"][name]:
            part["bytes"][name] = _memory(variant, inputs[name])
    part["seconds"] = {name: seconds for name, seconds in part["seconds"].items() if seconds}
    return part


def too_large(case: Case, variant: Variant) -> dict[str, str]:
    """The measures of a variant for which a large system would need more memory than there is, each with the numbers.

    What autograd keeps is measured on two parts of the system and grows linearly with the number of edges.
    """
    free = memory.free_bytes(case.device)
    if case.device.type != "cpu" or case.sizes["E"] <= LARGE or free is None:
        return {}  # a GPU says that its memory is full, and the work goes on
    reasons = {}
    for name in variant.measures:
        function = loss if name == "training step" else _energy
        points = []
        for max_edges in PROBES:
            inputs = variant.prepare(case.part(max_edges))
            edges = inputs["edge_index"]
            size = edges.num_edges if isinstance(edges, EdgeSet) else edges.shape[1]
            points.append((size, memory.saved_bytes(partial(function, variant.model, inputs))))
        need = PEAK_OVER_KEPT[name] * memory.extrapolated(*points, case.sizes["E"])
        if need > free:
            reasons[name] = f"needs about {need / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free"
    return reasons


def graph_seconds(case: Case, repeats: int) -> dict[str, list[float]]:
    """Seconds for the neighbour list, on the CPU, and for sorting its edges and matching pairs, on the device."""
    works: dict[str, Callable[[], object]] = {"pairs": lambda: variants.paired(case.inputs)["edge_index"].graph}
    if case.search is not None:
        works["neighbour list"] = case.search
    return {name: timing.seconds for name, timing in interleaved(works, repeats).items()}


def _energy(model: nn.Module, inputs: Inputs) -> torch.Tensor:
    return model(**{**inputs, "pos": inputs["pos"].detach().requires_grad_()}).scalars


def _time(part: Part, name: str, works: Mapping[str, Callable[[], object]], repeats: int) -> None:
    timings = interleaved(works, repeats)
    for variant, timing in timings.items():
        part["warm-up seconds"][variant][name] = timing.warm_up
        part["seconds"][variant][name] = timing.seconds
    for variant in works.keys() - timings.keys():
        part["skipped"][f"{variant}, {name}"] = FULL


def _memory(variant: Variant, inputs: Inputs) -> dict[str, int | None]:
    step = partial(variant.calls.training_step, variant.model, inputs)
    saved = memory.saved_bytes(partial(variant.calls.loss, variant.model, inputs))
    return {"saved": saved, "peak": memory.peak_bytes(step)}
