"""Turning a trained network into its spline form, and measuring what that changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ponita.geometry import radius_graph
from ponita.models.ponita import Ponita

NUM_SAMPLE_POINTS = 32


class TabulationError(NamedTuple):
    """How far a tabulated network is from the one it was made of.

    Attributes:
        outputs: rms difference of the outputs over their rms (of energies: beware of a large constant).
        forces: the same for the gradient of the summed outputs with respect to the positions.
        nodes: of the lattice.
    """

    outputs: float
    forces: float
    nodes: tuple[int, int]


def tabulate(
    model: Ponita,
    nodes: tuple[int, int] = (128, 64),
    *,
    radius: float | None = None,
    rtol: float | None = None,
    batch: Mapping[str, Any] | None = None,
) -> Ponita:
    """A frozen copy of a network with spline kernels on a lattice, for inference.

    The weights are the same; basis functions are evaluated once at the nodes, with all layers' projections, instead of
    at every pair and orientation. The copy is in eval mode and its parameters require no gradient.

    Args:
        model: network on a space with directions.
        nodes: of the lattice, along o.r and |r_perp|.
        radius: length of the farthest pair, for a network without a cutoff.
        rtol: largest relative force error allowed.
        batch: arguments of the network by name to measure the error on; a random cloud of points where None.

    Returns:
        The copy; its attribute `tabulation` is the `TabulationError` measured.

    Raises:
        ValueError: if the error is larger than `rtol`, or the network has neither a cutoff nor a radius is given.
    """
    config = {**model.config, "kernel": "spline", "lattice": tuple(nodes), "radius": radius or model.config["radius"]}
    fast = Ponita(**config).to(dtype=model.dtype, device=model.grid.device)
    fast.set_grid(model.grid)
    fast.load_state_dict(model.state_dict())
    fast.eval().requires_grad_(False)
    inputs = _sample(model, fast.lattice.radius) if batch is None else dict(batch)
    fast.tabulation = TabulationError(*_errors(model, fast, inputs), nodes=tuple(nodes))
    if rtol is not None and not fast.tabulation.forces <= rtol:
        raise ValueError(
            f"on {nodes[0]} x {nodes[1]} nodes the relative force error is {fast.tabulation.forces:.1e}, larger than "
            f"rtol={rtol:.1e}; use more nodes (each doubling divides the error by about 8), or a shorter cutoff."
        )
    return fast


def _errors(model: Ponita, fast: Ponita, inputs: dict[str, Any]) -> tuple[float, float]:
    exact, ours = _evaluate(model, inputs), _evaluate(fast, inputs)
    return tuple(float((a - b).norm() / a.norm()) for a, b in zip(exact, ours, strict=True))


def _evaluate(model: Ponita, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """All outputs in a row, and the gradient of their sum with respect to the positions."""
    with torch.enable_grad():
        pos = inputs["pos"].detach().clone().requires_grad_()
        outputs = torch.cat([part.flatten() for part in model(**{**inputs, "pos": pos})])
        (gradient,) = torch.autograd.grad(outputs.sum(), pos)
    return outputs.detach(), gradient


def _sample(model: Ponita, radius: float) -> dict[str, Any]:
    """A cloud of points that fills the reach of the kernels, with random features."""
    generator = torch.Generator().manual_seed(0)
    device, dtype, dim = model.grid.device, model.dtype, model.space.dim

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

    directions = torch.nn.functional.normalize(draw(NUM_SAMPLE_POINTS, dim), dim=1)
    shells = torch.linspace(0.1, 1.0, NUM_SAMPLE_POINTS, device=device, dtype=dtype)[:, None]
    pos = 0.5 * radius * shells ** (1 / dim) * directions
    inputs = {"pos": pos, "edge_index": radius_graph(pos, 2 * radius, loops=True)}
    if model.config["in_channels"]:
        inputs["x"] = draw(NUM_SAMPLE_POINTS, model.config["in_channels"])
    if model.config["in_vector_channels"]:
        inputs["vec"] = draw(NUM_SAMPLE_POINTS, model.config["in_vector_channels"], dim)
    return inputs
