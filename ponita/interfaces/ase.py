"""Calculators for ASE: molecular dynamics, relaxation, phonons and whatever else takes one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ponita.interfaces.committee import Committee
from ponita.interfaces.evaluator import Evaluator
from ponita.interfaces.skin import SkinList
from ponita.models import Potential, voigt

try:
    from ase import Atoms
    from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
    from ase.io import write
except ModuleNotFoundError as error:
    raise ImportError(f"{error}: calculators need ASE, pip install 'ponita[atoms]'") from error


class Structure(NamedTuple):
    """Attributes:
    pos: [N, 3] Å, float64.
    numbers: [N] atomic numbers.
    cell: [3, 3] Å, float64, rows the cell vectors.
    pbc: [3] bool.
    """

    pos: Tensor
    numbers: Tensor
    cell: Tensor
    pbc: Tensor

    @classmethod
    def of(cls, atoms: Atoms) -> Structure:
        """The tensors of a structure of ASE."""
        return cls(
            torch.tensor(atoms.get_positions(), dtype=torch.float64),
            torch.tensor(atoms.numbers, dtype=torch.int64),
            torch.tensor(atoms.cell.array, dtype=torch.float64),
            torch.tensor(atoms.pbc, dtype=torch.bool),
        )

    @property
    def has_stress(self) -> bool:
        """Whether there is a volume to divide by, and a direction to repeat in."""
        return bool(self.pbc.any()) and float(torch.linalg.det(self.cell).abs()) > 0


class _PotentialCalculator(Calculator):
    """What the calculators share: when to compute what."""

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress", "energies"]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill `results`; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        structure = Structure.of(self.atoms)
        if "stress" in properties and not structure.has_stress:
            raise PropertyNotImplementedError(
                f"a stress needs a periodic structure with a volume; this one has pbc={structure.pbc.tolist()} and "
                f"cell={structure.cell.tolist()}."
            )
        if system_changes or not self.results:
            self._check(structure.numbers)
            self.results = self._evaluate(structure)
            self.results["free_energy"] = self.results["energy"]
        if not self.results.keys() >= set(properties):
            self.results |= self._atom_energies(structure)

    def _check(self, numbers: Tensor) -> None:
        raise NotImplementedError

    def _evaluate(self, structure: Structure) -> dict[str, Any]:
        raise NotImplementedError

    def _atom_energies(self, structure: Structure) -> dict[str, Any]:
        raise NotImplementedError


class PonitaCalculator(_PotentialCalculator):
    """Energies, forces and stresses of a potential.

    The potential is copied and frozen, so what depends on its weights alone (tables, kernels of orientations) is
    computed once. The neighbour list has a skin and is made again only when a pair could have come into reach
    (`SkinList`); positions may be wrapped into the cell or not.

    Args:
        potential: a `Potential`, or a checkpoint (of `ponita.models.save` or of training).
        device: to evaluate on.
        dtype: "float32", "float64", or that of the checkpoint where None. Molecular dynamics is fine in float32;
            phonons and tight relaxations want float64.
        head: level of theory; the first of the potential where None.
        skin: Å.
        tabulate: nodes of a lattice such as (128, 64), for fast kernels; see `Potential.tabulate`.
        **parameters: handed to ASE's `Calculator`.

    Attributes:
        implemented_properties: energy and free_energy (eV, equal), forces (eV/Å), stress (eV/Å³, Voigt order xx, yy,
            zz, yz, xz, xy, positive in tension), energies (eV, of each atom; they add up to the energy).
        neighbors: the `SkinList`.

    Raises:
        ValueError: for something else than a potential, and on evaluation for unknown elements, periodicity without a
            cut-off, or a cell that is flat.
    """

    def __init__(
        self,
        potential: Potential | Path | str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str | None = None,
        head: str | None = None,
        skin: float = 0.3,
        tabulate: tuple[int, int] | None = None,
        **parameters: Any,
    ) -> None:
        super().__init__(**parameters)
        self.evaluator = Evaluator(potential, device, dtype, head, tabulate)
        self.neighbors = SkinList(self.evaluator.kind, skin, device)

    def _check(self, numbers: Tensor) -> None:
        self.evaluator.check_elements(numbers)

    def _evaluate(self, structure: Structure) -> dict[str, Any]:
        pos, numbers, cell, pbc = structure
        graph = self.neighbors.graph(pos, cell, pbc)
        return _results(*self.evaluator.evaluate(graph, numbers, cell, structure.has_stress))

    def _atom_energies(self, structure: Structure) -> dict[str, Any]:
        pos, numbers, cell, pbc = structure
        graph = self.neighbors.graph(pos, cell, pbc)
        return {"energies": _array(self.evaluator.atom_energies(graph, numbers, cell))}


class CommitteeCalculator(_PotentialCalculator):
    """Means of several potentials, with their spread.

    Args:
        potentials: two or more potentials or checkpoints, such as those of `ponita ensemble`.
        skin: Å, of the neighbour lists.
        device: to evaluate on.
        dtype: as in `PonitaCalculator`.
        head: level of theory.
        tabulate: as in `PonitaCalculator`.
        **parameters: handed to ASE's `Calculator`.

    Attributes:
        implemented_properties: those of `PonitaCalculator`, as means, and `energy_std` (eV), `forces_std` (eV/Å, [N]),
            `max_force_std` (eV/Å, the largest of them) and `energies_std` (eV, [N]). See `CommitteePrediction`.
    """

    implemented_properties: ClassVar[list[str]] = [
        *_PotentialCalculator.implemented_properties,
        *("energy_std", "forces_std", "max_force_std", "energies_std"),
    ]

    def __init__(
        self,
        potentials: Sequence[Potential | Path | str],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str | None = None,
        head: str | None = None,
        skin: float = 0.3,
        tabulate: tuple[int, int] | None = None,
        **parameters: Any,
    ) -> None:
        super().__init__(**parameters)
        options = {"device": device, "dtype": dtype, "head": head, "tabulate": tabulate}
        self.committee = Committee(potentials, skin, **options)

    def _check(self, numbers: Tensor) -> None:
        self.committee.check_elements(numbers)

    def _evaluate(self, structure: Structure) -> dict[str, Any]:
        prediction = self.committee.predict(*structure, structure.has_stress)
        energy, forces, stress, energy_std, forces_std, max_force_std = prediction
        spread = {"energy_std": float(energy_std), "forces_std": _array(forces_std)}
        return {**_results(energy, forces, stress), **spread, "max_force_std": float(max_force_std)}

    def _atom_energies(self, structure: Structure) -> dict[str, Any]:
        energies, spread = self.committee.atom_energies(*structure)
        return {"energies": _array(energies), "energies_std": _array(spread)}


class SpreadError(RuntimeError):
    """Raised to stop a simulation whose potentials disagree: it has left what they were trained on."""


class StopOnSpread:
    """An observer that stops a simulation when the committee's spread passes a threshold.

    Attach it with `dynamics.attach(StopOnSpread(atoms, 0.5, "stopped.xyz"), interval=1)`.

    Args:
        atoms: the structure that moves, with a `CommitteeCalculator`.
        threshold: eV/Å, on `max_force_std`.
        path: file that the last frame is written to, in extended xyz.

    Raises:
        SpreadError: on the call that finds the spread larger; the frame is on disk then.
    """

    def __init__(self, atoms: Atoms, threshold: float, path: Path | str) -> None:
        if not threshold > 0:
            raise ValueError(f"threshold={threshold}; expected a positive number (eV/Å).")
        self.atoms, self.threshold, self.path = atoms, threshold, Path(path)

    def __call__(self) -> None:
        spread = float(self.atoms.calc.get_property("max_force_std", self.atoms))
        if spread <= self.threshold:
            return
        worst = int(self.atoms.calc.results["forces_std"].argmax())
        write(self.path, self.atoms, format="extxyz")
        raise SpreadError(
            f"the committee's spread of forces is {spread:.3g} eV/Å on atom {worst} "
            f"({self.atoms.symbols[worst]}), above the threshold of {self.threshold:g} eV/Å. The frame is in "
            f"{self.path}: label it and train on it, or start from another structure."
        )


def _results(energy: Tensor, forces: Tensor, stress: Tensor | None) -> dict[str, Any]:
    results = {"energy": float(energy), "forces": _array(forces)}
    return results if stress is None else {**results, "stress": _array(voigt(stress))}


def _array(tensor: Tensor) -> Any:
    return tensor.detach().double().cpu().numpy()
