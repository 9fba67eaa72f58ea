"""Operators one by one (K1 to K6 of the benchmark plan, and the spline family), at the size of a case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ponita import EdgeSet
from ponita.geometry.edges import transpose
from ponita.ops import backends, reference, segment_sum, spline_taps
from ponita.tasks.bench import rates
from ponita.tasks.bench.cases import Case, convert
from ponita.tasks.bench.gate import relative
from ponita.tasks.bench.measure import FULL, interleaved

TOLERANCE = 1e-5  # of a float32 operator against the reference in float64, relative
CHECKED = 10_000  # edges of the part of a large case on which operators are checked
INNER = 10  # calls in one timed repetition: a call takes a few milliseconds
NUM_TAPS = 16

Operator = Callable[[ModuleType, "Operands"], Tensor]
Works = dict[str, dict[str, Callable[[], object]]]


@dataclass
class Operands:
    """Random arguments of all operators.

    Attributes:
        x, g: [N, O, C].
        kernel: [P, O, C].
        basis: [P, O, B] and weight: [C, B], whose product is a kernel.
        weights: [P, O, 16] and corner: [P, O] of the spline, table: [K, C], and stride: nodes in a row of it.
        graph: the tensors of the graph's pairs; two_way: how many pairs stand for two edges.
        edge_index: [2, E], every directed edge.
    """

    x: Tensor
    g: Tensor
    kernel: Tensor
    basis: Tensor
    weight: Tensor
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


def operands(case: Case, inputs: dict[str, Any] | None = None) -> Operands:
    """Arguments of the size of a case's network.

    Args:
        case: whose network.
        inputs: whose graph; the case's where None.
    """
    generator = torch.Generator().manual_seed(0)
    inputs, sizes = case.inputs if inputs is None else inputs, case.sizes
    num_nodes, channels = inputs["pos"].shape[0], sizes["C"]
    edges = EdgeSet.from_edge_index(inputs["edge_index"], num_nodes, inputs.get("edge_shift"))
    shape = (edges.num_pairs, sizes["O"])
    rows, columns = case.lattice
    coords = torch.rand(*shape, 2, generator=generator) * (torch.tensor([rows, columns]) - 1)
    weights, corner = spline_taps(coords, (rows, columns))

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator).to(case.device)

    return Operands(
        x=draw(num_nodes, sizes["O"], channels),
        g=draw(num_nodes, sizes["O"], channels),
        kernel=draw(*shape, channels),
        basis=draw(*shape, sizes["B"]),
        weight=draw(channels, sizes["B"]),
        weights=weights.to(case.device),
        corner=corner.to(case.device),
        table=draw((rows + 2) * (columns + 2), channels),
        stride=columns + 2,
        graph=edges.graph,
        two_way=edges.num_two_way,
        edge_index=edges.edge_index,
    )


#: Every operator as a call of a backend's module.
OPERATORS: dict[str, Operator] = {
    "K1 pair_conv": lambda ops, a: ops.pair_conv(a.x, a.kernel, a.graph, a.two_way),
    "K2 pair_conv, transposed": lambda ops, a: ops.pair_conv(a.g, a.kernel, transpose(a.graph), a.two_way),
    "K3 pair_product": lambda ops, a: ops.pair_product(a.x, a.g, a.graph, a.two_way),
    "K4 basis_conv": lambda ops, a: ops.basis_conv(a.x, a.basis, a.weight, a.graph, a.two_way),
    "K5 basis_gradient": lambda ops, a: ops.basis_gradient(a.x, a.g, a.weight, a.graph, a.two_way),
    "K6 weight_gradient": lambda ops, a: ops.weight_gradient(a.x, a.g, a.basis, a.graph, a.two_way),
    "spline_conv": lambda ops, a: ops.spline_conv(a.x, a.weights, a.table, a.corner, a.stride, a.graph, a.two_way),
    "spline_weight_gradient": lambda ops, a: ops.spline_weight_gradient(
        a.x, a.g, a.table, a.corner, a.stride, a.graph, a.two_way
    ),
    "spline_table_gradient": lambda ops, a: ops.spline_table_gradient(
        a.x, a.g, a.weights, a.corner, a.stride, len(a.table), a.graph, a.two_way
    ),
}


def least_work(a: Operands) -> dict[str, dict[str, int]]:
    """Bytes that each operator must read and write, every operand once, and its floating-point operations."""
    fields, kernel, basis = (4 * t.numel() for t in (a.x, a.kernel, a.basis))
    taps = 4 * (a.weights.numel() + a.corner.numel() + a.table.numel())
    samples, channels = a.kernel.shape[0] * a.kernel.shape[1], a.kernel.shape[2]
    sums = 2 * (a.kernel.shape[0] + a.two_way) * a.kernel.shape[1] * channels
    products = 2 * samples * channels * a.basis.shape[2]
    pair = {"bytes": 2 * fields + kernel, "flops": sums}
    stream = {"bytes": 2 * fields + basis + 4 * a.weight.numel(), "flops": sums + products}
    spline = {"bytes": 2 * fields + taps, "flops": sums + 2 * samples * channels * NUM_TAPS}
    families = {"K1": pair, "K2": pair, "K3": pair, "K4": stream, "K5": stream, "K6": stream}
    return {name: families.get(name.split()[0], spline) for name in OPERATORS}


def eager_works(a: Operands) -> dict[str, Callable[[], Tensor]]:
    """What the published code does in the place of an operator, with a basis or kernel for every directed edge."""
    sender, receiver = a.edge_index
    shape = (sender.numel(), a.x.shape[1])
    kernel = torch.randn(*shape, a.x.shape[2], device=a.x.device)
    basis = torch.randn(*shape, a.basis.shape[2], device=a.x.device)
    return {
        "K1 pair_conv": lambda: segment_sum(kernel * a.x[sender], receiver, len(a.x)),
        "K2 pair_conv, transposed": lambda: segment_sum(kernel * a.g[receiver], sender, len(a.x)),
        "K3 pair_product": lambda: a.x[sender] * a.g[receiver],
        "K4 basis_conv": lambda: segment_sum((basis @ a.weight.T) * a.x[sender], receiver, len(a.x)),
        "K5 basis_gradient": lambda: (a.x[sender] * a.g[receiver]) @ a.weight,
        "K6 weight_gradient": lambda: (a.x[sender] * a.g[receiver]).flatten(0, 1).T @ basis.flatten(0, 1),
    }


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Check and time the operators one by one; as `ponita.tasks.bench.suite.measure`."""
    a = operands(case)
    errors, failed = check(case)
    timed = works(a, [name for name in errors if name not in failed])
    part = {
        "kind": "operators",
        "about": f"operators at the size of {case.name}; the eager form has a kernel for every directed edge",
        "sizes": case.sizes,
        "notes": {},
        "skipped": dict(backends.unavailable()),
        "errors": errors,
        "failed": failed,
        "work": least_work(a),
        "rates": {
            "copy": rates.copy_rate(4 * a.kernel.numel(), case.device, 5 * repeats),
            "product": rates.product_rate(case.device, repeats),
        },
        "seconds": {},
    }
    for name, by_backend in timed.items():
        timings = interleaved(by_backend, repeats)
        part["skipped"] |= {f"{backend}, {name}": FULL for backend in by_backend.keys() - timings.keys()}
        for backend, timing in timings.items():
            part["seconds"].setdefault(backend, {})[name] = [s / INNER for s in timing.seconds]
    return part


def check(case: Case) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Errors of the device's backends against the reference in float64, and for those that fail the reason.

    Args:
        case: whose sizes to take; of a large one, a part.
    """
    a = operands(case, case.part(CHECKED))
    exact = {name: operator(reference, a.double()) for name, operator in OPERATORS.items()}
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
    return errors, failures


def works(a: Operands, names: Sequence[str]) -> Works:
    """What is timed: by operator and backend, `INNER` calls each.

    Args:
        a: arguments of the operators.
        names: of backends.
    """
    timed: Works = {name: {} for name in OPERATORS}
    for name, work in eager_works(a).items():
        timed[name]["eager"] = _several(work)
    for backend in names:
        module = backends.implementation(backend)
        for name, operator in OPERATORS.items():
            timed[name][backend] = _several(lambda operator=operator, module=module: operator(module, a))
    return timed


def _several(work: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(INNER):
            work()

    return run
