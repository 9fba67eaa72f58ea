"""Molecules and crystals with energies, forces and stresses that are derivatives of one another, by ASE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

CONFIG = """
seed_everything: 0
model:
  class_path: ponita.tasks.potential.EnergyForceTask
  init_args:
    elements: [29, 79]
    model:
      class_path: ponita.Ponita
      init_args:
        {{in_channels: 2, hidden_channels: 8, basis_channels: 8, num_layers: 2, num_orientations: 6, widening: 2,
         cutoff: 3.5, kernel: spline, lattice: [16, 12]}}
    loss_weights: {{energy: 1.0, energy_per_atom: true, forces: 1.0, stress: 10.0}}
    reference_energies: least_squares
    self_loops: false
    optimizer: {{lr: 1.0e-2}}
data:
  class_path: ponita.tasks.potential.StructureDataModule
  init_args: {data}
trainer:
  accelerator: cpu
  max_epochs: {epochs}
  enable_progress_bar: false
  enable_model_summary: false
  num_sanity_val_steps: 0
best:
  monitor: valid/forces_mae
"""


def labelled(atoms: Atoms, calculator: object, **info: object) -> Atoms:
    """A copy that carries what a calculator says of it."""
    copy = atoms.copy()
    copy.calc = calculator
    names = ("energy", "forces", "stress") if atoms.pbc.all() else ("energy", "forces")
    results = {name: getattr(copy, f"get_{'potential_energy' if name == 'energy' else name}")() for name in names}
    copy.calc = SinglePointCalculator(copy, **results)
    copy.info.update(info)
    return copy


def crystals(number: int = 12, seed: int = 0) -> list[Atoms]:
    """Cells of copper and gold, strained and shaken, of 2 to 8 atoms and three compositions, labelled by EMT."""
    random = np.random.default_rng(seed)
    frames = []
    for k in range(number):
        atoms = bulk("Cu", "fcc", a=3.8, cubic=True).repeat((1, 1, 1 + k % 2))
        atoms.numbers[: k % 3] = 79
        atoms.set_cell(atoms.cell @ (np.eye(3) + random.normal(scale=0.03, size=(3, 3))), scale_atoms=True)
        atoms.positions += random.normal(scale=0.12, size=atoms.positions.shape)
        frames.append(labelled(atoms, EMT(), group=f"run{k % 4}"))
    return frames


def molecules(number: int = 12, seed: int = 0) -> list[Atoms]:
    """Clusters of copper and gold in vacuum, labelled by a Lennard-Jones potential."""
    random = np.random.default_rng(seed)
    frames = []
    for k in range(number):
        rest = 2.4 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])[: 3 + k % 3]
        atoms = Atoms([29, 79, 29, 29, 79][: len(rest)], rest + random.normal(scale=0.1, size=rest.shape))
        frames.append(labelled(atoms, LennardJones(sigma=2.2, epsilon=0.3, rc=8.0), group=f"shape{k % 3}"))
    return frames


def write_crystals(path: Path, number: int = 12, seed: int = 0) -> Path:
    """`crystals` as extended xyz."""
    write(path, crystals(number, seed), format="extxyz")
    return path


def write_for(config: Path) -> None:
    """Files of structures where a configuration of `StructureDataModule` looks for them, with its elements and groups."""
    settings = yaml.safe_load(config.read_text())
    data, elements = settings["data"]["init_args"], settings["model"]["init_args"]["elements"]
    key, groups = data.get("keys", {}).get("group", "group"), data["split"].get("valid_groups", [])
    names = [*groups, *(f"other{k}" for k in range(20))]
    for seed, part in enumerate(("train", "test")):
        files = data.get(part, [])
        for number, file in enumerate([files] if isinstance(files, str) else files):
            frames = crystals(22, seed=2 * number + seed)
            for k, atoms in enumerate(frames):
                # All elements occur; the labels need not be theirs.
                atoms.calc.atoms.numbers = atoms.numbers = np.resize(np.roll(elements, -4 * k), len(atoms))
                atoms.info = {key: names[k % len(names)]}
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            write(file, frames, format="extxyz")
    if "isolated_atoms" in data:
        alone = [Atoms([z]) for z in elements]
        for z, atoms in zip(elements, alone, strict=True):
            atoms.calc = SinglePointCalculator(atoms, energy=-10.0 * z)
        write(data["isolated_atoms"], alone, format="extxyz")
