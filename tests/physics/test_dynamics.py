"""What a simulation relies on: smooth conservative forces, and energies that know nothing of what is far away."""

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from support.potentials import oxide, oxide_potential

from ponita.interfaces.ase import PonitaCalculator


def energy_error(potential, timestep, time=24.0):
    """Largest change of the total energy of a small crystal in a time (fs), eV."""
    atoms = oxide(repeat=2)
    atoms.calc = PonitaCalculator(potential, skin=0.5)
    atoms.set_momenta(np.random.default_rng(0).normal(scale=2.0, size=atoms.positions.shape))
    start, errors = atoms.get_total_energy(), []
    dynamics = VelocityVerlet(atoms, timestep * units.fs)
    dynamics.attach(lambda: errors.append(abs(atoms.get_total_energy() - start)))
    dynamics.run(round(time / timestep))
    return max(errors)


@pytest.mark.parametrize("kernel", ["mlp", "spline"])
def test_energy_is_conserved_to_second_order_in_the_time_step(kernel):
    potential = oxide_potential(kernel=kernel, lattice=(24, 16))
    coarse, fine = (energy_error(potential, step) for step in (0.8, 0.4))
    assert coarse > 1e-6
    assert 3.4 < coarse / fine < 4.6


def dimer(distance, direction=(0.3, 0.8, -0.52)):
    """Two atoms, with a third near the first so that nothing is symmetric."""
    direction = np.array(direction) / np.linalg.norm(direction)
    return Atoms("MgO2", [[0, 0, 0], distance * direction, [0.9, -1.1, 0.8]])


@pytest.mark.parametrize("kernel", ["mlp", "spline"])
def test_forces_are_continuous_where_a_pair_passes_the_cutoff(kernel):
    potential = oxide_potential(kernel=kernel, lattice=(24, 16))
    atoms = dimer(3.0)
    atoms.calc = PonitaCalculator(potential, skin=0.1)
    forces, distances = [], np.linspace(3.3, 3.7, 161)  # the list is made several times on the way
    for distance in distances:
        atoms.positions = dimer(distance).positions
        forces.append(atoms.get_forces())
    slopes = np.abs(np.diff(forces, axis=0)).max((1, 2)) / np.diff(distances)
    assert atoms.calc.neighbors.builds > 2
    assert np.abs(np.diff(slopes)).max() < 0.1 * slopes.max() and slopes[-1] < 1e-6 < slopes[0]


@pytest.mark.parametrize("kernel", ["mlp", "spline"])
def test_forces_are_continuous_where_a_pair_passes_an_orientation(kernel):
    """|r - (o.r) o| has a kink on the axis o; rounded, forces change there at a bounded rate."""
    potential = oxide_potential(kernel=kernel, lattice=(64, 48))
    axis = potential.network.grid[3].numpy()
    side = np.cross(axis, [0.1, 0.2, 1.0])
    atoms = dimer(1.8, axis)
    atoms.calc = PonitaCalculator(potential)
    turns = np.linspace(-0.3, 0.3, 121)
    forces = []
    for turn in turns:
        atoms.positions = dimer(1.8, axis + turn * side).positions
        forces.append(atoms.get_forces())
    rates = np.diff(forces, axis=0) / np.diff(turns)[:, None, None]
    assert np.abs(rates).max() > 1e-3
    assert np.abs(np.diff(rates, axis=0)).max() < 0.25 * np.abs(rates).max()


@pytest.mark.parametrize("kernel", ["mlp", "spline"])
def test_distant_parts_add_up_and_lone_atoms_have_the_energies_of_their_elements(kernel):
    potential = oxide_potential(kernel=kernel, lattice=(24, 16))
    calc = PonitaCalculator(potential)

    def energy(atoms):
        atoms.calc = calc
        return atoms.get_potential_energy() - float(potential.shift)

    molecule = oxide(pbc=False)
    far = molecule.copy()
    far.positions += [40.0, 5.0, -3.0]
    assert abs(energy(molecule + far) - 2 * energy(molecule)) < 1e-9
    single = {symbol: energy(Atoms(symbol, [[1.0, 2.0, 3.0]])) for symbol in ("O", "Mg")}
    spread_out = Atoms("OMgO", [[0, 0, 0], [9, 0, 0], [0, 9, 9]])
    assert abs(energy(spread_out) - 2 * single["O"] - single["Mg"]) < 1e-9
    assert np.abs(spread_out.get_forces()).max() == 0
    in_a_box = Atoms("Mg", cell=[9, 9, 9], pbc=True)
    assert abs(energy(in_a_box) - single["Mg"]) < 1e-9
    np.testing.assert_allclose(in_a_box.get_stress(), 0, atol=1e-12)
    with torch.no_grad():
        for block in potential.network.readouts.values():
            for parameter in block.parameters():
                parameter.zero_()
    calc = PonitaCalculator(potential)
    assert abs(energy(molecule) - (2 * -3.0 - 7.0)) < 1e-9  # the references alone


@pytest.mark.parametrize("kernel", ["mlp", "spline"])
def test_structures_of_a_batch_know_nothing_of_each_other(kernel):
    potential = oxide_potential(kernel=kernel, lattice=(24, 16))
    structures = [oxide(), oxide(repeat=2), oxide(cell=np.diag([3.0, 3.3, 2.9]))]
    batch = torch.repeat_interleave(torch.arange(3), torch.tensor([len(a) for a in structures]))
    together = potential.energy_forces(
        torch.tensor(np.concatenate([a.positions for a in structures])),
        torch.tensor(np.concatenate([a.numbers for a in structures])),
        batch=batch,
        cell=torch.tensor(np.stack([a.cell.array for a in structures])),
        stress=True,
    )
    for number, atoms in enumerate(structures):
        atoms.calc = PonitaCalculator(potential)
        assert abs(atoms.get_potential_energy() - float(together.energy[number])) < 1e-9
        np.testing.assert_allclose(atoms.get_forces(), together.forces[batch == number], rtol=0, atol=1e-9)
        np.testing.assert_allclose(atoms.get_stress(voigt=False), together.stress[number], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kernel", ["mlp", "spline"])
def test_a_cell_smaller_than_the_cutoff_has_the_energy_an_atom_and_the_stress_of_a_large_one(kernel):
    atoms, repeated = oxide(), oxide(repeat=3)
    potential = oxide_potential(kernel=kernel, lattice=(24, 16))
    assert atoms.cell.lengths().max() < potential.network.config["cutoff"] < 0.5 * repeated.cell.lengths().min()
    for structure in (atoms, repeated):
        structure.calc = PonitaCalculator(potential)
    per_atom = [(a.get_potential_energy() + 20) / len(a) for a in (atoms, repeated)]
    assert abs(per_atom[0] - per_atom[1]) < 1e-9
    np.testing.assert_allclose(repeated.get_forces(), np.tile(atoms.get_forces(), (27, 1)), rtol=0, atol=1e-9)
    np.testing.assert_allclose(repeated.get_stress(), atoms.get_stress(), rtol=0, atol=1e-9)
