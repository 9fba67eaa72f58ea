"""What is wrong with structures is said by `ponita data inspect` and before training, and no file or structure is lost."""

import warnings
from pathlib import Path

import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from support.atoms import crystals

from ponita import Ponita
from ponita.data import Split, read_structures
from ponita.data.elements import all_electron_energy
from ponita.data.units import HARTREE
from ponita.models import Potential
from ponita.tasks.cli import main
from ponita.tasks.potential import StructureDataModule
from ponita.tasks.potential.structure_set import StructureSet


def all_electrons_in_hartree(frames):
    for atoms in frames:
        atoms.calc.results["energy"] += float(all_electron_energy(atoms.numbers).sum())
        atoms.calc.results["energy"] /= HARTREE


def huge_energies(frames):
    for atoms in frames:
        atoms.calc.results["energy"] -= 4e5 * len(atoms)


def without_forces(frames):
    for atoms in frames[4:7]:
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.calc.results["energy"])


def huge_force(frames):
    frames[5].calc.results["forces"][0, 0] += 1e4
    frames[5].calc.results["forces"][1, 0] -= 1e4


def flat_cell(frames):
    frames[3].cell[2] = frames[3].cell[1]


#: What is planted, what inspection says, and what training says: an error where it cannot work, else a warning.
FAULTS = {
    "hartree": (all_electrons_in_hartree, "they look like Ha; expected eV. Declare it: units.energy=Ha", UserWarning),
    "magnitude": (huge_energies, "unit of energy: energies are 4e+05 eV an atom in size; expected less", UserWarning),
    "no forces": (without_forces, "missing forces: 3 of 12 structures (train.xyz, structure 4;", None),
    "outlier": (huge_force, "huge forces: 1 structures have forces up to 1e+04 eV/Å", UserWarning),
    "flat": (flat_cell, "flat cell: 1 structures are periodic along cell vectors that are missing or", ValueError),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_said_and_nothing_is_lost(name, tmp_path, monkeypatch, capsys):
    plant, message, kind = FAULTS[name]
    monkeypatch.chdir(tmp_path)
    frames = crystals(12)
    plant(frames)
    write("train.xyz", frames, format="extxyz")
    before = Path("train.xyz").read_bytes()
    main(["data", "inspect", "train.xyz"])
    wrong = capsys.readouterr().out.split("what looks wrong:")[1]
    assert message in wrong
    module = StructureDataModule("train.xyz", split=Split(valid_indices=[0]))
    if kind is ValueError:
        with pytest.raises(ValueError, match=r"train\.xyz, structure 3"):
            module.setup("fit")
    else:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            module.setup("fit")
        assert len(module.sets["train"]) == 11
        assert kind is None or any(message in str(w.message) for w in caught)
    assert Path("train.xyz").read_bytes() == before and len(read_structures("train.xyz")) == 12


def test_batches_of_cells_smaller_than_the_cutoff_are_those_of_their_supercells(tmp_path):
    frames = crystals(1)
    assert frames[0].cell.lengths().max() < 5.0
    write(tmp_path / "cells.xyz", [frames[0], frames[0].repeat(3)], format="extxyz")
    network = Ponita(2, hidden_channels=8, basis_channels=8, num_layers=2, num_orientations=6, cutoff=5.0, kernel="mlp")
    potential = Potential(network, [29, 79], self_loops=False)
    chosen = StructureSet(read_structures(tmp_path / "cells.xyz"))
    chosen.list_neighbors(5.0, loops=False)
    batch = chosen.__getitems__([0, 1])
    inputs = {"batch": batch.batch, "cell": batch.cell, "offsets": batch.offsets, "edge_index": batch.neighbors}
    with torch.no_grad():
        small, large = potential(batch.pos, batch.numbers, **inputs)
    torch.testing.assert_close(large, 27 * small, rtol=1e-5, atol=0)
