"""A trained potential made ready for simulations: frozen, tabulated on request, with its neighbour list."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ponita.interfaces.skin import ListKind, NearGraph
from ponita.models import Potential, load


class Prediction(NamedTuple):
    """Attributes:
    energy: [] eV, float64.
    forces: [N, 3] eV/Å.
    stress: [3, 3] eV/Å³, positive in tension, or None.
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor | None


class Evaluator:
    """A copy of a potential for evaluation, so that training may go on with the original.

    Args:
        potential: a `Potential`, or a checkpoint (of `ponita.models.save` or of training).
        device: to evaluate on.
        dtype: of the weights, such as torch.float64 or "float64"; that of the checkpoint where None.
        head: level of theory, one of `potential.heads`; the first where None.
        tabulate: nodes of a lattice, to put tables in the place of the kernels; networks with spline kernels are
            tables already and stay as they are.

    Attributes:
        potential: the copy; its parameters require no gradient, so what depends on them alone is computed once.
        kind: of neighbour list that it reads.

    Raises:
        ValueError: for something else than a potential, an unknown head, or a network that cannot be tabulated.
    """

    def __init__(
        self,
        potential: Potential | Path | str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str | None = None,
        head: str | None = None,
        tabulate: tuple[int, int] | None = None,
    ) -> None:
        potential = _ready(potential, device, _dtype(dtype))
        if tabulate is not None and potential.network.config["kernel"] != "spline":
            potential = potential.tabulate(tuple(tabulate))
        if head is not None and head not in potential.heads:
            raise ValueError(f"head={head!r} is unknown to this potential; expected one of {list(potential.heads)}.")
        self.potential, self.head = potential.eval().requires_grad_(False), head
        self.device, self.dtype, self.kind = torch.device(device), potential.network.dtype, ListKind.of(potential)

    def check_elements(self, numbers: Tensor) -> None:
        """Raise ValueError for atomic numbers [N] the potential does not know; on a GPU it does not look itself."""
        self.potential.element_of.check(numbers.to(self.device))

    def evaluate(self, graph: NearGraph, numbers: Tensor, cell: Tensor, stress: bool) -> Prediction:
        """Energy, forces and, on request, the stress.

        Args:
            graph: of the structure.
            numbers: [N] atomic numbers.
            cell: [3, 3] Å, float64.
            stress: whether to compute it; needs a periodic structure.
        """
        energy, forces, *rest = self.potential.energy_forces(**self._inputs(graph, numbers, cell), stress=stress)
        return Prediction(energy[0], forces, rest[0][0] if rest else None)

    @torch.no_grad()
    def atom_energies(self, graph: NearGraph, numbers: Tensor, cell: Tensor) -> Tensor:
        """[N] eV, float64: a share of the total energy for each atom; the shift is divided among all."""
        energies = self.potential.atom_energies(**self._inputs(graph, numbers, cell))
        return energies + self.potential.shift / numbers.shape[0]

    def _inputs(self, graph: NearGraph, numbers: Tensor, cell: Tensor) -> dict[str, object]:
        inputs = {"pos": graph.pos.to(self.dtype), "numbers": numbers.to(self.device), "edge_index": graph.edges}
        if graph.offsets is not None:
            inputs |= {"offsets": graph.offsets, "cell": cell[None].to(self.device, self.dtype)}
        return {**inputs, "head": self.head}


def _ready(potential: Potential | Path | str, device: torch.device | str, dtype: torch.dtype | None) -> Potential:
    if isinstance(potential, (str, Path)):
        source, potential = str(potential), _load(Path(potential))
    else:
        source, potential = "the model", copy.deepcopy(potential)
    if not isinstance(potential, Potential):
        raise ValueError(f"{source} is a {type(potential).__name__}; expected a Potential or a checkpoint of one.")
    return potential.to(device=device, dtype=dtype)


def _load(path: Path) -> object:
    """Of a checkpoint, or of the folder of an adapter, merged where it can be."""
    if not path.is_dir():
        return load(path)
    from ponita.sharing.adapters.files import load_adapted  # needs peft, which only adapters do

    return load_adapted(path)


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    named = {"float32": torch.float32, "float64": torch.float64}
    if dtype is None or dtype in named.values():
        return dtype
    if dtype not in named:
        raise ValueError(f"dtype={dtype!r}; expected 'float32', 'float64', or None for that of the checkpoint.")
    return named[dtype]
