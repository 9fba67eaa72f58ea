"""Importer of weights of the published PONITA code (ebekkers/ponita) and of its rewrites, for every kind of network."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from ponita.geometry import check_orientations, order_antipodally
from ponita.models.checkpoint import load_state
from ponita.models.ponita import Ponita
from ponita.models.reference_kinds import check_kind, check_pooling
from ponita.models.reference_names import num_layers, read_published
from ponita.nn import KernelBasis


def load_reference_checkpoint(
    state_dict: Mapping[str, Any],
    *,
    orientation_grid: Tensor | None = None,
    space: str = "R3xS2",
    mode: str = "bundle",
    in_vector_channels: int = 0,
    out_vector_channels: int = 0,
    pooling: str | None = "sum",
    degree: int = 3,
    ema: bool = False,
) -> Ponita:
    """Build the network a state dict of the published code describes; in eval mode it gives the same numbers.

    Read are the names of ebekkers/ponita, ebekkers/ponita-torch, ebekkers/rapidash-shapenet and Rapidash as in
    computri/equivariant_model_selection (single scale; a basis shared by several scales looks the same, and is not
    what is loaded). Sizes follow from the shapes. What that code does not store has to be said: the grid, the space,
    which inputs and outputs are vectors, the pooling. Shift and scale of energies are not stored either.

    To give the same numbers,

    * edges need self-loops where the published code had them: the main code adds them to every graph, its rewrites make
      them for fully connected graphs. In cloud mode the lifted graph has its own, and the graph must be symmetric; with
      a cutoff it must hold every pair within it. Points without edges get zeros, where that code drops the last ones;
    * a conditioned network gets the level of each graph twice, as the last of its scalars and as `condition` [G, 1];
    * attention divides by the sum of the weights alone. That code adds 1e-6, after scaling by the largest weight of the
      batch: its outputs depend on the other graphs, by 1e-6 for even weights and much more for uneven ones.

    Two things cannot be told from a state dict and are other networks. In the plane the kernels of the rewrites are not
    invariant under rotations: they are refused where names tell, but plain weights of ebekkers/ponita-torch look like
    those of the main code. And Rapidash on radius graphs windows the invariants, not the kernels.

    Args:
        state_dict: as stored, with any prefix of a training module ("model.", "net."); a training checkpoint that holds
            a "state_dict" is accepted too.
        orientation_grid: [O, d] the directions the model was trained with (`transform.ori_grid` there; in the plane
            `circle_grid(O)`). Without it the one in the state dict is used (`ori_grid`, `sphere_grid`), or else the
            package's grid of 20, with a warning: results then agree only up to the resolution of the grids.
        space: "R3xS2" or "R2xS1"; "R3" or "R2" for the model without orientations (PNITA).
        mode: "bundle", or "cloud" for the model with a point for every directed edge (`num_ori=-1` there).
        in_vector_channels: how many of the inputs, the last ones, are vectors.
        out_vector_channels: how many of the outputs, the last ones, are vectors.
        pooling: "sum" for a graph-level task, None for a point-level one.
        degree: highest power of the invariants. The published main code calls this number `degree`; its later
            rewrites count one less for the same network.
        ema: load the average of the weights that the main code's optimiser keeps, from a whole training checkpoint.

    Raises:
        ValueError: if the state dict is not of this architecture, or does not fit the arguments.
    """
    published = read_published(state_dict, ema)
    conditioning_channels = check_kind(published, space, mode, degree)
    check_pooling(published, pooling)
    model = Ponita(
        **_configuration(published.weights, in_vector_channels, out_vector_channels),
        space=space,
        mode=mode,
        degree=degree,
        cutoff=published.cutoff,
        pooling=pooling,
        conditioning_channels=conditioning_channels,
        axis_smoothing=0.0,
    ).to(published.weights["lift.embedding.weight"].dtype)
    if model.fiber_basis is not None or orientation_grid is not None:
        _set_grid(model, orientation_grid, published.grid)
    weights = _fitted(published.weights, model)
    load_state(model, {**weights, "grid": model.grid}, "the reference state dict")
    return model.eval()


def _configuration(weights: Mapping[str, Tensor], in_vectors: int, out_vectors: int) -> dict[str, Any]:
    """Arguments of `Ponita` that the shapes tell."""
    layers = num_layers(weights)
    readouts = sorted({int(m[1]) for k in weights if (m := re.match(r"readouts\.(\d+)\.linear\.weight$", k))})
    if readouts not in ([layers - 1], list(range(layers))):
        raise ValueError(f"read-outs after layers {readouts}; expected all of {layers} layers or only the last.")
    hidden, width_in = weights["lift.embedding.weight"].shape
    width_out = weights[f"readouts.{readouts[-1]}.linear.weight"].shape[0]
    if in_vectors > width_in or out_vectors > width_out:
        raise ValueError(
            f"in_vector_channels={in_vectors}, out_vector_channels={out_vectors}, but the weights have {width_in} "
            f"inputs and {width_out} outputs in all."
        )
    key, linear = weights.get("blocks.0.conv.attention.key.weight"), weights.get("blocks.0.linear_1.weight")
    return {
        "in_channels": width_in - in_vectors,
        "in_vector_channels": in_vectors,
        "hidden_channels": hidden,
        "out_channels": width_out - out_vectors,
        "out_vector_channels": out_vectors,
        "num_layers": layers,
        "basis_channels": weights["basis.linear_2.weight"].shape[0],
        "widening": 4 if linear is None else linear.shape[0] // hidden,
        "layer_scale": 1.0 if "blocks.0.layer_scale" in weights else None,
        "readouts": "last" if len(readouts) < layers else "all",
        "attention_channels": None if key is None else key.shape[0],
    }


def _set_grid(model: Ponita, given: Tensor | None, stored: Tensor | None) -> None:
    grid = stored if given is None else given
    if grid is not None:
        check_orientations(grid, model.space, "the stored grid" if given is None else "orientation_grid")
        model.set_grid(order_antipodally(grid))
        return
    planar = model.space.fibre == "circle"
    warnings.warn(
        f"orientation_grid is missing: using the {model.grid.shape[0]} directions of "
        f"{'circle_grid(20)' if planar else 'the dodecahedron'}. Outputs agree with the original model only up to the "
        "resolution of the grids; pass the grid it was trained with for the same numbers"
        f"{' (circle_grid of the right size)' if planar else ''}.",
        stacklevel=3,
    )


def _fitted(weights: Mapping[str, Tensor], model: Ponita) -> dict[str, Tensor]:
    """First-layer weights for distinct monomials, and bases of the width the model has."""
    fitted = dict(weights)
    for name, basis in (("basis", model.basis), ("fiber_basis", model.fiber_basis)):
        if basis is not None and f"{name}.linear_1.weight" in fitted:
            fitted[f"{name}.linear_1.weight"] = basis.monomials.fold_tensor_powers(fitted[f"{name}.linear_1.weight"])
            _widen(fitted, name, basis)
    return fitted


def _widen(weights: dict[str, Tensor], name: str, basis: KernelBasis) -> None:
    """Give a basis network the hidden width of the model: units that are zero, and stay so when trained."""
    width, wanted = weights[f"{name}.linear_1.weight"].shape[0], basis.linear_1.out_features
    if width > wanted:
        raise ValueError(
            f"basis_hidden_dim={width} is larger than hidden_dim={wanted}; expected at most that: the hidden "
            "layer of the basis functions is as wide as the network here."
        )
    more = wanted - width
    paddings = {"linear_1.weight": (0, 0, 0, more), "linear_1.bias": (0, more), "linear_2.weight": (0, more)}
    for key in (k for k in paddings if more and f"{name}.{k}" in weights):
        weights[f"{name}.{key}"] = pad(weights[f"{name}.{key}"], paddings[key])
