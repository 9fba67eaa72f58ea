"""Molecules as flat arrays; bonds, valences, lengths and angles by the distance table."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import wasserstein_distance
from support.chemistry import carbon_monoxide, methyl, placed, scrambled, water

from ponita.data.chemistry import (
    angles,
    compare_geometry,
    has_table,
    lengths,
    table_bonds,
    table_stability,
    valences_allowed,
    wasserstein,
)
from ponita.data.molecules import Molecules, join, make_molecules


def pair(symbols: str, distance: float) -> Molecules:
    return placed(symbols, [[0, 0, 0], [0, 0, distance]])


def order_of(symbols: str, distance: float) -> int:
    return int(table_bonds(pair(symbols, distance)).orders.sum())


def test_taking_keeps_each_molecule_together():
    molecules = join([water(), carbon_monoxide(), methyl()])
    taken = molecules.take([2, -1, 0])
    assert len(taken) == 3 and taken.counts.tolist() == [4, 4, 3]
    np.testing.assert_array_equal(taken.numbers[-3:], [8, 1, 1])
    np.testing.assert_array_equal(taken.positions[:4], methyl().positions)
    masked = molecules.take(np.array([False, True, False]))
    assert masked.numbers.tolist() == [6, 8]
    assert len(molecules.take([])) == 0
    assert [len(one.numbers) for one in molecules] == [3, 2, 4]


def test_charges_survive_taking_and_are_dropped_where_some_lack_them():
    charged = Molecules.from_list([[6, 8], [1]], [np.zeros((2, 3)), np.zeros((1, 3))], [[-1, 1], [1]])
    assert charged.take([1, 0]).charges.tolist() == [1, -1, 1]
    assert join([charged, water()]).charges is None
    assert join([charged, charged]).charges.tolist() == [-1, 1, 1, -1, 1, 1]


def test_what_is_no_molecule_is_refused():
    with pytest.raises(ValueError, match=r"molecule 1 .* expected \(2, 3\)"):
        Molecules.from_list([[1], [6, 8]], [np.zeros((1, 3)), np.zeros((3, 3))])
    with pytest.raises(ValueError, match="molecule 1 has no atoms"):
        make_molecules(np.array([1]), np.zeros((1, 3)), [1, 0])
    with pytest.raises(ValueError, match="atomic number 0"):
        make_molecules(np.array([0]), np.zeros((1, 3)), [1])


@pytest.mark.parametrize(
    ("symbols", "limit", "order"),
    [
        ("CC", 1.64, 1),
        ("CC", 1.39, 2),
        ("CC", 1.23, 3),
        ("HC", 1.19, 1),
        ("ON", 1.26, 2),
        ("NN", 1.13, 3),
        ("FF", 1.52, 1),
    ],
)
def test_orders_change_at_the_length_of_the_table_plus_its_margin(symbols, limit, order):
    assert order_of(symbols, limit - 1e-6) == order
    assert order_of(symbols, limit + 1e-6) == order - 1
    assert order_of(symbols[::-1], limit - 1e-6) == order


def test_bonds_stay_inside_molecules_and_chunks_do_not_matter():
    molecules = join([scrambled(seed=seed) for seed in range(7)] + [water()] * 2)
    bonds = table_bonds(molecules)
    expected = []
    for first, end in itertools.pairwise(molecules.ptr):
        for i, j in itertools.combinations(range(first, end), 2):
            letters = "".join({1: "H", 6: "C", 8: "O"}[molecules.numbers[k]] for k in (i, j))
            order = order_of(letters, float(np.linalg.norm(molecules.positions[i] - molecules.positions[j])))
            expected += [(i, j, order)] * (order > 0)
    assert np.column_stack(bonds).tolist() == [list(row) for row in expected]
    np.testing.assert_array_equal(np.column_stack(table_bonds(molecules, chunk=2)), np.column_stack(bonds))


def test_stability_counts_atoms_and_whole_molecules():
    stable = table_stability(join([water(), methyl(), carbon_monoxide()]))
    # Carbon monoxide is short enough for a triple bond: three electrons too few for C, one bond too many for O.
    assert stable.atoms.tolist() == [True] * 3 + [False] + [True] * 3 + [False] * 2
    assert stable.molecules.tolist() == [True, False, False]


def test_elements_outside_of_the_table_are_an_error():
    sulfide = placed("SHH", [[0, 0, 0], [1.34, 0, 0], [0, 1.34, 0]])
    assert not has_table(sulfide)
    with pytest.raises(ValueError, match="atomic numbers \\[16\\]"):
        table_bonds(sulfide)


def test_valences_depend_on_the_charge():
    numbers, charges = np.array([7, 7, 7, 8, 6, 26]), np.array([0, 1, 0, -1, -1, 0])
    valences = np.array([3, 4, 4, 1, 3, 2])
    assert valences_allowed(numbers, charges, valences).tolist() == [True, True, False, True, True, False]
    with pytest.raises(ValueError, match="kekulise"):
        valences_allowed(numbers, charges, valences * 1.5)


def test_lengths_and_angles_of_water_and_methyl():
    molecules = join([water(), methyl()])
    found = lengths(molecules)
    assert found.keys() == {"O-H", "C-H"}
    np.testing.assert_allclose(found["C-H"], [1.079] * 3)
    bent = angles(molecules)["H-O-H"]
    np.testing.assert_allclose(bent, [np.degrees(np.arccos(-0.24 / np.hypot(0.24, 0.93)))])
    np.testing.assert_allclose(angles(molecules)["H-C-H"], [120.0] * 3)


def test_kinds_say_orders_and_put_hydrogen_last():
    assert lengths(pair("HC", 1.0)).keys() == lengths(pair("CH", 1.0)).keys() == {"C-H"}
    assert lengths(pair("OC", 1.2)).keys() == {"C=O"}
    assert lengths(pair("CC", 1.2)).keys() == {"C#C"}
    assert angles(placed("HCO", [[-1, 0, 0], [0, 0, 0], [0, 1.4, 0]])).keys() == {"O-C-H"}


def test_wasserstein_agrees_with_scipy():
    generator = np.random.default_rng(0)
    one, two = generator.normal(size=41), generator.normal(0.5, 2.0, size=70)
    assert wasserstein(one, two) == pytest.approx(wasserstein_distance(one, two), rel=1e-12)
    assert wasserstein(one, one + 0.25) == pytest.approx(0.25)
    assert np.isnan(wasserstein(one, np.zeros(0)))


def test_geometry_is_compared_kind_by_kind():
    longer = placed("OHH", (np.array(water().positions) * 1.1).tolist())
    rows = {row.kind: row for row in compare_geometry(join([longer, longer]), join([water(), methyl()]))}
    assert rows["O-H"].wasserstein == pytest.approx(0.1 * lengths(water())["O-H"].mean(), rel=1e-6)
    assert rows["H-O-H"].wasserstein == pytest.approx(0.0, abs=1e-9)
    assert (rows["O-H"].count, rows["O-H"].reference_count) == (4, 2)
    assert np.isnan(rows["C-H"].wasserstein)
