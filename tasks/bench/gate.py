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
from ponita.tasks.bench.variants import TABLE_RTOL, Variant

EXACT = 1e-8  # largest relative error in float64 of a variant that is the same function
SLACK = 10.0  # a float32 variant may have this many times the rounding error of the reference in float32
DERIVATIVE = 1e-6  # forces of spline kernels against central differences of their energies, in float64

Errors = dict[str, float]


def check(case: Case, variants: Mapping[str, Variant]) -> tuple[dict[str, Errors], dict[str, str]]:
    """Compare every variant with the eager reference (a spline: with itself in plain torch).

    In float64, energies and forces, and for what is trained the gradients of a force loss; and in float32, as it is
    timed, the forces. What is compiled is compared as it is timed only: energies, forces and gradients in float32.

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
        if variant.kind == "compiled":
            errors[name], limits = _compiled_errors(case, variant)
        elif variant.kind == "captured":
            errors[name], limits = _captured_errors(case, variant, rounding)
        else:
            if variant.kind == "spline":
                spline = spline or _plain_spline(variant.model, double)
            errors[name] = _errors(variant, spline if variant.kind == "spline" else exact, double, single)
            limits = _limits(variant.kind, rounding)
        reason = verdict(errors[name], limits)
        if reason:
            failures[name] = reason
    return errors, failures


def verdict(errors: Errors, limits: Mapping[str, float]) -> str:
    """Why a variant fails; empty if it does not.

    Args:
        errors: its relative errors.
        limits: the largest of each that is allowed.
    """
    wrong = [
        f"{key} {error:.1e} (allowed {limits[key]:.1e})" for key, error in errors.items() if not error <= limits[key]
    ]
    return "relative errors too large: " + ", ".join(wrong) if wrong else ""


def _errors(variant: Variant, expected: Mapping[str, Tensor], double: Inputs, single: Inputs) -> Errors:
    found = results(variant.model, variant.prepare(double), gradients=variant.kind != "tabulated")
    errors = {key: relative(found[key], expected[key]) for key in found}
    if variant.kind == "spline":
        errors["forces against differences"] = difference_error(variant.model, variant.prepare(double), found["forces"])
    as_timed = results(variant.model, variant.prepare(single), gradients=False)["forces"]
    errors["forces in float32"] = relative(as_timed, expected["forces"])
    return errors


def _limits(kind: str, rounding: float) -> Errors:
    """Allowed errors; `rounding` is the relative error of the eager reference's forces in float32."""
    limit = TABLE_RTOL if kind == "tabulated" else EXACT
    return {
        # What is promised of a table is the error of the forces.
        "energy": float("inf") if kind == "tabulated" else limit,
        "forces": limit,
        "gradients": limit,
        "forces in float32": SLACK * rounding + limit,
        "forces against differences": DERIVATIVE,
    }


def _compiled_errors(case: Case, variant: Variant) -> tuple[Errors, Errors]:
    """Errors in float32 at the size that is timed, so that what is compiled here is what is timed, and their limits."""
    exact = results(from_ponita(case.base().double()), convert(case.inputs, torch.float64))
    eager = results(from_ponita(case.base()), case.inputs)
    energy, forces = variant.calls.energy_forces(variant.model, case.inputs)
    variant.calls.loss(variant.model, case.inputs).backward()
    found = {
        "energy": energy,
        "forces": forces,
        "gradients": torch.cat([g.flatten() for g in _gradients(variant.model)]),
    }
    variant.model.zero_grad()
    errors = {key: relative(value.detach().double(), exact[key]) for key, value in found.items()}
    rounding = max(relative(eager[key], exact[key]) for key in errors)
    return errors, dict.fromkeys(errors, SLACK * rounding + EXACT)


def _captured_errors(case: Case, variant: Variant, rounding: float) -> tuple[Errors, Errors]:
    """Errors of the replay for positions other than the recorded ones, against the same network, both in float32."""
    inputs = variant.prepare(case.inputs)
    variant.calls.energy_forces(variant.model, inputs)
    moved = {**inputs, "pos": inputs["pos"] + 0.01 * torch.sin(100 * inputs["pos"])}
    found, expected = variant.calls.energy_forces(variant.model, moved), energy_forces(variant.model, moved)
    names = ("energy", "forces")
    errors = {name: relative(a.detach(), b.detach()) for name, a, b in zip(names, found, expected, strict=True)}
    return errors, dict.fromkeys(names, SLACK * rounding + EXACT)


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
    return [p.grad for p in model.parameters()]


def _plain_spline(model: Ponita, inputs: Inputs) -> dict[str, Tensor]:
    plain = Ponita(**{**model.config, "backend": "torch"}).to(model.grid.device, model.dtype)
    plain.load_state_dict(model.state_dict())
    return results(plain, inputs)
