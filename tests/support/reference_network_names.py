"""States of the published network as its later code lines and its training programs save them.

Written from the description of those files alone: nothing is shared with the library.
"""

from __future__ import annotations

import torch

from support.reference_network import State


def rapidash_scales(state: State, scales: int = 1) -> State:
    """The names of rapidash-shapenet, which numbers its basis functions by scale."""
    renamed = {}
    for name, value in state.items():
        head, _, tail = name.partition(".")
        if head not in ("basis_fn", "fiber_basis_fn"):
            renamed[name] = value
        for scale in range(scales if head in ("basis_fn", "fiber_basis_fn") else 0):
            renamed[f"{head}.{scale}.{tail}"] = value.clone()
    return renamed


def rapidash_single_readout(state: State, grid: torch.Tensor | None) -> State:
    """The names of Rapidash for model selection: other names of bases and layers, one read-out, the grid, and a linear
    layer in each convolution that nothing uses. The state must have a read-out after its last layer only."""
    heads = {"basis_fn": "spatial_basis_fn", "fiber_basis_fn": "spherical_basis_fn", "interaction_layers": "layers"}
    renamed = {} if grid is None else {"sphere_grid": grid}
    for name, value in state.items():
        head, _, tail = name.partition(".")
        if head == "read_out_layers":
            renamed[f"readout.{tail.partition('.')[2]}"] = value
        else:
            renamed[f"{heads.get(head, head)}.{tail}"] = value
        if tail.endswith("conv.bias"):
            renamed[f"layers.{tail.removesuffix('bias')}pre_linear.weight"] = value.new_ones(len(value), len(value))
    return renamed


def diffusion_module(state: State) -> State:
    """The same tensors twice: the network, and the network inside its preconditioner."""
    return {f"{prefix}{name}": value for prefix in ("net.", "model.model.") for name, value in state.items()}


def averaged_checkpoint(state: State, averages: State) -> dict:
    """A training checkpoint whose optimiser holds averages: weights of linear layers first, each part by name."""
    names = sorted(f"model.{name}" for name in state)
    buffers = ("callibrated", "windowing_fn.p", "windowing_fn.r_max")
    names = [name for name in names if not name.endswith(buffers)]
    is_linear = [name.endswith("weight") and ".norm." not in name for name in names]
    decayed = [name for name, linear in zip(names, is_linear, strict=True) if linear]
    others = [name for name, linear in zip(names, is_linear, strict=True) if not linear]
    ema = tuple(averages[name.removeprefix("model.")] for name in decayed + others)
    return {
        "epoch": 7,
        "state_dict": {f"model.{name}": value for name, value in state.items()},
        "optimizer_states": [{"opt": {}, "ema": ema, "decay": 0.999, "current_step": 40}],
    }
