"""Networks of other packages, where they are installed, at the width of the published PONITA.

The library never imports them. They are other functions with other accuracy and, for those of PyTorch Geometric, find their own neighbours in every
call: their times put ours in proportion, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from ponita import Output
from ponita.tasks.bench.geometry import ELEMENTS

Inputs = Mapping[str, Any]
WIDTH, CUTOFF = 128, 10.0


class PygModel(nn.Module):
    """A network of PyTorch Geometric, which takes atomic numbers and finds neighbours itself."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pos: Tensor, edge_index: Tensor, x: Tensor, batch: Tensor, **_: object) -> Output:
        numbers = torch.tensor(ELEMENTS, device=x.device)[x.argmax(1)]
        energy = self.network(numbers, pos, batch)
        return Output(energy[0] if isinstance(energy, tuple) else energy, pos.new_zeros(0))


class MaceModel(nn.Module):
    """MACE on the edges of the case, without self-loops."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        pos: Tensor,
        edge_index: Tensor,
        x: Tensor,
        batch: Tensor,
        num_graphs: int,
        edge_shift: Tensor | None = None,
    ) -> Output:
        other = edge_index[0] != edge_index[1]
        shifts = pos.new_zeros(edge_index.shape[1], 3) if edge_shift is None else -edge_shift
        counts = torch.bincount(batch, minlength=num_graphs)
        data = {
            # MACE marks its positions as wanting a gradient.
            "positions": pos if pos.requires_grad else pos.clone(),
            "node_attrs": x,
            "edge_index": edge_index[:, other],
            "shifts": shifts[other],
            "unit_shifts": torch.zeros_like(shifts[other]),
            "cell": pos.new_zeros(3 * num_graphs, 3),
            "batch": batch,
            "ptr": torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        }
        energy = self.network(data, training=True, compute_force=False)["energy"]
        return Output(energy[:, None], pos.new_zeros(0))


def schnet(inputs: Inputs) -> nn.Module:
    """SchNet, six interactions."""
    _require_neighbours(inputs)
    from torch_geometric.nn.models import SchNet

    return PygModel(SchNet(WIDTH, WIDTH, cutoff=CUTOFF, max_num_neighbors=1000))


def dimenet(inputs: Inputs) -> nn.Module:
    """DimeNet++ with the sizes of its paper."""
    _require_neighbours(inputs)
    import_module("torch_sparse")
    from torch_geometric.nn.models import DimeNetPlusPlus

    network = DimeNetPlusPlus(WIDTH, 1, 4, 64, 8, 256, 7, 6, cutoff=5.0, max_num_neighbors=1000)
    return PygModel(network)


def visnet(inputs: Inputs) -> nn.Module:
    """ViSNet, six layers."""
    _require_neighbours(inputs)
    from torch_geometric.nn.models import ViSNet

    return PygModel(ViSNet(hidden_channels=WIDTH, cutoff=5.0, max_num_neighbors=1000))


def mace(inputs: Inputs) -> nn.Module:
    """MACE, two interactions of 128 scalars and vectors, correlation 3."""
    import numpy as np
    from e3nn import o3
    from mace import modules

    interaction = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    network = modules.MACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=interaction,
        interaction_cls_first=interaction,
        num_interactions=2,
        num_elements=len(ELEMENTS),
        hidden_irreps=o3.Irreps(f"{WIDTH}x0e + {WIDTH}x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(ELEMENTS)),
        avg_num_neighbors=inputs["edge_index"].shape[1] / inputs["pos"].shape[0],
        atomic_numbers=list(ELEMENTS),
        correlation=3,
        gate=nn.functional.silu,
    )
    return MaceModel(network)


def nequip(inputs: Inputs) -> nn.Module:
    """Not measured: its networks are made from configuration files of its own."""
    import_module("nequip")
    raise ImportError("nequip makes networks from its own configuration files only; run its own benchmark")


def _require_neighbours(inputs: Inputs) -> None:
    import torch_geometric.typing as features

    if not any(getattr(features, name, False) for name in ("WITH_RADIUS", "WITH_TORCH_CLUSTER")):
        raise ImportError("PyTorch Geometric finds neighbours with torch-cluster or pyg-lib, neither is installed")
    if "edge_shift" in inputs:
        raise ValueError("the networks of PyTorch Geometric have no periodic images")


MAKERS: dict[str, Callable[[Inputs], nn.Module]] = {
    "PyG SchNet": schnet,
    "PyG DimeNet++": dimenet,
    "PyG ViSNet": visnet,
    "MACE": mace,
    "NequIP": nequip,
}
