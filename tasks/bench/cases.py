"""What is measured: systems and the networks for them."""

from __future__ import annotations

from collections.abc import Callable
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
    """

    name: str
    about: str
    inputs: Inputs
    network: dict[str, Any] = field(default_factory=dict)

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
        """The network in plain torch whose weights all variants share: random, kernels calibrated on the system."""
        torch.manual_seed(0)
        model = Ponita(**self.network, backend="torch").to(self.device)
        calibrate(model, self.inputs)
        return model

    def gate_inputs(self) -> Inputs:
        """The system, or the first points of it and the edges between them where it is large."""
        inputs, edges = self.inputs, self.inputs["edge_index"]
        n, num_edges = inputs["pos"].shape[0], edges.shape[1]
        if num_edges <= MAX_GATE_EDGES:
            return inputs
        n = int(n * (MAX_GATE_EDGES / num_edges) ** 0.5)
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


def periodic(name: str, about: str, points: tuple[Tensor, Tensor, Tensor], network: dict, loops: bool) -> Case:
    """A case in a periodic box, with the network's cut-off.

    Args:
        name: of the case.
        about: what the points are.
        points: positions [N, 3], atomic numbers [N] and box [3].
        network: arguments of `Ponita`.
        loops: include the edges i->i.
    """
    pos, numbers, box = points
    edge_index, edge_shift = geometry.periodic_graph(pos, box, network["cutoff"], loops)
    batch = torch.zeros(pos.shape[0], dtype=torch.long)
    inputs = {"pos": pos, "edge_index": edge_index, "edge_shift": edge_shift, "batch": batch, "num_graphs": 1}
    inputs = convert(inputs | {"x": geometry.one_hot(numbers)}, torch.float32)
    return Case(name, f"{about}, cut-off {network['cutoff']} Å", inputs, network)


def _aspirin(name: str, num_molecules: int, root: str | Path) -> Case:
    pos, numbers, about = geometry.aspirin(num_molecules, root, torch.Generator().manual_seed(0))
    batch = torch.arange(num_molecules).repeat_interleave(len(geometry.ASPIRIN))
    inputs = {
        "pos": pos.float(),
        "edge_index": fully_connected(batch, loops=True),
        "x": geometry.one_hot(numbers),
        "batch": batch,
        "num_graphs": num_molecules,
    }
    return Case(name, f"{about}, all pairs and self-loops", inputs, dict(PUBLISHED))


def _water(root: str | Path) -> Case:
    points = geometry.water_box(4, torch.Generator().manual_seed(0))
    return periodic("S4", "64 random water molecules in a periodic box", points, dict(PUBLISHED), loops=True)


def _tiny(root: str | Path) -> Case:
    batch = torch.arange(2).repeat_interleave(5)
    pos = torch.cat([geometry.jittered_lattice((1, 2, 3), 1.5, torch.Generator().manual_seed(s))[:5] for s in (0, 1)])
    x = geometry.one_hot(torch.tensor([1, 6, 8, 1, 6]).repeat(2))
    edges = fully_connected(batch, loops=True)
    inputs = {"pos": pos.float(), "edge_index": edges, "x": x, "batch": batch, "num_graphs": 2}
    sizes = {"hidden_channels": 8, "basis_channels": 8, "num_layers": 2, "widening": 2, "num_orientations": 12}
    return Case("tiny", "ten random points, to try the command", inputs, {**PUBLISHED, **sizes})


#: Systems by the names of the benchmark plan, each a function of the folder of rMD17.
CASES: dict[str, Callable[[str | Path], Case]] = {
    "S1": lambda root: _aspirin("S1", 1, root),
    "S2": lambda root: _aspirin("S2", 5, root),
    "S4": _water,
    "tiny": _tiny,
}
