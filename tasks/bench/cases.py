"""What is measured: systems and the networks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ponita import Ponita
from ponita.geometry import fully_connected
from ponita.nn import calibrate
from ponita.tasks.bench import geometry

Inputs = dict[str, Any]
System = tuple[Tensor, Tensor, Tensor]  # positions [N, 3] in Å, atomic numbers [N], and sides of the periodic box [3]
MAX_GATE_EDGES = 500
#: The published rMD17 network (O = 20, C = 128, B = 256, five layers) with kernels that end at 5 Å, as a lattice of
#: kernels needs. A window costs the same with any cut-off, and the published code multiplies by one even without.
PUBLISHED = {"in_channels": len(geometry.ELEMENTS), "num_orientations": 20, "cutoff": 5.0}


@dataclass
class Case:
    """A system and a network for it.

    Attributes:
        name: on the command line.
        about: what the points are, and the cut-off.
        inputs: arguments of the network by name, float32.
        network: arguments of `Ponita`.
        elements: atomic numbers, in the order of the columns of x.
        search: makes the edges again, to time the neighbour list.
    """

    name: str
    about: str
    inputs: Inputs
    network: dict[str, Any] = field(default_factory=dict)
    elements: tuple[int, ...] = geometry.ELEMENTS
    search: Callable[[], object] | None = None

    @property
    def device(self) -> torch.device:
        """Where the inputs are."""
        return self.inputs["pos"].device

    def to(self, device: torch.device | str) -> Case:
        """The case on a device."""
        return replace(self, inputs=convert(self.inputs, self.inputs["pos"].dtype, device))

    @property
    def sizes(self) -> dict[str, int]:
        """Numbers of points, edges (both directions, and self-loops) and graphs, and the sizes of the network."""
        model = Ponita(**self.network, backend="torch").config
        names = {"O": "num_orientations", "C": "hidden_channels", "B": "basis_channels", "L": "num_layers"}
        counts = {"N": self.inputs["pos"].shape[0], "E": self.inputs["edge_index"].shape[1]}
        return counts | {"G": self.inputs["num_graphs"]} | {k: model[v] for k, v in names.items()}

    @property
    def lattice(self) -> tuple[int, int]:
        """Nodes of the spline kernels: the library's default where the network does not say."""
        return tuple(Ponita(**self.network, backend="torch").config["lattice"])

    def base(self) -> Ponita:
        """The network in plain torch whose weights all variants share: random, and calibrated."""
        torch.manual_seed(0)
        model = Ponita(**self.network, backend="torch").to(self.device)
        calibrate(model, self.part(20 * MAX_GATE_EDGES))
        return model

    def gate_inputs(self) -> Inputs:
        """The system, or a part of it that is cheap in float64."""
        return self.part(MAX_GATE_EDGES)

    def part(self, max_edges: int) -> Inputs:
        """The system, or as many of its first points as have no more edges between them."""
        inputs, edges = self.inputs, self.inputs["edge_index"]
        if edges.shape[1] <= max_edges:
            return inputs
        n = int(edges.max(0).values.sort().values[max_edges])
        inside = (edges < n).all(0)
        part = {k: v[:n] for k, v in inputs.items() if isinstance(v, Tensor) and k in ("pos", "x", "batch")}
        part |= {"edge_index": edges[:, inside], "num_graphs": int(inputs["batch"][n - 1]) + 1}
        return part | ({"edge_shift": inputs["edge_shift"][inside]} if "edge_shift" in inputs else {})


