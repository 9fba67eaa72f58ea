"""Importer of weights of the published PONITA code (ebekkers/ponita): a state dict of its bundle or R^n model."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from ponita.geometry import get_space, order_antipodally
from ponita.models.checkpoint import load_state
from ponita.models.ponita import Ponita
from ponita.nn import KernelBasis

_RENAMED = (
    (r"^(fiber_)?basis_fn\.1\.", r"\1basis.linear_1."),
    (r"^(fiber_)?basis_fn\.3\.", r"\1basis.linear_2."),
    (r"^x_embedder\.", r"lift.embedding."),
    (r"^interaction_layers\.(\d+)\.", r"blocks.\1."),
    (r"^read_out_layers\.(\d+)\.", r"readouts.\1.linear."),
)
# Buffers that hold no weight: the flag of a finished calibration (spelt so) and the window's constants.
_NOT_WEIGHTS = re.compile(r"(\.callibrated|^windowing_fn\.(p|r_max))$")


def load_reference_checkpoint(
    state_dict: Mapping[str, Tensor],
    *,
    orientation_grid: Tensor | None = None,
    space: str = "R3xS2",
    mode: str = "bundle",
    in_vector_channels: int = 0,
    out_vector_channels: int = 0,
    pooling: str | None = "sum",
    degree: int = 3,
) -> Ponita:
    """Build the network a state dict of the published code describes; in eval mode it gives the same numbers.

    Sizes follow from the shapes. What that code does not store has to be said: the grid, which inputs and outputs are
    vectors, the pooling. Shift and scale of energies are not stored either. That code adds self-loops to every graph:
    give the imported network edges with self-loops. Weights of an average kept by its optimiser are not read.

    Args:
        state_dict: as stored, with or without the prefix "model."; a training checkpoint that holds a "state_dict"
            is accepted too.
        orientation_grid: [O, 3] the directions the model was trained with (`transform.ori_grid` there). Without it the
            package's grid of 20 is used, with a warning: results then agree only up to the resolution of the grids.
        space: "R3xS2", or "R3" for the model without orientations (PNITA).
        mode: "bundle".
        in_vector_channels: how many of the inputs, the last ones, are vectors.
        out_vector_channels: how many of the outputs, the last ones, are vectors.
        pooling: "sum" for a graph-level task, None for a point-level one.
        degree: highest power of the invariants. The published main code calls this number `degree`; its later
            rewrites count one less for the same network.

    Raises:
        ValueError: if the state dict is not of this architecture, or does not fit the arguments.
    """
    state = _normalised(state_dict)
    config = _configuration(state, in_vector_channels, out_vector_channels, degree)
    model = Ponita(**config, space=space, mode=mode, pooling=pooling, axis_smoothing=0.0)
    _set_grid(model, orientation_grid, state["x_embedder.weight"].dtype)
    load_state(model, {**_translated(state, model), "grid": model.grid}, "the reference state dict")
    return model.eval()


def _normalised(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Unpack a training checkpoint and drop the prefix of the training module."""
    inner = state_dict.get("state_dict", state_dict)
    state = {k.removeprefix("model."): v for k, v in inner.items() if isinstance(v, Tensor)}
    required = (
        "basis_fn.1.weight",
        "basis_fn.3.weight",
        "x_embedder.weight",
        "interaction_layers.0.conv.kernel.weight",
    )
    missing = [k for k in required if k not in state]
    if missing:
        raise ValueError(
            f"not a state dict of the published PONITA code: {missing} missing, first keys {sorted(state)[:5]}."
        )
    return state


def _configuration(state: Mapping[str, Tensor], in_vectors: int, out_vectors: int, degree: int) -> dict:
    """Arguments of `Ponita` that the shapes tell."""
    num_layers = 1 + max(int(m[1]) for k in state if (m := re.match(r"interaction_layers\.(\d+)\.", k)))
    readouts = sorted({int(m[1]) for k in state if (m := re.match(r"read_out_layers\.(\d+)\.", k))})
    if readouts not in ([num_layers - 1], list(range(num_layers))):
        raise ValueError(f"read-outs after layers {readouts}; expected all of {num_layers} layers or only the last.")
    hidden, width_in = state["x_embedder.weight"].shape
    width_out = state[f"read_out_layers.{readouts[-1]}.weight"].shape[0]
    if in_vectors > width_in or out_vectors > width_out:
        raise ValueError(
            f"in_vector_channels={in_vectors}, out_vector_channels={out_vectors}, but the weights have {width_in} inputs "
            f"and {width_out} outputs in all."
        )
    return {
        "in_channels": width_in - in_vectors,
        "in_vector_channels": in_vectors,
        "hidden_channels": hidden,
        "out_channels": width_out - out_vectors,
        "out_vector_channels": out_vectors,
        "num_layers": num_layers,
        "basis_channels": state["basis_fn.3.weight"].shape[0],
        "degree": degree,
        "cutoff": _cutoff(state),
        "widening": state["interaction_layers.0.linear_1.weight"].shape[0] // hidden,
        "layer_scale": 1.0 if "interaction_layers.0.layer_scale" in state else None,
        "readouts": "last" if len(readouts) < num_layers else "all",
    }


def _cutoff(state: Mapping[str, Tensor]) -> float | None:
    if "windowing_fn.r_max" not in state:
        return None
    exponent = float(state.get("windowing_fn.p", torch.tensor(6.0)))
    if exponent != 6:
        raise ValueError(f"windowing_fn.p={exponent}; expected 6, the only exponent the published code uses.")
    return float(state["windowing_fn.r_max"])


def _set_grid(model: Ponita, grid: Tensor | None, dtype: torch.dtype) -> None:
    model.to(dtype)
    if not get_space(model.space.name).has_fibre:
        if grid is not None:
            raise ValueError(f"orientation_grid was given, but space={model.space.name!r} has no orientations.")
        return
    if grid is None:
        warnings.warn(
            "orientation_grid is missing: using the 20 directions of the dodecahedron. Outputs agree with the original "
            "model only up to the resolution of the grids; pass the grid it was trained with for the same numbers.",
            stacklevel=3,
        )
        return
    model.set_grid(order_antipodally(grid))


def _translated(state: Mapping[str, Tensor], model: Ponita) -> dict[str, Tensor]:
    """Names of this package, and first-layer weights for distinct monomials."""
    renamed = {}
    for key, value in state.items():
        if _NOT_WEIGHTS.search(key):
            continue
        for pattern, replacement in _RENAMED:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value.detach().clone()
    for name in ("basis", "fiber_basis"):
        basis = getattr(model, name)
        if basis is not None and f"{name}.linear_1.weight" in renamed:
            renamed[f"{name}.linear_1.weight"] = _fold(basis, renamed[f"{name}.linear_1.weight"], name)
    return renamed


def _fold(basis: KernelBasis, weight: Tensor, name: str) -> Tensor:
    monomials = basis.monomials
    expected = sum(monomials.num_inputs**n for n in range(1, monomials.degree + 1))
    if weight.shape[1] != expected:
        raise ValueError(
            f"{name}_fn.1.weight has {weight.shape[1]} columns; degree={monomials.degree} with {monomials.num_inputs} "
            f"invariants gives {expected}. Another degree or space, or a model conditioned on a noise level?"
        )
    return monomials.fold_tensor_powers(weight)
