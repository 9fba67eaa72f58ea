"""What checkpoints of the published code lines hold, under the names of this package.

The lines are ebekkers/ponita (the main code), ebekkers/ponita-torch, ebekkers/rapidash-shapenet and Rapidash as in
computri/equivariant_model_selection. They write the same network under different names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Tried in turn on every name: the later lines' names become the main code's, these become the package's.
_RENAMED = (
    (r"^spatial_basis_fn\.", r"basis_fn."),
    (r"^spherical_basis_fn\.", r"fiber_basis_fn."),
    (r"^((?:fiber_)?basis_fn)\.0\.(?=\d)", r"\1."),
    (r"^(fiber_)?basis_fn\.1\.", r"\1basis.linear_1."),
    (r"^(fiber_)?basis_fn\.3\.", r"\1basis.linear_2."),
    (r"^x_embedder\.", r"lift.embedding."),
    (r"^(?:interaction_)?layers\.(\d+)\.", r"blocks.\1."),
    (r"\.conv\.(key|query)_transform\.", r".conv.attention.\1."),
    (r"^read_out_layers\.(\d+)\.", r"readouts.\1.linear."),
)
#: Names by which a network of the later lines is known; theirs are otherwise those of the main code.
_LATER = re.compile(r"^(spatial_basis_fn|layers|readout|(fiber_)?basis_fn\.\d+\.\d)\.|\.(key|query)_transform\.")
# Buffers are no parameters: the flag of a finished calibration (spelt so), the window's constants, grids and masks.
_GRID = re.compile(r"^(ori|sphere)_grid$")
_BUFFER = re.compile(r"(\.callibrated|^windowing_fn\.(p|r_max)|^_mask_default|^(ori|sphere)_grid)$")
_UNUSED = re.compile(r"\.conv\.pre_linear\.weight$")
_DENSE = re.compile(r"^readout_layers\.|\.bottleneck\.")
_SCALE = re.compile(r"^(?:fiber_)?basis_fn\.(\d+)\.\d+\.")
_REQUIRED = {
    "basis.linear_1.weight": "basis_fn.1.weight",
    "basis.linear_2.weight": "basis_fn.3.weight",
    "lift.embedding.weight": "x_embedder.weight",
    "blocks.0.conv.kernel.weight": "interaction_layers.0.conv.kernel.weight",
}


class Published(NamedTuple):
    """The content of a checkpoint.

    Attributes:
        weights: by the names of this package. The first layers of the bases still have a column for each tensor power.
        grid: [O, d] orientations, where the checkpoint has them.
        cutoff: of the window, or None.
        later: a name that only the later lines use, or None.
        pools_first: whether the names are those of the line that sums over points before its read-out.
    """

    weights: dict[str, Tensor]
    grid: Tensor | None
    cutoff: float | None
    later: str | None
    pools_first: bool


def read_published(checkpoint: Mapping[str, Any], ema: bool = False) -> Published:
    """Find the network in a checkpoint and translate its names.

    Args:
        checkpoint: a state dict, or a training checkpoint that holds one.
        ema: take the weights averaged by the optimiser of the main code.

    Raises:
        ValueError: if no such network is found, or one that has no counterpart here.
    """
    state = _without_prefix(checkpoint.get("state_dict", checkpoint))
    _check_architecture(state)
    cutoff = _cutoff(state)
    if ema:
        state = state | _averages(checkpoint, state)
    weights = {_renamed(k): v.detach().to("cpu", copy=True) for k, v in state.items() if not _skipped(k)}
    missing = [theirs for ours, theirs in _REQUIRED.items() if ours not in weights]
    if missing:
        raise _not_published(missing, state)
    last = num_layers(weights) - 1
    weights = {re.sub(r"^readout\.", f"readouts.{last}.linear.", k): v for k, v in weights.items()}
    grids = [v for k, v in state.items() if _GRID.search(k)]
    later = next((k for k in state if _LATER.search(k)), None)
    return Published(weights, grids[0] if grids else None, cutoff, later, "readout.weight" in state)


def num_layers(weights: Mapping[str, Tensor]) -> int:
    """How many blocks weights have, under the names of this package."""
    return 1 + max(int(m[1]) for k in weights if (m := re.match(r"blocks\.(\d+)\.", k)))


def _without_prefix(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of the network in a training module ("model.", or "net." and "model.model." for the same one)."""
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    end = "x_embedder.weight"
    prefixes = sorted({k.removesuffix(end) for k in tensors if k == end or k.endswith(f".{end}")}, key=len)
    if not prefixes:
        raise _not_published([end], tensors)
    networks = [{k.removeprefix(p): v for k, v in tensors.items() if k.startswith(p)} for p in prefixes]
    first = networks[0]
    if any(name in first and not torch.equal(first[name], v) for other in networks[1:] for name, v in other.items()):
        raise ValueError(
            f"several networks with different weights, at {prefixes}; expected one. Pass the entries of that to load."
        )
    return first


