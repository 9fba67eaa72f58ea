"""Properties of molecules, in their units, from a PONITA network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ponita.geometry import EdgeSet, fully_connected, radius_graph
from ponita.models.element_index import ElementIndex
from ponita.models.ponita import Output, Ponita
from ponita.nn import pool
from ponita.nn.precision import KeepsFloat64

GRAPHS = ("full", "radius", "bonds")


class Properties(NamedTuple):
    """Attributes:
    scalars: [G, S] in the units of the model's scalar names, float64.
    vectors: [G, V, 3] in those of its vector names.
    """

    scalars: Tensor
    vectors: Tensor


class PropertyModel(KeepsFloat64):
    """scalars = contributions of the atoms + shift + scale * network; vectors = scale * network.

    Args:
        network: with in_channels = number of elements, one output for each name, and pooling.
        elements: atomic numbers the model knows, in the order of the network's input channels.
        names: of the scalars, then of the vectors.
        units: of each name.
        graph: "full": all pairs of atoms of a molecule; "radius": those within the network's cut-off; "bonds": the edges
            must be given.
        self_loops: whether the graphs that the model makes hold the edges i->i.
        unit: Å of one unit of the network's positions, and of its cut-off.

    Attributes:
        references: [elements, S] contribution of an atom of each element.
        shift: [S] mean of what they leave over.
        scale: [S + V] unit of the network's outputs. It, the references and the shift stay in float64 whatever the dtype
            of the weights: total energies are thousands of eV and their differences thousandths.

    Raises:
        ValueError: if the network's inputs or outputs do not fit, for another graph, or a unit that is not positive.
    """

    float64_buffers = ("references", "shift", "scale")

    def __init__(
        self,
        network: Ponita,
        elements: Sequence[int],
        names: Sequence[str],
        units: Sequence[str],
        graph: str = "full",
        self_loops: bool = False,
        unit: float = 1.0,
    ) -> None:
        super().__init__()
        self.network, self.element_of = network, ElementIndex(elements)
        self.elements, self.names, self.units = self.element_of.elements, tuple(names), tuple(units)
        self.graph, self.self_loops, self.unit = graph, self_loops, unit
        self.num_scalars = network.config["out_channels"]
        _check(network.config, self.elements, self.names, self.units, graph)
        if not unit > 0:
            raise ValueError(f"unit={unit}; expected a positive length (Å).")
        for name, size in (
            ("references", (len(self.elements), self.num_scalars)),
            ("shift", (self.num_scalars,)),
            ("scale", (len(self.names),)),
        ):
            fill = torch.ones if name == "scale" else torch.zeros
            self.register_buffer(name, fill(size, dtype=torch.float64))

    @property
    def config(self) -> dict:
        """Arguments that rebuild the model; see `ponita.models.save`."""
        own = {"elements": list(self.elements), "names": list(self.names), "units": list(self.units)}
        own |= {"graph": self.graph, "self_loops": self.self_loops, "unit": self.unit}
        return {"network": self.network.config, **own}

    @classmethod
    def from_config(cls, config: dict) -> PropertyModel:
        """Build a model, with fresh weights, from what `config` returned."""
        return cls(**{**config, "network": Ponita(**config["network"])})

    def set_normalization(self, references: Tensor, shift: Tensor, scale: Tensor) -> None:
        """Set what the network's outputs are measured from and in.

        Args:
            references: [elements, S].
            shift: [S].
            scale: [S + V], positive.

        Raises:
            ValueError: for a scale that is not positive and finite, or shapes that do not fit.
        """
        bad = [name for name, s in zip(self.names, scale.tolist(), strict=True) if not 0 < s < float("inf")]
        if bad:
            raise ValueError(f"the scale of {', '.join(bad)} is not positive and finite. Are all labels the same?")
        self.references.copy_(references.reshape(self.references.shape))
        self.shift.copy_(shift)
        self.scale.copy_(scale)

    def forward(
        self,
        pos: Tensor,
        numbers: Tensor,
        edge_index: Tensor | EdgeSet | None = None,
        batch: Tensor | None = None,
        num_graphs: int | None = None,
    ) -> Properties:
        """Properties of each molecule.

        Args:
            pos: [N, 3] Å.
            numbers: [N] atomic numbers.
            edge_index: [2, E] or an `EdgeSet`; the model's own graph where None.
            batch: [N] molecule of each atom, sorted; one molecule where None.
            num_graphs: G.

        Raises:
            ValueError: for an element the model does not know, a graph of bonds that is not given, and as `Ponita.forward`.
        """
        batch = torch.zeros(pos.shape[0], dtype=torch.long, device=pos.device) if batch is None else batch
        num_graphs = int(batch.max()) + 1 if num_graphs is None else num_graphs
        output = self.normalized(pos, numbers, edge_index, batch, num_graphs)
        return self.in_units(output, self.contributions(numbers, batch, num_graphs))

    def normalized(
        self, pos: Tensor, numbers: Tensor, edge_index: Tensor | EdgeSet | None, batch: Tensor, num_graphs: int
    ) -> Output:
        """What the network says: [G, S] and [G, V, 3] in units of `scale`; arguments as those of `forward`."""
        x = nn.functional.one_hot(self.element_of(numbers), len(self.elements)).to(pos.dtype)
        edges = self.edges(pos, batch) if edge_index is None else edge_index
        return self.network(pos / self.unit, edges, x=x, batch=batch, num_graphs=num_graphs)

    def contributions(self, numbers: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        """[G, S] float64, what the atoms of each molecule have, and the shift."""
        return self.shift + pool(self.references[self.element_of(numbers)], batch, num_graphs, "sum")

    def in_units(self, output: Output, contributions: Tensor) -> Properties:
        """Outputs of the network in the units of the names.

        Args:
            output: of `normalized`.
            contributions: [G, S] of `contributions`.
        """
        of_scalars, of_vectors = self.scale.split([self.num_scalars, len(self.names) - self.num_scalars])
        vectors = of_vectors.to(output.vectors)[:, None] * output.vectors
        return Properties(contributions + of_scalars * output.scalars.double(), vectors)

    def edges(self, pos: Tensor, batch: Tensor) -> Tensor:
        """[2, E] of the model's own graph.

        Raises:
            ValueError: for bonds, which positions alone do not tell.
        """
        if self.graph == "radius":
            return radius_graph(pos / self.unit, self.network.config["cutoff"], batch, loops=self.self_loops)
        if self.graph == "bonds":
            raise ValueError(
                "this model reads covalent bonds; pass them as edge_index [2, E], both directions "
                "(ponita.interfaces.rdkit finds them from the geometry)."
            )
        return fully_connected(batch, loops=self.self_loops)


def _check(config: dict, elements: tuple[int, ...], names: tuple[str, ...], units: tuple[str, ...], graph: str) -> None:
    if graph not in GRAPHS:
        raise ValueError(f"graph={graph!r}; expected one of {list(GRAPHS)}.")
    if graph == "radius" and config["cutoff"] is None:
        raise ValueError("graph='radius' needs a network with a cutoff; this one has none.")
    if len(set(names)) != len(names) or len(units) != len(names):
        raise ValueError(f"names={list(names)}, units={list(units)}; expected different names, and a unit for each.")
    outputs = config["out_channels"] + config["out_vector_channels"]
    expected = {
        "in_channels": (config["in_channels"], len(elements)),
        "in_vector_channels": (config["in_vector_channels"], 0),
    }
    expected["out_channels + out_vector_channels"] = (outputs, len(names))
    for name, (seen, wanted) in expected.items():
        if seen != wanted:
            raise ValueError(
                f"a model of {list(names)} for the elements {list(elements)} needs a network with {name}={wanted}, not {seen}."
            )
    if config["pooling"] is None:
        raise ValueError("properties belong to molecules; use a network with pooling='sum' or 'mean', not None.")
