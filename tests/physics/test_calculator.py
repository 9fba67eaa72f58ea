"""The calculator of ASE: the potential's own numbers, whatever the neighbour list has seen before."""

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md.verlet import VelocityVerlet
from support.potentials import TRICLINIC, oxide, oxide_potential

from ponita.interfaces.ase import PonitaCalculator
from ponita.interfaces.skin import ListKind, SkinList
from ponita.models import save, voigt

SETTINGS = {"crystal": True, "slab": (True, True, False), "molecule": False}


def direct(potential, atoms, **options):
    """Energy, forces and stress with a neighbour list of its own."""
    pos, numbers = torch.tensor(atoms.positions), torch.tensor(atoms.numbers)
    if not atoms.pbc.any():
        return potential.energy_forces(pos, numbers, **options)
    cell, pbc = torch.tensor(atoms.cell.array)[None], torch.tensor(atoms.pbc)[None]
    return potential.energy_forces(pos, numbers, cell=cell, pbc=pbc, stress=True, **options)


def assert_same(atoms, potential, tolerance=1e-9):
    energy, forces, *stress = direct(potential, atoms)
    assert abs(atoms.get_potential_energy() - float(energy)) < tolerance
    np.testing.assert_allclose(atoms.get_forces(), forces, rtol=0, atol=tolerance)
    if stress:
        np.testing.assert_allclose(atoms.get_stress(), voigt(stress[0])[0], rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "network",
    [{}, {"kernel": "spline", "lattice": (16, 12)}, {"num_orientations": 4}, {"attention_channels": 4}],
    ids=["mlp", "spline", "one-sided", "attention"],
)
@pytest.mark.parametrize("name", SETTINGS)
def test_numbers_are_those_of_the_potential(name, network):
    potential, atoms = oxide_potential(**network), oxide(pbc=SETTINGS[name])
    atoms.calc = PonitaCalculator(potential, skin=1.0)  # finds many pairs that are too far apart
    assert_same(atoms, potential)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    energies = atoms.get_potential_energies()
    assert energies.shape == (3,) and abs(energies.sum() - atoms.get_potential_energy()) < 1e-9
    assert abs(energies[1] - energies[2]) > 1e-5


@pytest.mark.parametrize("name", SETTINGS)
def test_forces_and_stress_are_the_derivatives_ase_finds(name):
    atoms = oxide(pbc=SETTINGS[name])
    atoms.calc = PonitaCalculator(oxide_potential())
    assert np.abs(atoms.get_forces()).max() > 1e-2
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-5), atol=1e-7)
    if name == "molecule":
        with pytest.raises(PropertyNotImplementedError, match="needs a periodic structure with a volume"):
            atoms.get_stress()
        return
    stress = atoms.get_stress()
    assert np.abs(stress).max() > 1e-3
    np.testing.assert_allclose(stress, calculate_numerical_stress(atoms, eps=1e-5), atol=1e-8)


def test_a_periodic_direction_without_a_volume_has_forces_but_no_stress():
    atoms = oxide(pbc=(True, True, False))
    atoms.cell[2] = 0
    potential = oxide_potential()
    atoms.calc = PonitaCalculator(potential)
    with_volume = oxide(pbc=(True, True, False))
    np.testing.assert_allclose(atoms.get_forces(), direct(potential, with_volume).forces, atol=1e-10)
    with pytest.raises(PropertyNotImplementedError, match="with a volume"):
        atoms.get_stress()