def _not_published(missing: list[str], state: Mapping[str, Tensor]) -> ValueError:
    return ValueError(
        f"not a state dict of the published PONITA code: {missing} missing, first keys {sorted(state)[:5]}."
    )


def _check_architecture(state: Mapping[str, Tensor]) -> None:
    dense = next((k for k in state if _DENSE.search(k)), None)
    if dense is not None:
        raise ValueError(
            f"{dense} is a name of the dense network (PonitaFC), which has no counterpart here: its second invariant "
            "is |r - (o.r) r| instead of |r - (o.r) o|, and the published class cannot be constructed. Train a network "
            "of the sparse code, or of this package."
        )
    scales = sorted({int(m[1]) for k in state if (m := _SCALE.match(k))})
    if scales not in ([], [0]):
        raise ValueError(
            f"basis functions of {len(scales)} scales, {scales}; expected one. Networks that sample points down and up "
            "(Rapidash with ratios) are not implemented; only those of a single scale can be loaded."
        )


def _cutoff(state: Mapping[str, Tensor]) -> float | None:
    if "windowing_fn.r_max" not in state:
        return None
    exponent = float(state.get("windowing_fn.p", torch.tensor(6.0)))
    if exponent != 6:
        raise ValueError(f"windowing_fn.p={exponent}; expected 6, the only exponent the published code uses.")
    return float(state["windowing_fn.r_max"])


def _averages(checkpoint: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The averages that the main code's optimiser keeps: those of decayed parameters by name, then of the others."""
    optimizers = checkpoint.get("optimizer_states") or [{}]
    averages = optimizers[0].get("ema")
    if averages is None:
        raise ValueError(
            "ema=True, but the checkpoint has no optimizer_states[0]['ema']. Pass the whole training checkpoint of the "
            "main code, not its state_dict; only that code averages weights. Else use ema=False."
        )
    names = sorted((k for k in state if not _BUFFER.search(k)), key=lambda k: (not _decays(k), k))
    if len(averages) != len(names):
        raise ValueError(
            f"optimizer_states[0]['ema'] holds {len(averages)} tensors, the network {len(names)} parameters; expected "
            "as many. Was something trained beside the network, or a part of it not at all? Use ema=False."
        )
    averaged = dict(zip(names, averages, strict=True))
    differ = [k for k in names if averaged[k].shape != state[k].shape]
    if differ:
        raise ValueError(
            f"optimizer_states[0]['ema'] does not fit the network: the shapes of {differ[:3]} differ. Expected are the "
            "weights of linear layers by name, then the other parameters by name, as the main code writes them."
        )
    return averaged


def _decays(name: str) -> bool:
    """Weights of linear layers decay; biases, norms and layer scales do not."""
    return name.endswith("weight") and not name.endswith("norm.weight")


def _skipped(name: str) -> bool:
    return bool(_BUFFER.search(name) or _UNUSED.search(name))


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name
