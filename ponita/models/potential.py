"""Interatomic potentials: total energies, conservative forces and stresses from a PONITA network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ponita.geometry import EdgeSet, batched_neighbors, fully_connected, image_shifts, radius_graph
from ponita.models.element_index import ElementIndex
from ponita.models.ponita import Ponita
from ponita.nn import pool
from ponita.nn.precision import KeepsFloat64
from ponita.ops import force_pass


class EnergyForces(NamedTuple):
    """Attributes:
    energy: [G] eV, float64.
    forces: [N, 3] eV/Å.
    """

    energy: Tensor
    forces: Tensor


class EnergyForcesStress(NamedTuple):
    """Attributes:
    energy: [G] eV, float64.
    forces: [N, 3] eV/Å.
    stress: [G, 3, 3] eV/Å³, positive in tension.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor


class Potential(KeepsFloat64):
    """E = sum of reference energies + shift + scale * network(positions, elements), F = -dE/dpos, stress = dE/dstrain / V.

    Args:
        network: a `Ponita` with in_channels = number of elements, one scalar output for each head, pooling="sum".
        elements: atomic numbers the potential knows, in the order of the network's input channels.
        self_loops: whether the graphs the potential builds hold the edges i->i, as those of the published network do.
        heads: names of the levels of theory it was trained on; each has an output of the network and reference
            energies of its own.

    Attributes:
        reference_energies: [heads, elements] energy of an atom of each element (eV).
        shift: energy added to every structure (eV). It and the references stay in float64 whatever the dtype of the
            weights: total energies are thousands of eV and their differences thousandths.
        scale: eV (and eV/Å) of one unit of the network.

    Raises:
        ValueError: if the network's inputs or outputs do not fit.
    """

    float64_buffers = ("reference_energies", "shift", "scale")

    def __init__(
        self,
        network: Ponita,
        elements: Sequence[int],
        self_loops: bool = True,
        heads: Sequence[str] = ("default",),
    ) -> None:
        super().__init__()
        self.network, self.self_loops, self.heads = network, self_loops, tuple(heads)
        self.element_of = ElementIndex(elements, "potential")
        self.elements = self.element_of.elements
        _check_network(network.config, self.elements, self.heads)
        references = torch.zeros(len(self.heads), len(self.elements), dtype=torch.float64)
        self.register_buffer("reference_energies", references)
        self.register_buffer("shift", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    @property
    def config(self) -> dict:
        """Arguments that rebuild the potential; see `ponita.models.save`."""
        own = {"elements": list(self.elements), "self_loops": self.self_loops, "heads": list(self.heads)}
        return {"network": self.network.config, **own}

    @classmethod
    def from_config(cls, config: dict) -> Potential:
        """Build a potential, with fresh weights, from what `config` returned."""
        return cls(**{**config, "network": Ponita(**config["network"])})

    def set_normalization(self, shift: float, scale: float) -> None:
        """Set the energy of a typical molecule and the unit of the network.

        Args:
            shift: eV.
            scale: eV and eV/Å, positive.

        Raises:
            ValueError: if the scale is not positive and finite.
        """
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale={scale}; expected a positive, finite number (eV). Are all forces zero?")
        self.shift.fill_(shift)
        self.scale.fill_(scale)

    def forward(
        self,
        pos: Tensor,
        numbers: Tensor,
        edge_index: Tensor | EdgeSet | None = None,
        batch: Tensor | None = None,
        edge_shift: Tensor | None = None,
        num_graphs: int | None = None,
        cell: Tensor | None = None,
        offsets: Tensor | None = None,
        pbc: Tensor | None = None,
        head: str | Tensor | None = None,
    ) -> Tensor:
        """Total energy of each structure.

        Args:
            pos: [N, 3] Å.
            numbers: [N] atomic numbers.
            edge_index: [2, E] or an `EdgeSet`; the potential's own neighbour list where None.
            batch: [N] structure of each atom.
            edge_shift: [E, 3] Å, instead of cells and offsets.
            num_graphs: G.
            cell: [G, 3, 3] Å, rows the cell vectors; None for isolated molecules.
            offsets: [E, 3] cells that the senders' images are in, where edges are given (`ponita.geometry.NeighborList`).
            pbc: [G, 3] bool, periodic directions; all of them where None and there are cells.
            head: name of a level of theory, or [G] index of each structure's; the first where None.

        Returns:
            [G] eV, float64.

        Raises:
            ValueError: for an element the potential does not know, a flat cell, and as `Ponita.forward`.
        """
        graph, num_graphs = _graphs(pos, batch, num_graphs, cell)
        energies = self.atom_energies(pos, numbers, edge_index, batch, edge_shift, cell, offsets, pbc, head)
        return self.shift + pool(energies, graph, num_graphs, "sum")

    def atom_energies(
        self,
        pos: Tensor,
        numbers: Tensor,
        edge_index: Tensor | EdgeSet | None = None,
        batch: Tensor | None = None,
        edge_shift: Tensor | None = None,
        cell: Tensor | None = None,
        offsets: Tensor | None = None,
        pbc: Tensor | None = None,
        head: str | Tensor | None = None,
    ) -> Tensor:
        """Contribution of each atom, without the shift; arguments as those of `forward`.

        Shape:
            [N] eV, float64
        """
        element = self.element_of(numbers)
        if edge_index is None:
            edge_index, offsets = self.neighbors(pos, batch, cell, pbc)
        if offsets is not None and edge_shift is None:
            edge_index, edge_shift = _with_images(pos, edge_index, offsets, cell, batch)
        x = nn.functional.one_hot(element, len(self.elements)).to(pos.dtype)
        scalars = self.network.at_points(pos, edge_index, x=x, batch=batch, edge_shift=edge_shift).scalars
        chosen = self._head_of(head, batch, pos)
        output = scalars[:, 0] if chosen is None else scalars.gather(1, chosen[:, None])[:, 0]
        references = self.reference_energies[0 if chosen is None else chosen, element]
        return references + self.scale * output.double()

    def energy_forces(
        self, pos: Tensor, *args: object, create_graph: bool = False, stress: bool = False, **kwargs: object
    ) -> EnergyForces | EnergyForcesStress:
        """Energy and its derivatives.

        Args:
            pos: [N, 3] Å.
            *args: the other arguments of `forward`.
            create_graph: keep the graph of the forces, for a loss on them.
            stress: also the derivative in the strain, which needs `cell`.
            **kwargs: the other arguments of `forward`.

        Raises:
            RuntimeError: under torch.inference_mode, where no gradient can be taken.
            ValueError: if a stress is asked for without cells.
        """
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "forces need gradients, which inference mode forbids: use Trainer(inference_mode=False)."
            )
        with torch.enable_grad():
            pos = pos if pos.requires_grad else pos.detach().requires_grad_(True)
            sources, kwargs, volume = [pos], dict(kwargs), None
            strained = pos
            if stress:
                strained, kwargs["cell"], strain, volume = _strain(pos, kwargs.get("cell"), kwargs.get("batch"))
                sources.append(strain)
            energy = self(strained, *args, **kwargs)
            with force_pass():
                gradients = torch.autograd.grad(energy.sum(), sources, create_graph=create_graph)
        result = EnergyForces(energy if create_graph else energy.detach(), -gradients[0])
        return result if volume is None else EnergyForcesStress(*result, gradients[1] / volume[:, None, None])

    def tabulate(self, nodes: tuple[int, int] = (128, 64), **options: Any) -> Potential:
        """A frozen copy whose network has spline kernels, for inference; see `ponita.models.tabulation.tabulate`.

        Args:
            nodes: of the lattice.
            **options: `radius`, `rtol` and `batch` of that function; the batch is the network's, not the potential's.
        """
        fast = Potential(self.network.tabulate(nodes, **options), self.elements, self.self_loops, self.heads)
        fast.to(self.shift.device)
        fast.set_normalization(float(self.shift), float(self.scale))
        fast.reference_energies.copy_(self.reference_energies)
        return fast

    def neighbors(
        self, pos: Tensor, batch: Tensor | None = None, cell: Tensor | None = None, pbc: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Pairs within the network's cut-off, images included; all pairs of a molecule where it has no cut-off.

        Args:
            pos: [N, 3] Å.
            batch: [N] structure of each atom, sorted.
            cell: [G, 3, 3] Å or None.
            pbc: [G, 3] bool or None.

        Returns:
            edge_index [2, E], and the offsets [E, 3] where there are cells.

        Raises:
            ValueError: for cells without a cut-off.
        """
        cutoff = self.network.config["cutoff"]
        if cell is not None:
            if cutoff is None:
                raise ValueError("periodic structures need a network with a cutoff; this one has none.")
            return tuple(batched_neighbors(pos, cutoff, cell, pbc, batch, loops=self.self_loops))
        if cutoff is not None:
            return radius_graph(pos, cutoff, batch, loops=self.self_loops), None
        batch = torch.zeros(pos.shape[0], dtype=torch.long, device=pos.device) if batch is None else batch
        return fully_connected(batch, loops=self.self_loops), None

    def _head_of(self, head: str | Tensor | None, batch: Tensor | None, pos: Tensor) -> Tensor | None:
        """[N] index of each atom's head, or None for the first."""
        if head is None:
            return None
        if isinstance(head, str):
            if head not in self.heads:
                raise ValueError(f"head={head!r} is unknown to this potential; expected one of {list(self.heads)}.")
            return torch.full((pos.shape[0],), self.heads.index(head), device=pos.device)
        graph, num_graphs = _graphs(pos, batch, None, None)
        if head.dim() != 1 or head.dtype != torch.int64 or head.shape[0] < num_graphs:
            raise ValueError(f"head has shape {list(head.shape)} and dtype {head.dtype}; expected [G] torch.int64.")
        return head.index_select(0, graph)


def voigt(stress: Tensor) -> Tensor:
    """[..., 3, 3] -> [..., 6] in the order xx, yy, zz, yz, xz, xy, as in ASE."""
    return torch.stack([stress[..., i, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))], dim=-1)


