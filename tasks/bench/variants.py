"""The forms of one network that are compared: same weights, different kernels and backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import nn

from ponita import EdgeSet, Ponita
from ponita.ops import backends
from ponita.tasks.bench import captured, peers
from ponita.tasks.bench.cases import Case, Inputs
from ponita.tasks.bench.compiled import Compiled
from ponita.tasks.bench.eager import from_ponita
from ponita.tasks.bench.measure import EAGER, INFERENCE, MEASURES, Calls

TABLE_NODES = ((128, 64), (192, 96), (256, 128))
TABLE_RTOL = 1e-4
TABLE_EDGES = 10_000  # of a large system, about so many edges to measure the error of a table on
COMPILED = "eager compiled"


@dataclass
class Variant:
    """A model to measure.

    Attributes:
        model: called as `Ponita` is.
        kind: "exact" (the same function as the eager reference), "compiled" (the eager reference, compiled), "spline"
            (a function of its own), "tabulated" (an approximation), "captured" (another variant as CUDA graphs), or
            "peer" (another network).
        measures: names of what is measured.
        note: how it was made, where that needs saying.
        prepare: makes the model's inputs of the case's, once: sorts and matches the edges, as a data loader does.
        calls: how the model is called.
        compiled: what the calls are compiled by, and how long that took.
    """

    model: nn.Module
    kind: str
    measures: tuple[str, ...] = MEASURES
    note: str = ""
    prepare: Callable[[Inputs], Inputs] = dict
    calls: Calls = EAGER
    compiled: Compiled | None = None


def paired(inputs: Inputs) -> Inputs:
    """The same inputs with an `EdgeSet`."""
    edges = EdgeSet.from_edge_index(inputs["edge_index"], inputs["pos"].shape[0], inputs.get("edge_shift"))
    return {**inputs, "edge_index": edges}


def every_edge(inputs: Inputs) -> Inputs:
    """The same with a kernel for every directed edge: what is left when pairs are not stored once."""
    inputs = paired(inputs)
    return {**inputs, "edge_index": inputs["edge_index"].without_pairs()}


def build(
    case: Case, wanted: tuple[str, ...] = (), compiled: bool = False
) -> tuple[dict[str, Variant], dict[str, str]]:
    """All variants for a case that can be made here.

    Args:
        case: what they are for.
        wanted: their names; all but the compiled one where empty. The eager reference is always among them.
        compiled: with the compiled one, which takes minutes to compile.

    Returns:
        The variants by name, and the reasons of those that cannot be made.

    Raises:
        ValueError: for an unknown name.
    """
    base = case.base()
    makers = _makers(case, base)
    unknown = set(wanted) - makers.keys()
    if unknown:
        raise ValueError(f"variants {sorted(unknown)} are unknown; expected among {list(makers)}.")
    chosen = {"eager", *wanted} if wanted else makers.keys() - {COMPILED}
    chosen |= {COMPILED} if compiled else set()
    variants, skipped = {}, {}
    for name in (name for name in makers if name in chosen):
        try:
            variants[name] = makers[name]()
        except (ImportError, TypeError, ValueError) as error:
            # A variant that this version or this machine cannot make is told, and the others are measured.
            skipped[name] = f"{type(error).__name__}: {error}"
    return variants, skipped


def fastest(case: Case) -> tuple[str, str]:
    """The names of the mlp and the spline variant that backend="auto" is on the case's device."""
    backend = backends.resolve("auto", case.device.type)
    return f"mlp {backend}", f"spline {backend}"


def _makers(case: Case, base: Ponita) -> Mapping[str, Callable[[], Variant]]:
    def exact(backend: str) -> Ponita:
        return _like(base, backend=backend)

    def spline(backend: str) -> Ponita:
        return _like(base, backend=backend, kernel="spline")

    makers: dict[str, Callable[[], Variant]] = {
        "eager": lambda: Variant(from_ponita(base), "exact"),
        COMPILED: lambda: _compiled(from_ponita(base)),
        "mlp torch, every edge": lambda: Variant(exact("torch"), "exact", prepare=every_edge),
    }
    device = case.device.type
    names = [name for name in backends.MODULES if name != "scatter" and device in backends.DEVICES.get(name, (device,))]
    for name in names:
        makers[f"mlp {name}"] = lambda name=name: Variant(exact(name), "exact", prepare=paired)
    nodes = "{} x {} nodes".format(*case.lattice)
    for name in names:
        makers[f"spline {name}"] = lambda name=name: Variant(spline(name), "spline", note=nodes, prepare=paired)
    for name in names:
        makers[f"tabulated {name}"] = lambda name=name: _tabulated(exact(name), case)
    if device == "cuda":
        for name in fastest(case):
            makers[f"{name}, CUDA graph"] = lambda name=name: _captured(makers[name]())
    for name, make in peers.MAKERS.items():
        makers[name] = lambda make=make: Variant(make(case).to(case.device), "peer")
    return makers


def _like(base: Ponita, **changes: object) -> Ponita:
    """A network with the same weights and other options."""
    model = Ponita(**{**base.config, **changes}).to(base.grid.device)
    model.load_state_dict(base.state_dict())
    return model


def _compiled(model: nn.Module) -> Variant:
    compiled = Compiled()
    return Variant(model, "compiled", calls=compiled.calls, compiled=compiled)


def _captured(variant: Variant) -> Variant:
    return replace(variant, kind="captured", measures=INFERENCE, calls=captured.calls())


def _tabulated(model: Ponita, case: Case) -> Variant:
    """On the first of `TABLE_NODES` whose measured force error is small enough."""
    for nodes in TABLE_NODES:
        table = model.tabulate(nodes=nodes, batch=case.part(TABLE_EDGES))
        if table.tabulation.forces < 0.9 * TABLE_RTOL:  # a margin, as the gate measures in another precision
            break
    return Variant(table, "tabulated", INFERENCE, f"{nodes[0]} x {nodes[1]} nodes", paired)
