"""Operators one by one (K1 to K3 of the benchmark plan, and the spline family), on the graph of five aspirins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from ponita import EdgeSet
from ponita.geometry.edges import transpose
from ponita.ops import backends, reference, segment_sum, spline_taps
from ponita.tasks.bench.cases import Case, convert
from ponita.tasks.bench.gate import relative

TOLERANCE = 1e-5  # of a float32 operator against the reference in float64, relative
INNER = 10  # calls in one timed repetition: a call takes a few milliseconds

Operator = Callable[[ModuleType, "Operands"], Tensor]


@dataclass
class Operands:
    """Random arguments of all operators.

    Attributes:
        x, g: [N, O, C].
        kernel: [P, O, C].
        weights: [P, O, 16] and corner: [P, O] of the spline, table: [K, C], and stride: nodes in a row of it.
        graph: the tensors of the graph's pairs; two_way: how many pairs stand for two edges.
        edge_index: [2, E], every directed edge.
    """

    x: Tensor
    g: Tensor
    kernel: Tensor
    weights: Tensor
    corner: Tensor
    table: Tensor
    stride: int
    graph: Sequence[Tensor]
    two_way: int
    edge_index: Tensor

    def double(self) -> Operands:
        """The same numbers in float64."""
        return Operands(**convert(vars(self), torch.float64))


def operands(case: Case) -> Operands:
    """Arguments of the size of a case's network."""
    generator = torch.Generator().manual_seed(0)
    sizes = case.sizes
    edges = EdgeSet.from_edge_index(case.inputs["edge_index"], sizes["N"], case.inputs.get("edge_shift"))
    shape = (edges.num_pairs, sizes["O"])
    rows, columns = case.lattice
    coords = torch.rand(*shape, 2, generator=generator) * (torch.tensor([rows, columns]) - 1)
    weights, corner = spline_taps(coords, (rows, columns))

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator).to(case.device)

    fields = (sizes["N"], sizes["O"], sizes["C"])
    return Operands(
        draw(*fields),
        draw(*fields),
        draw(*shape, sizes["C"]),
        weights.to(case.device),
        corner.to(case.device),
        draw((rows + 2) * (columns + 2), sizes["C"]),
        columns + 2,
        edges.graph,
        edges.num_two_way,
        edges.edge_index,
    )


#: Every operator as a call of a backend's module.
OPERATORS: dict[str, Operator] = {
    "K1 pair_conv": lambda ops, a: ops.pair_conv(a.x, a.kernel, a.graph, a.two_way),
    "K2 pair_conv, transposed": lambda ops, a: ops.pair_conv(a.g, a.kernel, transpose(a.graph), a.two_way),
    "K3 pair_product": lambda ops, a: ops.pair_product(a.x, a.g, a.graph, a.two_way),
    "spline_conv": lambda ops, a: ops.spline_conv(a.x, a.weights, a.table, a.corner, a.stride, a.graph, a.two_way),
    "spline_weight_gradient": lambda ops, a: ops.spline_weight_gradient(
        a.x, a.g, a.table, a.corner, a.stride, a.graph, a.two_way
    ),
    "spline_table_gradient": lambda ops, a: ops.spline_table_gradient(
        a.x, a.g, a.weights, a.corner, a.stride, len(a.table), a.graph, a.two_way
    ),
}


def eager_works(a: Operands) -> dict[str, Callable[[], Tensor]]:
    """What the published code does in the place of an operator, with a stored kernel for every directed edge."""
    sender, receiver = a.edge_index
    kernel = torch.randn(sender.numel(), *a.x.shape[1:], device=a.x.device)
    return {
        "K1 pair_conv": lambda: segment_sum(kernel * a.x[sender], receiver, len(a.x)),
        "K2 pair_conv, transposed": lambda: segment_sum(kernel * a.g[receiver], sender, len(a.x)),
        "K3 pair_product": lambda: a.x[sender] * a.g[receiver],
    }


def works(case: Case) -> tuple[dict[str, dict[str, Callable[[], object]]], dict[str, str], dict, dict[str, str]]:
    """What is timed: by operator and backend, `INNER` calls each; only what agrees with the reference in float64.

    Args:
        case: whose sizes to take.

    Returns:
        works by operator and backend, backends that are missing with the reason, relative errors by backend and
        operator, and failures by backend.
    """
    a = operands(case)
    exact = {name: operator(reference, a.double()) for name, operator in OPERATORS.items()}
    timed: dict[str, dict[str, Callable[[], object]]] = {name: {} for name in OPERATORS}
    for name, work in eager_works(a).items():
        timed[name]["eager"] = _several(work)
    errors: dict[str, dict[str, float]] = {}
    failures: dict[str, str] = {}
    for backend in backends.available():
        if case.device.type not in backends.DEVICES.get(backend, (case.device.type,)):
            continue
        module = backends.implementation(backend)
        found = {name: relative(operator(module, a).double(), exact[name]) for name, operator in OPERATORS.items()}
        errors[backend] = found
        wrong = [f"{name} {error:.1e}" for name, error in found.items() if not error <= TOLERANCE]
        if wrong:
            failures[backend] = f"relative errors above {TOLERANCE:.0e}: {', '.join(wrong)}"
            continue
        for name, operator in OPERATORS.items():
            timed[name][backend] = _several(lambda operator=operator, module=module: operator(module, a))
    return timed, dict(backends.unavailable()), errors, failures


def _several(work: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(INNER):
            work()

    return run
