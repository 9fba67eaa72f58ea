"""Reference energies: exact where compositions determine them, honest where they do not."""

import warnings

import numpy as np
import pytest

from ponita.data import concatenate, make_structures
from ponita.data.elements import all_electron_energy, atomic_number, formula
from ponita.data.references import (
    given_references,
    isolated_references,
    least_squares_references,
    sum_compositions,
)

TRUE = {1: -13.6, 6: -1029.5, 8: -2041.8}


def of_compositions(compositions, energies, noise=None):
    """Structures with so many atoms of each element, whose energies are sums, plus noise an atom."""
    numbers = [np.repeat([1, 6, 8], counts) for counts in compositions]
    total = np.array([sum(energies[z] for z in part) for part in numbers])
    sizes = np.array([len(part) for part in numbers])
    energy = total + (0 if noise is None else sizes * np.asarray(noise))
    atoms = np.concatenate(numbers)
    return make_structures(np.zeros((len(atoms), 3)), atoms, sizes, "m", energy=energy)


def test_least_squares_finds_what_energies_were_made_of():
    s = of_compositions([(4, 1, 0), (2, 0, 1), (0, 1, 2), (6, 2, 1)], TRUE)
    found = least_squares_references(sum_compositions(s.chunks(2), [8, 1, 6]))
    assert found.energies == pytest.approx(TRUE, abs=1e-6)
    assert found.residual_rms == pytest.approx(0, abs=1e-4) and found.residual_mean == pytest.approx(0, abs=1e-7)
    assert not found.warnings and found.source == "least squares over 4 structures"


def test_the_solution_is_that_of_numpy_and_the_residuals_are_its():
    noise = np.random.default_rng(0).normal(scale=0.1, size=8)
    s = of_compositions([(4, 1, 0), (2, 0, 1), (0, 1, 2), (6, 2, 1)] * 2, TRUE, noise)
    found = least_squares_references(sum_compositions([s], [1, 6, 8]))
    fractions = s.composition([1, 6, 8]) / s.counts[:, None]
    expected = np.linalg.lstsq(fractions, s.energy / s.counts, rcond=None)[0]
    np.testing.assert_allclose(list(found.energies.values()), expected, rtol=1e-9)
    residual = s.energy / s.counts - fractions @ expected
    assert found.residual_mean == pytest.approx(residual.mean(), abs=1e-7)
    assert found.residual_rms == pytest.approx(residual.std(), rel=1e-5)


def test_compositions_that_do_not_determine_references_are_told():
    s = of_compositions([(4, 1, 0), (8, 2, 0)], TRUE)
    with pytest.warns(UserWarning, match="2 compositions determine 1 of 2 reference energies; the smallest ones"):
        found = least_squares_references(sum_compositions([s], [1, 6]))
    assert 4 * found.energies[1] + found.energies[6] == pytest.approx(4 * TRUE[1] + TRUE[6])
    with pytest.warns(UserWarning) as caught:
        found = least_squares_references(sum_compositions([s], [1, 6, 8]))
    assert found.energies[8] == 0 and "holds O: their reference energies are 0" in str(caught[1].message)
    assert len(found.warnings) == 2


def test_isolated_atoms_come_from_training_structures_or_from_a_file_of_their_own():
    molecules = of_compositions([(4, 1, 0), (2, 0, 1)], {z: e - 4.0 for z, e in TRUE.items()})
    atoms = of_compositions([(1, 0, 0), (0, 1, 0), (0, 0, 1)], TRUE)
    inside = isolated_references(sum_compositions([concatenate([molecules, atoms])], [1, 6, 8]))
    beside = isolated_references(sum_compositions([molecules], [1, 6, 8]), atoms)
    assert inside.energies == beside.energies == pytest.approx(TRUE)
    assert beside.residual_mean == pytest.approx(-4.0) and beside.source == "isolated atoms"
    with pytest.raises(ValueError, match="no isolated atoms of C, O with an energy"):
        isolated_references(sum_compositions([molecules], [1, 6, 8]), atoms.take([0]))
    twice = concatenate([atoms, of_compositions([(1, 0, 0)], {1: -13.5})])
    with pytest.raises(ValueError, match=r"isolated atoms of H have energies from -13\.6000 to -13\.5000 eV"):
        isolated_references(sum_compositions([molecules], [1, 6, 8]), twice)


def test_energies_are_given_by_symbol_or_number():
    sums = sum_compositions([of_compositions([(4, 1, 0)], TRUE)], [1, 6])
    assert given_references(sums, {"H": -13.6, "6": -1029.5, "O": 1}).energies == {1: -13.6, 6: -1029.5}
    with pytest.raises(ValueError, match="has no energy of C; expected one for every element"):
        given_references(sums, {"H": -13.6})
    with pytest.raises(ValueError, match="'Hx' is no element"):
        given_references(sums, {"Hx": -13.6})


def test_structures_without_energies_do_not_count():
    s = of_compositions([(4, 1, 0), (2, 0, 1)], TRUE)
    s.energy[1] = np.nan
    sums = sum_compositions([s], [1, 6, 8])
    assert sums.count == 1
    with pytest.raises(ValueError, match="no structure has an energy"):
        least_squares_references(sum_compositions([s.take([1])], [1, 8]))


def test_elements():
    assert atomic_number("Si") == atomic_number(14) == atomic_number("14") == 14
    assert formula([8, 1, 6, 1, 6, 1, 1, 1, 1]) == "C2H6O" and formula([14, 8, 8]) == "O2Si"
    # Hartree-Fock limits of atoms, in hartree: N 54.4, Ne 128.5, Ar 526.8, Xe 7232.1
    estimate = all_electron_energy(np.array([7, 10, 18, 54])) / 27.211386
    np.testing.assert_allclose(estimate, [-54.4, -128.5, -526.8, -7232.1], rtol=0.02)
    with warnings.catch_warnings(), pytest.raises(ValueError, match="'X' is no element"):
        atomic_number("X")
