"""Potentials in torch-sim (package torch-sim-atomistic): many structures at once, on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ponita.interfaces.evaluator import Evaluator
from ponita.models import Potential

try:
    from torch_sim.models.interface import ModelInterface
except ModuleNotFoundError as error:
    raise ImportError(f"{error}: this interface is for torch-sim, pip install torch-sim-atomistic") from error


#: What is read of a state.
READ = ("positions", "cell", "pbc", "system_idx", "atomic_numbers")


class PonitaTorchSim(ModelInterface):
    """A potential with the interface of torch-sim's models.

    Args:
        potential: a `Potential`, or a checkpoint (of `ponita.models.save` or of training).
        device: to evaluate on; that of the states must be the same.
        dtype: of the weights and of what is returned; that of the checkpoint where None. Total energies of thousands of
            eV need torch.float64 for their meV.
        head: level of theory; the first of the potential where None.
        tabulate: nodes of a lattice such as (128, 64), for fast kernels; see `Potential.tabulate`.
        compute_forces: whether to return forces.
        compute_stress: whether to return stresses.

    Raises:
        ValueError: for something else than a potential, an unknown head or elements, and periodic states without a
            cut-off.
    """

    def __init__(
        self,
        potential: Potential | Path | str,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        head: str | None = None,
        tabulate: tuple[int, int] | None = None,
        compute_forces: bool = True,
        compute_stress: bool = True,
    ) -> None:
        super().__init__()
        self._device = torch.device(device or "cpu")
        self.evaluator = Evaluator(potential, self._device, dtype, head, tabulate)
        self._dtype = self.evaluator.dtype
        self._compute_forces, self._compute_stress = compute_forces, compute_stress
        self._memory_scales_with = "n_atoms_x_density"

    @property
    def compute_stress(self) -> bool:
        """Whether stresses are returned."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, compute_stress: bool) -> None:
        self._compute_stress = compute_stress

    @property
    def compute_forces(self) -> bool:
        """Whether forces are returned."""
        return self._compute_forces

    @compute_forces.setter
    def compute_forces(self, compute_forces: bool) -> None:
        self._compute_forces = compute_forces

    def forward(self, state: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Evaluate the structures of a state.

        Args:
            state: `SimState` of torch-sim, or a mapping with its names: positions [N, 3] Å, cell [S, 3, 3] Å with the
                cell vectors in columns, pbc (a bool, or one for each direction), system_idx [N], atomic_numbers [N].
            **kwargs: not read.

        Returns:
            energy [S] eV; forces [N, 3] eV/Å; stress [S, 3, 3] eV/Å³, positive in tension, zero where there is no volume (molecules,
            slabs without a third cell vector).
        """
        values = state if isinstance(state, Mapping) else {name: getattr(state, name) for name in READ}
        inputs, has_stress = self._inputs(values)
        num_systems, want_stress = inputs["num_graphs"], self._compute_stress and has_stress
        potential = self.evaluator.potential
        if not (self._compute_forces or want_stress):
            with torch.no_grad():
                energy, forces, stress = potential(**inputs), None, None
        else:
            energy, forces, *rest = potential.energy_forces(**inputs, stress=want_stress)
            stress = rest[0] if rest else None
        result = {"energy": energy.to(self._dtype)}
        if self._compute_forces:
            result["forces"] = forces
        if self._compute_stress:
            result["stress"] = energy.new_zeros(num_systems, 3, 3, dtype=self._dtype) if stress is None else stress
        return result

    def _inputs(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """Arguments of the potential, and whether there are stresses: periodic directions, and a volume."""
        pos = values["positions"].detach().to(self._device, self._dtype)
        numbers = values["atomic_numbers"].to(self._device, torch.int64)
        self.evaluator.check_elements(numbers)
        batch = values.get("system_idx")
        batch = torch.zeros_like(numbers) if batch is None else batch.to(self._device)
        num_systems = int(batch.max()) + 1
        head = self.evaluator.head
        inputs = {"pos": pos, "numbers": numbers, "batch": batch, "num_graphs": num_systems, "head": head}
        pbc = torch.as_tensor(values["pbc"], dtype=torch.bool).cpu().expand(3)
        if not bool(pbc.any()):
            return inputs, False
        cell = values["cell"].detach().to(self._device, self._dtype).view(-1, 3, 3).mT  # rows here, columns there
        edge_index, offsets = self.evaluator.potential.neighbors(pos, batch, cell, pbc.expand(num_systems, 3))
        has_volume = bool((torch.linalg.det(cell) != 0).all())
        return {**inputs, "cell": cell, "edge_index": edge_index, "offsets": offsets}, has_volume
