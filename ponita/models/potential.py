"""Interatomic potentials: total energies and conservative forces from a PONITA network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ponita.geometry import EdgeSet, fully_connected, radius_graph
from ponita.geometry.checks import can_look
from ponita.models.ponita import Ponita
from ponita.nn.precision import KeepsFloat64
from ponita.ops import force_pass

MAX_ATOMIC_NUMBER = 118


class EnergyForces(NamedTuple):
    """Attributes:
    energy: [G] eV, float64.
    forces: [N, 3] eV/Å.
    """

    energy: Tensor
    forces: Tensor


class Potential(KeepsFloat64):
    """E = shift + scale * network(positions, elements), F = -dE/dpos.

    Args:
        network: a `Ponita` with in_channels = number of elements, one scalar output and pooling="sum".
        elements: atomic numbers the potential knows, in the order of the network's input channels.
        self_loops: whether the graphs the potential builds hold the edges i->i, as those of the published network do.

    Attributes:
        shift: energy added to every molecule (eV). Kept in float64 whatever the dtype of the weights: total
            energies are thousands of eV and their differences thousandths.
        scale: eV (and eV/Å) of one unit of the network.

    Raises:
        ValueError: if the network's inputs or outputs do not fit.
    """

    float64_buffers = ("shift", "scale")

    def __init__(self, network: Ponita, elements: Sequence[int], self_loops: bool = True) -> None:
        super().__init__()
        self.network, self.elements, self.self_loops = network, tuple(int(z) for z in elements), self_loops
        _check_network(network.config, self.elements)
        index = torch.full((MAX_ATOMIC_NUMBER + 1,), -1)
        index[list(self.elements)] = torch.arange(len(self.elements))
        self.register_buffer("element_index", index, persistent=False)
        self.register_buffer("shift", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    @property
    def config(self) -> dict:
        """Arguments that rebuild the potential; see `ponita.models.save`."""
        return {"network": self.network.config, "elements": list(self.elements), "self_loops": self.self_loops}

    @classmethod
    def from_config(cls, config: dict) -> Potential:
        """Build a potential, with fresh weights, from what `config` returned."""
        return cls(Ponita(**config["network"]), config["elements"], config["self_loops"])

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
    ) -> Tensor:
        """Total energy of each molecule.

        Args:
            pos: [N, 3] Å.
            numbers: [N] atomic numbers.
            edge_index: [2, E] or an `EdgeSet`; the potential's own graph of isolated molecules where None.
            batch: [N] molecule of each atom.
            edge_shift: [E, 3] Å.
            num_graphs: G.

        Returns:
            [G] eV, float64.

        Raises:
            ValueError: for an element the potential does not know, and as `Ponita.forward`.
        """
        x = self.one_hot(numbers, pos.dtype)
        edge_index = self.neighbors(pos, batch) if edge_index is None else edge_index
        out = self.network(pos, edge_index, x=x, batch=batch, edge_shift=edge_shift, num_graphs=num_graphs)
        return self.shift + self.scale * out.scalars[:, 0].double()

    def energy_forces(self, pos: Tensor, *args: object, create_graph: bool = False, **kwargs: object) -> EnergyForces:
        """Energy and its negative gradient.

        Args:
            pos: [N, 3] Å.
            *args: the other arguments of `forward`.
            create_graph: keep the graph of the forces, for a loss on them.
            **kwargs: the other arguments of `forward`.

        Raises:
            RuntimeError: under torch.inference_mode, where no gradient can be taken.
        """
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "forces need gradients, which inference mode forbids: use Trainer(inference_mode=False)."
            )
        with torch.enable_grad():
            pos = pos if pos.requires_grad else pos.detach().requires_grad_(True)
            energy = self(pos, *args, **kwargs)
            with force_pass():
                (gradient,) = torch.autograd.grad(energy.sum(), pos, create_graph=create_graph)
        return EnergyForces(energy if create_graph else energy.detach(), -gradient)

    def tabulate(self, nodes: tuple[int, int] = (128, 64), **options: Any) -> Potential:
        """A frozen copy whose network has spline kernels, for inference; see `ponita.models.tabulation.tabulate`.

        Args:
            nodes: of the lattice.
            **options: `radius`, `rtol` and `batch` of that function; the batch is the network's, not the potential's.
        """
        fast = Potential(self.network.tabulate(nodes, **options), self.elements, self.self_loops)
        fast.to(self.shift.device)
        fast.set_normalization(float(self.shift), float(self.scale))
        return fast

    def neighbors(self, pos: Tensor, batch: Tensor | None = None) -> Tensor:
        """Edges of isolated molecules: pairs within the network's cut-off, or all pairs where it has none.

        Args:
            pos: [N, 3] Å.
            batch: [N] molecule of each atom, sorted.

        Shape:
            [2, E]
        """
        cutoff = self.network.config["cutoff"]
        if cutoff is not None:
            return radius_graph(pos, cutoff, batch, loops=self.self_loops)
        batch = torch.zeros(pos.shape[0], dtype=torch.long, device=pos.device) if batch is None else batch
        return fully_connected(batch, loops=self.self_loops)

    def one_hot(self, numbers: Tensor, dtype: torch.dtype) -> Tensor:
        """[N] atomic numbers -> [N, in_channels]."""
        if numbers.dim() != 1 or numbers.dtype != torch.int64:
            raise ValueError(
                f"numbers has shape {list(numbers.shape)} and dtype {numbers.dtype}; expected [N] torch.int64."
            )
        known = (numbers >= 0) & (numbers <= MAX_ATOMIC_NUMBER)
        index = self.element_index[torch.where(known, numbers, 0)]
        if can_look(numbers) and bool((index < 0).any()):
            unknown = numbers[index < 0].unique().tolist()
            raise ValueError(
                f"atomic numbers {unknown} are unknown to this potential, which was made for {list(self.elements)}; "
                "train one whose `elements` include them."
            )
        # On a GPU the check above would wait for it; an unknown element then fails in the device's own index check.
        return nn.functional.one_hot(index, len(self.elements)).to(dtype)


def _check_network(config: dict, elements: tuple[int, ...]) -> None:
    expected = {
        "in_channels": len(elements),
        "in_vector_channels": 0,
        "out_channels": 1,
        "out_vector_channels": 0,
        "pooling": "sum",
    }
    for name, value in expected.items():
        if config[name] != value:
            raise ValueError(
                f"the network of a potential of {len(elements)} elements needs {name}={value}, not {config[name]}."
            )
    if len(set(elements)) != len(elements) or not all(0 < z <= MAX_ATOMIC_NUMBER for z in elements):
        raise ValueError(f"elements={list(elements)}; expected distinct atomic numbers from 1 to {MAX_ATOMIC_NUMBER}.")