def make(name: str, root: str | Path) -> Case:
    """One of `CASES`.

    Args:
        name: its name.
        root: folder of rMD17.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in CASES:
        raise ValueError(f"case {name!r} is unknown; expected one of {list(CASES)}.")
    return CASES[name](root)


def convert(inputs: Inputs, dtype: torch.dtype, device: torch.device | str | None = None) -> Inputs:
    """The same inputs in another precision, and on another device where one is given."""

    def one(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device, dtype if value.is_floating_point() else None)

    return {name: one(value) for name, value in inputs.items()}


def periodic(
    name: str,
    about: str,
    systems: Sequence[System],
    network: dict,
    loops: bool,
    elements: tuple[int, ...] = geometry.ELEMENTS,
) -> Case:
    """A case of one or more systems in periodic boxes, with the network's cut-off.

    Args:
        name: of the case.
        about: what the points are.
        systems: positions, atomic numbers and box of each.
        network: arguments of `Ponita`.
        loops: include the edges i->i.
        elements: atomic numbers that occur.
    """

    def search() -> list[tuple[Tensor, Tensor]]:
        return [geometry.periodic_graph(pos, box, network["cutoff"], loops) for pos, _, box in systems]

    graphs, sizes = search(), torch.tensor([len(numbers) for _, numbers, _ in systems])
    starts = sizes.cumsum(0) - sizes
    inputs = {
        "pos": torch.cat([pos for pos, _, _ in systems]),
        "edge_index": torch.cat([edges + start for (edges, _), start in zip(graphs, starts, strict=True)], dim=1),
        "edge_shift": torch.cat([shift for _, shift in graphs]),
        "batch": torch.repeat_interleave(sizes),
        "num_graphs": len(systems),
        "x": geometry.one_hot(torch.cat([numbers for _, numbers, _ in systems]), elements),
    }
    about = f"{about}, cut-off {network['cutoff']} Å"
    return Case(name, about, convert(inputs, torch.float32), network, elements, search)


def molecules(
    name: str, about: str, pos: Tensor, numbers: Tensor, elements: tuple[int, ...] = geometry.ELEMENTS
) -> Case:
    """A case of frames of one molecule, with the published network, all pairs and self-loops.

    Args:
        name: of the case.
        about: what they are.
        pos: [G, n, 3] in Å.
        numbers: [n] atomic numbers.
        elements: atomic numbers that occur.
    """
    num_graphs, n, _ = pos.shape
    batch = torch.arange(num_graphs).repeat_interleave(n)

    def search() -> Tensor:
        return fully_connected(batch, loops=True)

    inputs = {
        "pos": pos.flatten(0, 1).float(),
        "edge_index": search(),
        "x": geometry.one_hot(numbers.repeat(num_graphs), elements),
        "batch": batch,
        "num_graphs": num_graphs,
    }
    network = {**PUBLISHED, "in_channels": len(elements)}
    return Case(name, f"{about}, all pairs and self-loops", inputs, network, elements, search)


def _aspirin(name: str, num_molecules: int, root: str | Path) -> Case:
    pos, numbers, about = geometry.molecule("aspirin", num_molecules, root, torch.Generator().manual_seed(0))
    return molecules(name, about, pos, numbers)


def _water(name: str, replicas: int) -> Case:
    boxes = [geometry.water_box(4, torch.Generator().manual_seed(seed)) for seed in range(replicas)]
    about = "64 random water molecules in a periodic box" + f", {replicas} boxes" * (replicas > 1)
    return periodic(name, about, boxes, dict(PUBLISHED), loops=True)


def _copper(root: str | Path) -> Case:
    boxes = [geometry.copper((2, 2, 4), torch.Generator().manual_seed(seed)) for seed in range(16)]
    return periodic("S6", "16 crystals of 64 copper atoms", boxes, {**PUBLISHED, "in_channels": 1}, True, (29,))


def _tiny(root: str | Path) -> Case:
    pos = [geometry.jittered_lattice((1, 2, 3), 1.5, torch.Generator().manual_seed(s))[:5] for s in (0, 1)]
    case = molecules("tiny", "ten random points, to try the command", torch.stack(pos), torch.tensor([1, 6, 8, 1, 6]))
    sizes = {"hidden_channels": 8, "basis_channels": 8, "num_layers": 2, "widening": 2, "num_orientations": 12}
    return replace(case, network={**PUBLISHED, **sizes})


#: Systems by the names of the benchmark plan, each a function of the folder of rMD17.
CASES: dict[str, Callable[[str | Path], Case]] = {
    "S1": lambda root: _aspirin("S1", 1, root),
    "S2": lambda root: _aspirin("S2", 5, root),
    "S2x64": lambda root: _aspirin("S2x64", 64, root),
    "S4": lambda root: _water("S4", 1),
    "S4x32": lambda root: _water("S4x32", 32),
    "S6": _copper,
    "tiny": _tiny,
}