@pytest.mark.parametrize("kernel", ["mlp", "spline"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_where_the_cell_puts_an_atom_does_not_matter(dtype, kernel):
    """Nor where the origin is, and float32 has its digits far away too."""
    tolerance = {"float64": 1e-9, "float32": 2e-4}[dtype]
    potential = oxide_potential(kernel=kernel, lattice=(24, 16))
    for pbc in SETTINGS.values():
        atoms = oxide(pbc=pbc)
        moved = atoms.copy()
        moved.positions += np.array([[900, -700, 400], [0, 100, 0], [-1, 0, 3]]) * atoms.pbc @ atoms.cell.array
        moved.positions += [12345.5, -23456.6, 3456.7]
        for structure in (atoms, moved):
            structure.calc = PonitaCalculator(potential, dtype=dtype)
        assert abs(atoms.get_potential_energy() - moved.get_potential_energy()) < tolerance
        np.testing.assert_allclose(atoms.get_forces(), moved.get_forces(), rtol=0, atol=tolerance)


def test_wrapping_during_a_simulation_changes_nothing():
    potential, atoms = oxide_potential(), oxide(repeat=2)
    atoms.calc = PonitaCalculator(potential)
    atoms.positions += 1.3
    before = atoms.get_forces()
    atoms.wrap()
    np.testing.assert_allclose(atoms.get_forces(), before, rtol=0, atol=1e-10)


def displacements(pos, edge_index, offsets, cell):
    """Rows (sender, receiver, r) of a list, as a set."""
    r = pos[edge_index[0]] - pos[edge_index[1]] + offsets.double() @ cell
    return {(*ends, *(round(x, 6) for x in row)) for ends, row in zip(edge_index.T.tolist(), r.tolist(), strict=True)}


@pytest.mark.parametrize("moves", ["atoms", "cell", "both"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_list_that_is_kept_has_the_pairs_a_new_one_would_have(name, moves):
    potential = oxide_potential()
    near, rng = SkinList(ListKind.of(potential), skin=0.4), np.random.default_rng(0)
    atoms = oxide(pbc=SETTINGS[name], repeat=2)
    for _ in range(60):
        if moves != "cell":
            atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
        if moves != "atoms":
            strain = np.eye(3) + rng.normal(scale=0.01, size=(3, 3))
            atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        pos, cell, pbc = torch.tensor(atoms.positions), torch.tensor(atoms.cell.array), torch.tensor(atoms.pbc)
        graph = near.graph(pos, cell, pbc)
        offsets = torch.zeros(graph.edges.num_edges, 3) if graph.offsets is None else graph.offsets
        kept = displacements(graph.pos, graph.edges.edge_index, offsets, cell)
        edge_index, offsets = potential.neighbors(pos, None, cell[None], pbc[None])
        assert kept == displacements(pos, edge_index, offsets, cell)
        assert len(kept) == graph.edges.num_edges
        edges = graph.edges
        assert torch.equal(edges.edge_index[:, edges.reverse], edges.edge_index.flip(0))
        ends = edges.pair_index[:, edges.pair]
        assert torch.equal(torch.where(edges.flip, ends.flip(0), ends), edges.edge_index)
    assert 1 < near.builds < 50


def test_a_pair_is_never_missed_when_the_cell_shrinks_around_it():
    """Two atoms whose images are just out of the list's reach: a strain of a few percent brings them within it."""
    potential = oxide_potential()
    near = SkinList(ListKind.of(potential), skin=0.3)
    pos, pbc = torch.tensor([[0.0, 0.0, 0.0], [3.9, 0.0, 0.0]], dtype=torch.float64), torch.tensor([True] * 3)
    cell = 12.0 * torch.eye(3, dtype=torch.float64)
    assert near.graph(pos, cell, pbc).edges.num_edges == 2  # the self-loops
    assert near.graph(pos * 0.95, cell * 0.95, pbc).edges.num_edges == 2 and near.builds == 1
    assert near.graph(pos * 0.89, cell * 0.89, pbc).edges.num_edges == 4 and near.builds == 2


def test_reuse_ends_where_the_skin_does():
    near = SkinList(ListKind.of(oxide_potential()), skin=0.4)
    atoms = oxide(repeat=2)
    pos, cell, pbc = torch.tensor(atoms.positions), torch.tensor(atoms.cell.array), torch.tensor(atoms.pbc)

    def moved(atom, length):
        shift = torch.zeros_like(pos)
        shift[atom, 1] = length
        return pos + shift

    near.graph(pos, cell, pbc)
    near.graph(moved(3, 0.199), cell, pbc)
    assert near.builds == 1
    near.graph(moved(3, 0.201), cell, pbc)
    assert near.builds == 2
    near.graph(pos[:-1], cell, pbc)
    near.graph(pos[:-1], cell, torch.tensor([True, True, False]))
    assert near.builds == 4


def test_a_simulation_with_a_skin_is_the_one_without():
    potential = oxide_potential()
    ends = []
    for skin in (0.0, 0.5):
        atoms = oxide(repeat=2)
        atoms.set_momenta(np.random.default_rng(0).normal(scale=3.0, size=atoms.positions.shape))
        atoms.calc = PonitaCalculator(potential, skin=skin)
        VelocityVerlet(atoms, 1.0 * units.fs).run(40)
        ends.append((atoms.positions, atoms.calc.neighbors.builds))
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=0, atol=1e-9)
    assert ends[0][1] == 41 and ends[1][1] < 12


def test_tables_are_made_once_and_the_original_may_go_on_training(monkeypatch):
    from ponita.nn.spline import KernelLattice

    potential, atoms = oxide_potential(kernel="spline", lattice=(16, 12)), oxide()
    calls, made = [], KernelLattice.coefficients
    monkeypatch.setattr(KernelLattice, "coefficients", lambda *args: (calls.append(1), made(*args))[1])
    atoms.calc = PonitaCalculator(potential)
    assert all(p.requires_grad for p in potential.parameters())
    energy = atoms.get_potential_energy()
    with torch.no_grad():
        next(potential.parameters()).add_(1.0)
    for _ in range(3):
        atoms.positions += 0.01
        assert abs(atoms.get_potential_energy() - energy) < 1e-9
    assert len(calls) == 1


def test_tabulation_and_precision_are_options():
    potential, atoms = oxide_potential(), oxide()
    forces = {}
    for name, options in {"exact": {}, "table": {"tabulate": (64, 48)}, "single": {"dtype": "float32"}}.items():
        atoms.calc = PonitaCalculator(potential, **options)
        forces[name] = atoms.get_forces()
    assert atoms.calc.evaluator.dtype == torch.float32 and potential.network.dtype == torch.float64
    for name, low, high in (("table", 1e-9, 1e-3), ("single", 1e-9, 1e-4)):
        assert low < np.abs(forces[name] - forces["exact"]).max() < high
    spline = oxide_potential(kernel="spline", lattice=(16, 12))
    kept = PonitaCalculator(spline, tabulate=(64, 48)).evaluator.potential.network.config["lattice"]
    assert list(kept) == [16, 12]


def test_files_and_heads(tmp_path):
    potential = oxide_potential()
    save(potential, tmp_path / "oxide.pt")
    atoms = oxide()
    atoms.calc = PonitaCalculator(tmp_path / "oxide.pt", head="default")
    assert_same(atoms, potential)
    save(potential.network, tmp_path / "network.pt")
    for arguments, message in (
        ({"potential": potential, "head": "r2scan"}, r"head='r2scan' is unknown to this potential; expected one of"),
        ({"potential": potential, "dtype": "half"}, "dtype='half'; expected 'float32', 'float64'"),
        ({"potential": potential, "skin": -0.1}, r"skin=-0\.1; expected a length"),
        ({"potential": str(tmp_path / "network.pt")}, "network.pt is a Ponita; expected a Potential"),
        ({"potential": potential.network}, "the model is a Ponita; expected a Potential"),
    ):
        with pytest.raises(ValueError, match=message):
            PonitaCalculator(**arguments)


@pytest.mark.parametrize(
    ("atoms", "network", "message"),
    [
        (Atoms("OFe", [[0, 0, 0], [0, 0, 1.6]]), {}, r"atomic numbers \[26\] are unknown to this potential"),
        (oxide(), {"cutoff": None}, r"pbc=\[True, True, True\], but the potential has no cutoff"),
        (oxide(cell=TRICLINIC * [[1], [1], [0]]), {}, r"is flat along a periodic direction \(volume 0\)"),
        (
            Atoms("O2", [[0, 0, 0], [0, 0, float("nan")]]),
            {},
            r"positions of atoms \[1\] are not finite; a smaller time",
        ),
    ],
    ids=["element", "no cut-off", "flat", "exploded"],
)
def test_bad_structures_are_explained(atoms, network, message):
    atoms = atoms.copy()
    atoms.calc = PonitaCalculator(oxide_potential(**network))
    with pytest.raises(ValueError, match=message):
        atoms.get_potential_energy()


def test_a_molecule_without_a_cutoff_keeps_its_list_and_new_atoms_get_a_new_one():
    potential = oxide_potential(cutoff=None)
    atoms = oxide(pbc=False)
    atoms.calc = PonitaCalculator(potential)
    for _ in range(3):
        assert_same(atoms, potential)
        atoms.positions *= 1.5
    assert atoms.calc.neighbors.builds == 1
    atoms += Atoms("O", [[0, 0, 9.0]])
    assert_same(atoms, potential)
    atoms.numbers[0] = 8
    assert_same(atoms, potential)
    assert atoms.calc.neighbors.builds == 2