def _graphs(pos: Tensor, batch: Tensor | None, num_graphs: int | None, cell: Tensor | None) -> tuple[Tensor, int]:
    """Structure of each atom, and how many there are."""
    if batch is None:
        return torch.zeros(pos.shape[0], dtype=torch.long, device=pos.device), 1
    if num_graphs is None:
        num_graphs = int(batch.max()) + 1 if cell is None else cell.shape[0]
    return batch, num_graphs


def _with_images(
    pos: Tensor, edge_index: Tensor | EdgeSet, offsets: Tensor, cell: Tensor | None, batch: Tensor | None
) -> tuple[EdgeSet, Tensor]:
    """Edges whose reverses are matched by whole cells, and the shift of each in the order given."""
    if cell is None:
        raise ValueError("offsets of periodic images were given without cells; pass cell [G, 3, 3].")
    num_edges = edge_index.num_edges if isinstance(edge_index, EdgeSet) else edge_index.shape[1]
    if offsets.shape != (num_edges, 3):
        raise ValueError(f"offsets has shape {list(offsets.shape)}; expected [E, 3] = [{num_edges}, 3].")
    if not isinstance(edge_index, EdgeSet):
        edge_index = EdgeSet.from_edge_index(edge_index, pos.shape[0], offsets.to(pos.dtype))
    sender = torch.empty_like(edge_index.order).index_copy_(0, edge_index.order, edge_index.edge_index[0])
    graph = torch.zeros_like(sender) if batch is None else batch.index_select(0, sender)
    return edge_index, image_shifts(offsets, cell.to(pos.dtype), graph)


