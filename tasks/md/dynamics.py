"""Integrators of ASE for the three ensembles, and what a simulation starts from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT
from ase.md.verlet import VelocityVerlet

ENSEMBLES = ("nve", "nvt", "npt")
CELLS = ("isotropic", "full")


@dataclass(frozen=True)
class Conditions:
    """What is held fixed in a simulation, and how.

    Attributes:
        ensemble: "nve" (velocity Verlet), "nvt" (Langevin) or "npt" (Martyna, Tobias and Klein).
        timestep: fs.
        temperature: K; of the initial velocities in "nve".
        pressure: GPa.
        thermostat_time: fs in which the thermostat acts.
        barostat_time: fs in which the barostat acts.
        cell: "isotropic" (the cell keeps its shape) or "full".
        seed: of velocities and of the thermostat.
    """

    ensemble: str = "nve"
    timestep: float = 0.5
    temperature: float = 300.0
    pressure: float = 0.0
    thermostat_time: float = 100.0
    barostat_time: float = 1000.0
    cell: str = "isotropic"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("ensemble", ENSEMBLES), ("cell", CELLS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}; expected one of {list(allowed)}.")
        for name in ("timestep", "thermostat_time", "barostat_time"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)}; expected a positive time in fs.")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}; expected K, zero or more.")
        if not abs(self.pressure) < float("inf"):
            raise ValueError(f"pressure={self.pressure}; expected a finite number of GPa.")
        if self.pressure and self.ensemble != "npt":
            raise ValueError(f"pressure={self.pressure} GPa has no effect on {self.ensemble!r}; use ensemble='npt'.")


def draw_velocities(atoms: Atoms, temperature: float, seed: int) -> None:
    """Velocities of the Maxwell-Boltzmann distribution without total momentum, and without rotation of a molecule.

    With constraints, as of atoms held in place, neither is conserved, and nothing is taken out.

    Args:
        atoms: to set them of.
        temperature: K.
        seed: they are a function of.
    """
    root = np.sqrt(atoms.get_masses())[:, None]
    scaled = np.sqrt(units.kB * temperature) * np.random.default_rng(seed).standard_normal((len(atoms), 3)).ravel()
    if not atoms.constraints:
        rigid = (root * _rigid_motions(atoms)).reshape(-1, scaled.size)
        scaled -= scaled @ np.linalg.pinv(rigid, rcond=1e-9) @ rigid
    atoms.set_momenta(root * scaled.reshape(-1, 3))


def make_dynamics(atoms: Atoms, conditions: Conditions, start: int = 0) -> MolecularDynamics:
    """An integrator at a step of a simulation.

    Args:
        atoms: with calculator and momenta.
        conditions: of the simulation.
        start: step to count from; noise after it is not that of an earlier step.

    Raises:
        ValueError: for constant pressure without a cell, or with atoms that are held in place.
    """
    step, temperature = conditions.timestep * units.fs, conditions.temperature
    thermostat = conditions.thermostat_time * units.fs
    if conditions.ensemble == "nve":
        dynamics = VelocityVerlet(atoms, step)
    elif conditions.ensemble == "nvt":
        rng = np.random.default_rng([conditions.seed, start])
        dynamics = Langevin(atoms, step, temperature_K=temperature, friction=1 / thermostat, fixcm=False, rng=rng)
    else:
        if not atoms.pbc.all():
            raise ValueError(
                f"ensemble 'npt' needs a periodic structure; this one has pbc={atoms.pbc.tolist()}. Use 'nvt', or give the cell."
            )
        if atoms.constraints:
            raise ValueError("ensemble 'npt' moves all atoms, and some of these are held in place; use 'nvt'.")
        integrator = IsotropicMTKNPT if conditions.cell == "isotropic" else MTKNPT
        dynamics = integrator(
            atoms,
            step,
            temperature_K=temperature,
            pressure_au=conditions.pressure * units.GPa,
            tdamp=thermostat,
            pdamp=conditions.barostat_time * units.fs,
        )
    dynamics.nsteps = start
    return dynamics


def degrees_of_freedom(atoms: Atoms, ensemble: str) -> int:
    """How many share the kinetic energy: in "nve", without those that `draw_velocities` stopped for good."""
    total = 3 * len(atoms)
    if atoms.constraints:
        return max(atoms.get_number_of_degrees_of_freedom(), 1)
    if ensemble != "nve":
        return total
    rigid = np.linalg.matrix_rank(_rigid_motions(atoms).reshape(-1, total), tol=1e-6)
    return max(total - int(rigid), 1)


def _rigid_motions(atoms: Atoms) -> np.ndarray:
    """[3, N, 3] velocities of translations, and three more of rotations where nothing is periodic."""
    motions = [np.tile(axis, (len(atoms), 1)) for axis in np.eye(3)]
    if not atoms.pbc.any():
        motions += [np.cross(axis, atoms.positions - atoms.get_center_of_mass()) for axis in np.eye(3)]
    return np.stack(motions)
