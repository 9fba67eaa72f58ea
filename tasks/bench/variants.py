"""The forms of one network that are compared: same weights, different kernels and backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ponita import EdgeSet, Output, Ponita
from ponita.ops import backends
from ponita.tasks.bench import peers
from ponita.tasks.bench.cases import Case
from ponita.tasks.bench.eager import from_ponita
from ponita.tasks.bench.measure import INFERENCE, MEASURES

TABLE_NODES = ((128, 64), (192, 96), (256, 128))
TABLE_RTOL = 1e-4


@dataclass
class Variant:
    """A model to measure.

    Attributes:
        model: called as `Ponita` is.
        kind: "exact" (the same function as the eager reference), "spline" (a function of its own), "tabulated" (an
            approximation), or "peer" (another network).
        measures: names of what is measured.
        note: how it was made, where that needs saying.
    """

    model: nn.Module
    kind: str
    measures: tuple[str, ...] = tuple(MEASURES)
    note: str = ""


class EveryEdge(nn.Module):
    """A network with a kernel for every directed edge: what is left when pairs are not stored once."""

    def __init__(self, network: Ponita) -> None:
        super().__init__()
        self.network = network

    def forward(self, pos: Tensor, edge_index: Tensor, edge_shift: Tensor | None = None, **inputs: object) -> Output:
        edges = EdgeSet.from_edge_index(edge_index, pos.shape[0], edge_shift).without_pairs()
        return self.network(pos, edges, edge_shift=edge_shift, **inputs)


def build(case: Case, wanted: tuple[str, ...] = ()) -> tuple[dict[str, Variant], dict[str, str]]:
    """All variants for a case that can be made here.

    Args:
        case: what they are for.
        wanted: their names; all where empty. The eager reference is always among them.

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
    variants, skipped = {}, {}
    for name, make in makers.items():
        if wanted and name not in wanted and name != "eager":
            continue
        try:
            variants[name] = make()
        except (ImportError, TypeError, ValueError) as error:
            # A variant that this version or this machine cannot make is told, and the others are measured.
            skipped[name] = f"{type(error).__name__}: {error}"
    return variants, skipped


def _makers(case: Case, base: Ponita) -> Mapping[str, Callable[[], Variant]]:
    def exact(backend: str) -> Ponita:
        return _like(base, backend=backend)

    def spline(backend: str) -> Ponita:
        return _like(base, backend=backend, kernel="spline")

    makers: dict[str, Callable[[], Variant]] = {
        "eager": lambda: Variant(from_ponita(base), "exact"),
        "mlp torch, every edge": lambda: Variant(EveryEdge(exact("torch")), "exact"),
    }
    device = case.device.type
    names = [name for name in backends.MODULES if name != "scatter" and device in backends.DEVICES.get(name, (device,))]
    for name in names:
        makers[f"mlp {name}"] = lambda name=name: Variant(exact(name), "exact")
    nodes = "{} x {} nodes".format(*case.lattice)
    for name in names:
        makers[f"spline {name}"] = lambda name=name: Variant(spline(name), "spline", note=nodes)
    for name in names:
        makers[f"tabulated {name}"] = lambda name=name: _tabulated(exact(name), case)
    for name, make in peers.MAKERS.items():
        makers[name] = lambda make=make: Variant(make(case.inputs).to(case.device), "peer")
    return makers


def _like(base: Ponita, **changes: object) -> Ponita:
    """A network with the same weights and other options."""
    model = Ponita(**{**base.config, **changes}).to(base.grid.device)
    model.load_state_dict(base.state_dict())
    return model


def _tabulated(model: Ponita, case: Case) -> Variant:
    """On the first of `TABLE_NODES` whose measured force error is small enough."""
    for nodes in TABLE_NODES:
        table = model.tabulate(nodes=nodes, batch=case.inputs)
        if table.tabulation.forces < 0.9 * TABLE_RTOL:  # a margin, as the gate measures in another precision
            break
    return Variant(table, "tabulated", INFERENCE, f"{nodes[0]} x {nodes[1]} nodes")
