"""Networks of other packages, where they are installed, at the width of the published PONITA.

The library never imports them. They get the edges of the case, so that no search for neighbours is in their times. They
are other functions with other accuracy: their times put ours in proportion, no more.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

import torch
from torch import Tensor, nn

from ponita import Output
from ponita.tasks.bench.cases import Case

WIDTH, CUTOFF = 128, 10.0


class GivenEdges(nn.Module):
    """In the place of a search for neighbours in a network of PyTorch Geometric: the edges it is told.

    Args:
        loops: keep the edges i->i, of length zero.
        vectors: return the displacements, too.
    """

    def __init__(self, loops: bool, vectors: bool) -> None:
        super().__init__()
        self.loops, self.vectors = loops, vectors
        self.edge_index: Tensor | None = None
        self.edge_shift: Tensor | None = None

    def forward(self, pos: Tensor, batch: Tensor) -> tuple[Tensor, ...]:
        """Edges, lengths [E] and perhaps displacements [E, 3]; the arguments are those of the search."""
        sender, receiver = self.edge_index
        r = pos[sender] - pos[receiver]
        r = r if self.edge_shift is None else r + self.edge_shift
        # The length of a self-loop has no derivative; the square root of zero plus one has.
        loop = (r == 0).all(1)
        length = (r.square().sum(1) + loop).sqrt() - loop.to(r.dtype)
        # ViSNet writes into its displacements.
        return (self.edge_index, length, r.clone()) if self.vectors else (self.edge_index, length)


class PygModel(nn.Module):
    """A network of PyTorch Geometric, which takes atomic numbers, on the edges of the case.

    Args:
        network: whose search for neighbours is `edges`.
        edges: what it asks for neighbours.
        elements: atomic numbers of the columns of x.
    """

    def __init__(self, network: nn.Module, edges: GivenEdges, elements: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.edges = network, edges
        self.register_buffer("elements", torch.tensor(elements))

    def forward(
        self,
        pos: Tensor,
        edge_index: Tensor,
        x: Tensor,
        batch: Tensor,
        edge_shift: Tensor | None = None,
        **_: object,
    ) -> Output:
        keep = None if self.edges.loops else _between_atoms(edge_index, edge_shift)
        self.edges.edge_index = edge_index if keep is None else edge_index[:, keep]
        self.edges.edge_shift = edge_shift if keep is None or edge_shift is None else edge_shift[keep]
        energy = self.network(self.elements[x.argmax(1)], pos, batch)
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
        keep = _between_atoms(edge_index, edge_shift)
        shifts = pos.new_zeros(edge_index.shape[1], 3) if edge_shift is None else edge_shift
        counts = torch.bincount(batch, minlength=num_graphs)
        data = {
            # MACE marks its positions as wanting a gradient.
            "positions": pos if pos.requires_grad else pos.clone(),
            "node_attrs": x,
            "edge_index": edge_index[:, keep],
            # Its vectors point from sender to receiver.
            "shifts": -shifts[keep],
            "unit_shifts": torch.zeros_like(shifts[keep]),
            "cell": pos.new_zeros(3 * num_graphs, 3),
            "batch": batch,
            "ptr": torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        }
        energy = self.network(data, training=True, compute_force=False)["energy"]
        return Output(energy[:, None], pos.new_zeros(0))


def schnet(case: Case) -> nn.Module:
    """SchNet, six interactions."""
    from torch_geometric.nn.models import SchNet

    edges = GivenEdges(loops=False, vectors=False)
    return PygModel(SchNet(WIDTH, WIDTH, cutoff=CUTOFF, interaction_graph=edges), edges, case.elements)


def visnet(case: Case) -> nn.Module:
    """ViSNet, six layers."""
    from torch_geometric.nn.models import ViSNet

    network = ViSNet(hidden_channels=WIDTH, cutoff=5.0)
    edges = network.representation_model.distance = GivenEdges(loops=True, vectors=True)
    return PygModel(network, edges, case.elements)


def dimenet(case: Case) -> nn.Module:
    """Not measured: it lists its triplets with compiled packages that PyTorch Geometric does without elsewhere."""
    raise ImportError("DimeNet++ of PyTorch Geometric needs torch-cluster and torch-sparse")


def mace(case: Case) -> nn.Module:
    """MACE, two interactions of 128 scalars and vectors, correlation 3."""
    neighbors = case.inputs["edge_index"].shape[1] / case.inputs["pos"].shape[0]
    return MaceModel(mace_network("MACE", case.elements, CUTOFF, neighbors, f"{WIDTH}x0e + {WIDTH}x1o"))


def mace_network(
    kind: str, elements: Sequence[int], cutoff: float, neighbors: float, irreps: str, **options: object
) -> nn.Module:
    """A random MACE of two interactions, correlation 3, angular functions to degree 3, as its published models have.

    Args:
        kind: class of `mace.modules`.
        elements: atomic numbers.
        cutoff: Å.
        neighbors: of an atom, on average.
        irreps: of its features.
        **options: of the class, beside those that all have.
    """
    import numpy as np

    with warnings.catch_warnings(), torch.serialization.safe_globals([slice]):
        warnings.simplefilter("ignore")  # of the TorchScript it is made of
        # The file of constants that e3nn 0.4 reads when imported holds slices, which torch does not load by default.
        from e3nn import o3
        from mace import modules

        interaction = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
        return getattr(modules, kind)(
            r_max=cutoff,
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=3,
            interaction_cls=interaction,
            interaction_cls_first=interaction,
            num_interactions=2,
            num_elements=len(elements),
            hidden_irreps=o3.Irreps(irreps),
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=np.zeros(len(elements)),
            avg_num_neighbors=neighbors,
            atomic_numbers=list(elements),
            correlation=3,
            gate=nn.functional.silu,
            **options,
        )


def nequip(case: Case) -> nn.Module:
    """Not measured: its networks are made from configuration files of its own."""
    import_module("nequip")
    raise ImportError("nequip makes networks from its own configuration files only; run its own benchmark")


def _between_atoms(edge_index: Tensor, edge_shift: Tensor | None) -> Tensor:
    """[E] whether an edge is no self-loop; one to an image of its own atom is none."""
    other = edge_index[0] != edge_index[1]
    return other if edge_shift is None else other | edge_shift.any(1)


MAKERS: dict[str, Callable[[Case], nn.Module]] = {
    "PyG SchNet": schnet,
    "PyG DimeNet++": dimenet,
    "PyG ViSNet": visnet,
    "MACE": mace,
    "NequIP": nequip,
}
