"""Faults that are planted are found, named, and nothing else is."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from support.atoms import crystals, molecules

from ponita.data import from_ase, make_structures
from ponita.data.energy_faults import energy_units, forces_against_energies
from ponita.data.faults import (
    Fault,
    close_atoms,
    duplicates,
    find_faults,
    flat_cells,
    force_outliers,
    missing_labels,
    net_forces,
    shared,
)
from ponita.data.inspection import describe, summarize, summarize_elements, summarize_groups
from ponita.data.units import EV_PER_KCAL_MOL, HARTREE


def kinds(structures) -> dict[str, Fault]:
    return {fault.kind: fault for fault in find_faults(structures)}


def test_sound_structures_have_no_faults():
    assert not kinds(from_ase(crystals(12)))
    assert not kinds(from_ase(molecules(12)))


def planted(change, frames=None):
    frames = crystals(12) if frames is None else frames
    change(frames)
    return from_ase(frames, source="f.xyz")


def set_forces(frames, k, forces):
    frames[k].calc.results["forces"] = forces


def test_a_huge_force_is_named():
    def change(frames):
        forces = frames[7].calc.results["forces"]
        forces[0] += [5e3, 0, 0]
        forces[1] -= [5e3, 0, 0]

    fault = force_outliers(planted(change))
    assert fault.rows.tolist() == [7] and "forces up to 5" in fault.message
    s = planted(change)
    assert fault.describe(s).endswith("(f.xyz, structure 7)") and list(kinds(s)) == ["huge forces"]


def test_forces_that_push_the_whole_structure_are_named():
    def change(frames):
        frames[3].calc.results["forces"] = frames[3].calc.results["forces"] + [0, 0, 0.01]

    fault = net_forces(planted(change))
    assert fault.rows.tolist() == [3] and "up to 10 meV/Å an atom" in fault.message


def test_repeated_frames_are_named_and_contradictions_counted():
    frames = [*crystals(10), crystals(10)[4], crystals(10)[2]]
    frames[10].calc.results["energy"] += 1.0
    s = from_ase(frames)
    fault = duplicates(s)
    assert sorted(fault.rows.tolist()) == [10, 11] and "1 of them with energies that differ" in fault.message
    assert shared(s.take([2, 4]), s.take(range(5, 12))).tolist() == [5, 6]
    moved = from_ase(frames[:10])
    moved.positions[:] += 1e-3
    assert not shared(s, moved).size


def test_missing_labels_are_counted():
    def change(frames):
        for atoms in frames[:4]:
            del atoms.calc.results["stress"]
        frames[2].calc = SinglePointCalculator(frames[2], energy=frames[2].calc.results["energy"])

    faults = {fault.kind: fault for fault in missing_labels(planted(change))}
    assert faults["missing stress"].rows.tolist() == [0, 1, 2, 3]
    assert faults["missing stress"].message == "4 of 12 periodic structures"
    assert faults["missing forces"].rows.tolist() == [2] and "missing energy" not in faults
    bare = [atoms.copy() for atoms in crystals(3)]
    assert kinds(from_ase(bare))["missing forces"].message == "none of the structures has one"
    assert "missing stress" not in kinds(from_ase(molecules(3)))


def test_flat_cells_are_severe_and_come_first():
    def change(frames):
        frames[1].cell[2] = frames[1].cell[0] + frames[1].cell[1]
        frames[5].cell[:] = 0
        frames[6].positions[0] = frames[6].positions[1] + 0.1

    s = planted(change)
    assert flat_cells(s).rows.tolist() == [1, 5] and flat_cells(s).severe
    assert close_atoms(s).rows.tolist() == [6] and "down to 0.173 Å" in close_atoms(s).message
    assert next(iter(kinds(s))) == "flat cell"
    slab = from_ase([Atoms("Cu2", [[0, 0, 0], [0, 0, 2]], cell=[3, 3, 0], pbc=[True, True, False])])
    assert flat_cells(slab) is None and close_atoms(slab) is None


def test_an_atom_and_its_image_can_be_too_close():
    s = from_ase([Atoms("Cu", [[0, 0, 0]], cell=[3, 3, 0.4], pbc=True)])
    assert "down to 0.400 Å" in close_atoms(s).message


def all_electron(number=20):
    """Water and methane of about the right energies with all electrons, eV."""
    random = np.random.default_rng(0)
    numbers = [[8, 1, 1] if k % 2 else [6, 1, 1, 1, 1] for k in range(number)]
    energy = [(-2079.0 if k % 2 else -1102.0) + random.normal(scale=0.1) for k in range(number)]
    positions = random.normal(scale=3, size=(sum(map(len, numbers)), 3))
    atoms = np.concatenate(numbers)
    return make_structures(positions, atoms, [len(part) for part in numbers], energy=np.array(energy))


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("Ha", 1 / HARTREE), ("Ry", 2 / HARTREE), ("kcal/mol", 1 / EV_PER_KCAL_MOL), ("kJ/mol", 4.184 / EV_PER_KCAL_MOL)],
)
def test_energies_in_another_unit_are_recognised(unit, factor):
    s = all_electron()
    assert energy_units(s) is None
    s.energy[:] *= factor
    assert f"they look like {unit}; expected eV. Declare it: units.energy={unit}" in energy_units(s)


def test_energies_of_pseudopotentials_are_left_alone_unless_they_are_huge():
    s = from_ase(crystals(12))
    assert energy_units(s) is None
    s.energy[:] = -3e5
    assert "Are they in another unit" in energy_units(s)


def trajectory(number=30):
    """Steps of a tenth of an ångström in a harmonic well."""
    random = np.random.default_rng(1)
    x = np.cumsum(random.normal(scale=0.05, size=(number, 4, 3)), axis=0)
    x = np.concatenate([x, -x.sum(1, keepdims=True)], axis=1)
    rest = 3.0 * random.normal(size=(1, 5, 3))
    energy, forces = 2.0 * (x**2).sum((1, 2)), -4.0 * x
    atoms = np.full(5 * number, 14)
    return make_structures((rest + x).reshape(-1, 3), atoms, [5] * number, energy=energy, forces=forces.reshape(-1, 3))


def test_forces_are_compared_with_the_work_they_do():
    s = trajectory()
    assert forces_against_energies(s) is None
    s.energy[:] /= HARTREE
    assert "as if energies were in Ha and forces in eV/Å" in forces_against_energies(s)
    s.energy[:] *= -HARTREE
    assert "energies rise where forces push" in forces_against_energies(s)


def test_an_energy_that_does_not_belong_is_named():
    def change(frames):
        frames[8].calc.results["energy"] += 400.0

    fault = kinds(planted(change, crystals(24)))["energy outliers"]
    assert fault.rows.tolist() == [8]
    assert "energy outliers" not in kinds(planted(change))  # too few to tell


def test_summaries_hold_the_numbers_of_the_structures():
    frames = crystals(12)
    s = from_ase(frames)
    rows = {row[0].strip(): row for row in summarize(s)}
    largest = max(np.linalg.norm(atoms.get_forces(), axis=1).max() for atoms in frames)
    assert float(rows["forces"][6]) == pytest.approx(largest, rel=1e-4)
    assert float(rows["energy of an atom"][5]) == pytest.approx(np.mean(s.energy / s.counts), rel=1e-4)
    assert float(rows["pressure"][3]) == pytest.approx(
        min(-atoms.get_stress()[:3].mean() / 0.006241509 for atoms in frames), rel=1e-4
    )
    of_elements = summarize_elements(s)
    assert [row[0] for row in of_elements[1:]] == ["Cu", "Au"] and of_elements[1][2] == str((s.numbers == 29).sum())
    assert {row[0]: row[1] for row in summarize_groups(s)[1:]} == {f"run{k}": "3" for k in range(4)}
    assert len(summarize_groups(s, limit=2)) == 4
    assert describe(s)[0].startswith("12 structures of 72 atoms: 6 compositions, 2 elements, 12 periodic")
    one = from_ase([atoms for atoms in molecules(9) if len(atoms) == 3])
    assert describe(one)[0] == "3 structures of 9 atoms: AuCu2, 2 elements, 0 periodic"
    assert summarize_elements(one)[1][-1] == "-"  # one composition determines no reference energy
