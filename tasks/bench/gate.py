"""Correctness before speed: a variant that computes something else is not timed."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ponita import Ponita
from ponita.tasks.bench.cases import Case, Inputs, convert
from ponita.tasks.bench.eager import EagerReference, from_ponita, gradients_like
from ponita.tasks.bench.measure import energy_forces, loss
from ponita.tasks.bench.variants import TABLE_RTOL, EveryEdge, Variant

EXACT = 1e-8  # largest relative error in float64 of a variant that is the same function
SLACK = 10.0  # a float32 variant may have this many times the rounding error of the reference in float32
DERIVATIVE = 1e-6  # forces of spline kernels against central differences of their energies, in float64

Errors = dict[str, float]


def check(case: Case, variants: Mapping[str, Variant]) -> tuple[dict[str, Errors], dict[str, str]]:
    """Compare every variant with the eager reference (a spline: with itself in plain torch).

    In float64, energies and forces, and for what is trained the gradients of a force loss; and in float32, as it is
    timed, the forces.

    Args:
        case: what they are for.
        variants: with "eager" among them.

    Returns:
        Relative errors by variant, and for those that fail the reason.
    """
    double, single = (convert(case.gate_inputs(), dtype) for dtype in (torch.float64, torch.float32))
    # Made in float64 from the start: a third of a weight is another number in float32.
    exact = results(from_ponita(case.base().double()), double)
    rounding = relative(results(variants["eager"].model, single, gradients=False)["forces"], exact["forces"])
    spline = None
    errors: dict[str, Errors] = {"eager": {"forces in float32": rounding}}
    failures: dict[str, str] = {}
    for name, variant in variants.items():
        if name == "eager" or variant.kind == "peer":
            continue
        found = results(variant.model, double, gradients=variant.kind != "tabulated")
        if variant.kind == "spline":
            spline = spline or _plain_spline(variant.model, double)
        expected = spline if variant.kind == "spline" else exact
        errors[name] = {key: relative(found[key], expected[key]) for key in found}
        if variant.kind == "spline":
            errors[name]["forces against differences"] = difference_error(variant.model, double, found["forces"])
        as_timed = results(variant.model, single, gradients=False)["forces"]
        errors[name]["forces in float32"] = relative(as_timed, expected["forces"])
        reason = verdict(variant.kind, errors[name], rounding)
        if reason:
            failures[name] = reason
    return errors, failures


def verdict(kind: str, errors: Errors, rounding: float) -> str:
    """Why a variant fails; empty if it does not.

    Args:
        kind: of the variant.
        errors: its relative errors.
        rounding: relative error of the eager reference's forces in float32.
    """
    limit = TABLE_RTOL if kind == "tabulated" else EXACT
    limits = {"forces in float32": SLACK * rounding + limit, "forces against differences": DERIVATIVE}
    if kind == "tabulated":
        limits["energy"] = float("inf")  # what is promised is the error of the forces
    wrong = [
        f"{key} {error:.1e} (allowed {limits.get(key, limit):.1e})"
        for key, error in errors.items()
        if not error <= limits.get(key, limit)
    ]
    return "relative errors too large: " + ", ".join(wrong) if wrong else ""


def results(model: nn.Module, inputs: Inputs, gradients: bool = True) -> dict[str, Tensor]:
    """Energies, forces and all gradients of a force loss in a row, by a copy in the precision of the inputs."""
    model = copy.deepcopy(model).to(inputs["pos"].dtype)
    energy, forces = energy_forces(model, inputs)
    found = {"energy": energy.detach(), "forces": forces.detach()}
    if gradients:
        loss(model, inputs).backward()
        found["gradients"] = torch.cat([g.flatten() for g in _gradients(model)])
    return {name: value.double() for name, value in found.items()}


def relative(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|."""
    return float((found - expected).norm() / expected.norm())


def difference_error(model: nn.Module, inputs: Inputs, forces: Tensor, step: float = 1e-4) -> float:
    """Relative error of the forces along a random direction, against a central difference of the energies."""
    model = copy.deepcopy(model).double()
    direction = torch.randn(forces.shape, generator=torch.Generator().manual_seed(0), dtype=forces.dtype).to(forces)
    with torch.no_grad():
        up, down = (
            model(**{**inputs, "pos": inputs["pos"] + sign * step * direction}).scalars.sum() for sign in (1, -1)
        )
    slope = (up - down) / (2 * step)
    return float(((forces * direction).sum() + slope).abs() / (forces.norm() * direction.norm()))


def _gradients(model: nn.Module) -> list[Tensor]:
    """In the order and shapes of the network's parameters, whatever form it is in."""
    if isinstance(model, EagerReference):
        # The names and shapes are those of the network it restates.
        network = Ponita(**{**model.config, "backend": "torch"}).to(model.grid.device)
        return list(gradients_like(network, model).values())
    network = model.network if isinstance(model, EveryEdge) else model
    return [p.grad for p in network.parameters()]


def _plain_spline(model: Ponita, inputs: Inputs) -> dict[str, Tensor]:
    plain = Ponita(**{**model.config, "backend": "torch"}).to(model.grid.device, model.dtype)
    plain.load_state_dict(model.state_dict())
    return results(plain, inputs)
