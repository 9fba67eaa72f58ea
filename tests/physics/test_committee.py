"""Committees: means, spreads, and simulations that stop where the members disagree."""

import numpy as np
import pytest
import torch
from ase import units
from ase.io import read
from ase.md.verlet import VelocityVerlet
from support.potentials import oxide, oxide_potential

from ponita.interfaces.ase import CommitteeCalculator, PonitaCalculator, SpreadError, StopOnSpread
from ponita.interfaces.committee import vector_spread


def members(**changes):
    return [oxide_potential(seed, **changes) for seed in range(3)]


def test_means_and_standard_deviations_are_those_of_the_members():
    potentials, atoms = members(), oxide()
    single = []
    for potential in potentials:
        copy = atoms.copy()
        copy.calc = PonitaCalculator(potential)
        single.append(
            (copy.get_potential_energy(), copy.get_forces(), copy.get_stress(), copy.get_potential_energies())
        )
    energy, forces, stress, energies = (np.stack(values) for values in zip(*single, strict=True))
    atoms.calc = calc = CommitteeCalculator(potentials)
    np.testing.assert_allclose(atoms.get_potential_energy(), energy.mean(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(atoms.get_forces(), forces.mean(0), rtol=0, atol=1e-10)
    np.testing.assert_allclose(atoms.get_stress(), stress.mean(0), rtol=0, atol=1e-10)
    np.testing.assert_allclose(atoms.get_potential_energies(), energies.mean(0), rtol=0, atol=1e-10)
    spread = (((forces - forces.mean(0)) ** 2).sum((0, 2)) / 2) ** 0.5
    assert spread.min() > 1e-3
    np.testing.assert_allclose(calc.get_property("forces_std", atoms), spread, rtol=1e-10)
    np.testing.assert_allclose(calc.get_property("energies_std", atoms), energies.std(0, ddof=1), rtol=1e-10)
    assert abs(calc.get_property("energy_std", atoms) - energy.std(ddof=1)) < 1e-10
    assert calc.get_property("max_force_std", atoms) == calc.get_property("forces_std", atoms).max()


def test_members_of_one_kind_share_a_list_and_others_have_their_own():
    same, mixed = CommitteeCalculator(members()), CommitteeCalculator([*members(), oxide_potential(cutoff=2.5)])
    assert len(same.committee.lists) == 1 and len(mixed.committee.lists) == 2
    atoms = oxide()
    atoms.calc = mixed
    expected = []
    for potential in (*members(), oxide_potential(cutoff=2.5)):
        copy = atoms.copy()
        copy.calc = PonitaCalculator(potential)
        expected.append(copy.get_forces())
    np.testing.assert_allclose(atoms.get_forces(), np.mean(expected, axis=0), rtol=0, atol=1e-10)


def test_equal_members_agree():
    atoms = oxide()
    atoms.calc = CommitteeCalculator([oxide_potential(), oxide_potential()])
    atoms.get_forces()
    assert atoms.calc.results["max_force_std"] < 1e-12 and atoms.calc.results["energy_std"] < 1e-12


def test_the_spread_of_vectors_does_not_depend_on_the_axes():
    vectors = torch.randn(4, 5, 3, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    torch.testing.assert_close(vector_spread(vectors @ turn.T), vector_spread(vectors))


def test_a_simulation_stops_where_the_members_disagree(tmp_path):
    atoms = oxide(repeat=2)
    atoms.calc = CommitteeCalculator(members())
    atoms.set_momenta(np.random.default_rng(0).normal(scale=4.0, size=atoms.positions.shape))
    start = atoms.calc.get_property("max_force_std", atoms)
    dynamics = VelocityVerlet(atoms, 2 * units.fs)
    dynamics.attach(StopOnSpread(atoms, 1.05 * start, tmp_path / "stopped.xyz"))
    with pytest.raises(
        SpreadError, match=r"spread of forces is .* eV/Å on atom \d+ \((O|Mg)\), above the threshold of"
    ):
        dynamics.run(100)
    assert 0 < dynamics.nsteps < 100 and atoms.calc.results["max_force_std"] > 1.05 * start
    frame = read(tmp_path / "stopped.xyz")
    np.testing.assert_allclose(frame.positions, atoms.positions, atol=1e-7)
    np.testing.assert_allclose(frame.get_forces(), atoms.get_forces(), atol=1e-7)


def test_what_is_no_committee_is_explained(tmp_path):
    with pytest.raises(ValueError, match="a committee of 1 has no spread; expected at least two"):
        CommitteeCalculator([oxide_potential()])
    with pytest.raises(ValueError, match="threshold=0; expected a positive number"):
        StopOnSpread(oxide(), 0, tmp_path / "x.xyz")
    atoms = oxide()
    atoms.numbers[0] = 26
    atoms.calc = CommitteeCalculator(members())
    with pytest.raises(ValueError, match=r"atomic numbers \[26\] are unknown"):
        atoms.get_forces()