def _strain(pos: Tensor, cell: Tensor | None, batch: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Positions and cells under a symmetric strain that is zero, the strain, and the volumes."""
    if cell is None:
        raise ValueError("a stress needs cells; pass cell [G, 3, 3].")
    cell = cell.to(pos.dtype)
    strain = torch.zeros_like(cell).requires_grad_()
    symmetric = 0.5 * (strain + strain.mT)
    of_atom = symmetric if batch is None else symmetric.index_select(0, batch)
    moved = pos + (pos @ of_atom[0] if batch is None else torch.bmm(pos[:, None], of_atom)[:, 0])
    return moved, cell + cell @ symmetric, strain, torch.linalg.det(cell.detach()).abs()


def _check_network(config: dict, elements: tuple[int, ...], heads: tuple[str, ...]) -> None:
    expected = {
        "in_channels": len(elements),
        "in_vector_channels": 0,
        "out_channels": len(heads),
        "out_vector_channels": 0,
        "pooling": "sum",
    }
    if not heads or len(set(heads)) != len(heads):
        raise ValueError(f"heads={list(heads)}; expected distinct names, at least one.")
    for name, value in expected.items():
        if config[name] != value:
            raise ValueError(
                f"the network of a potential of {len(elements)} elements and {len(heads)} heads needs {name}={value}, not "
                f"{config[name]}."
            )
