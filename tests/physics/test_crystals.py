"""Periodic structures: forces and stress against numerical derivatives, and that equal crystals have equal energies."""

import pytest
import torch
from support.graphs import small_ponita

from ponita.geometry import grid_symmetry, periodic_neighbors
from ponita.models import Potential, load, save, voigt

NUMBERS = torch.tensor([12, 8, 8])
CUBIC = 3.0 * torch.eye(3, dtype=torch.float64)
TRICLINIC = torch.tensor([[3.1, 0.0, 0.0], [0.9, 2.8, 0.0], [-0.6, 0.4, 3.3]], dtype=torch.float64)


def crystal_potential(**changes):
    channels = {"in_channels": 2, "in_vector_channels": 0, "out_channels": 1, "out_vector_channels": 0, "cutoff": 3.5}
    heads = changes.pop("heads", ("default",))
    potential = Potential(small_ponita(**{**channels, **changes}), elements=[8, 12], heads=heads)
    potential.set_normalization(-20.0, 0.7)
    potential.reference_energies.copy_(torch.tensor([[-3.0, -7.0]]))
    return potential


def crystal(cell=TRICLINIC):
    """Three atoms, none on top of another."""
    fractional = torch.tensor([[0.1, 0.0, 0.1], [0.45, 0.55, 0.4], [0.8, 0.2, 0.7]], dtype=torch.float64)
    return {"pos": fractional @ cell, "numbers": NUMBERS, "cell": cell[None]}


@pytest.mark.parametrize("kernel", ["mlp", "spline"])
@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False)])
@pytest.mark.parametrize("cell", [CUBIC, TRICLINIC], ids=["cubic", "triclinic"])
def test_stress_and_forces_are_numerical_derivatives(cell, pbc, kernel):
    potential, structure = crystal_potential(kernel=kernel, lattice=(24, 16)), crystal(cell)
    pbc = torch.tensor([pbc])
    energy, forces, stress = potential.energy_forces(**structure, pbc=pbc, stress=True)
    volume, step = torch.linalg.det(cell).abs(), 1e-5
    edges = dict(
        zip(("edge_index", "offsets"), potential.neighbors(structure["pos"], None, cell[None], pbc), strict=True)
    )

    @torch.no_grad()
    def at(strain, displacement=0.0):
        deform = torch.eye(3, dtype=torch.float64) + strain
        pos = (structure["pos"] + displacement) @ deform
        return potential(pos, NUMBERS, **edges, cell=cell[None] @ deform)[0]

    for i in range(3):
        for j in range(3):
            strain = torch.zeros(3, 3, dtype=torch.float64)
            strain[i, j] += step / 2
            strain[j, i] += step / 2
            numerical = (at(strain) - at(-strain)) / (2 * step * volume)
            assert abs(float(numerical - stress[0, i, j])) < 1e-7 * max(1.0, float(stress.abs().max()))
    none = torch.zeros(3, 3, dtype=torch.float64)
    for atom in range(3):
        for axis in range(3):
            move = torch.zeros(3, 3, dtype=torch.float64)
            move[atom, axis] = step
            numerical = -(at(none, move) - at(none, -move)) / (2 * step)
            assert abs(float(numerical - forces[atom, axis])) < 1e-6
    assert torch.allclose(stress, stress.mT) and float(stress.abs().max()) > 1e-4 and energy.shape == (1,)
    assert voigt(stress)[0].tolist() == [
        stress[0, i, j].item() for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
    ]


def test_tension_is_positive_when_stretching_costs_energy():
    # A network is too wild for a sign; a potential whose energy is the references' has none.
    potential, structure = crystal_potential(), crystal(CUBIC)
    _, _, stress = potential.energy_forces(**structure, stress=True)
    larger = {**structure, "pos": structure["pos"] * 1.001, "cell": structure["cell"] * 1.001}
    with torch.no_grad():
        grows = potential(**larger) > potential(**structure)
    assert bool(grows) == bool(stress.diagonal(dim1=-2, dim2=-1).sum() > 0)


def test_energies_do_not_depend_on_the_choice_of_cell():
    potential, structure = crystal_potential(), crystal()
    with torch.no_grad():
        one = potential(**structure) - potential.shift
        moved = {
            **structure,
            "pos": structure["pos"] + torch.tensor([[1, -2, 3], [0, 1, 0], [-1, 0, 0]]).double() @ TRICLINIC,
        }
        torch.testing.assert_close(potential(**moved) - potential.shift, one, rtol=0, atol=1e-10)
        sheared = torch.tensor([[1, 0, 0], [1, 1, 0], [0, -1, 1]]).double() @ TRICLINIC
        torch.testing.assert_close(
            potential(**{**structure, "cell": sheared[None]}) - potential.shift, one, rtol=0, atol=1e-10
        )
        twice = torch.diag(torch.tensor([2.0, 1, 1])).double() @ TRICLINIC
        pos = torch.cat([structure["pos"], structure["pos"] + TRICLINIC[0]])
        doubled = potential(pos, NUMBERS.repeat(2), cell=twice[None]) - potential.shift
        torch.testing.assert_close(doubled, 2 * one, rtol=0, atol=1e-10)


def test_stress_turns_with_the_crystal():
    potential, structure = crystal_potential(num_orientations=12), crystal()
    rotation = grid_symmetry(12)[17]
    _, forces, stress = potential.energy_forces(**structure, stress=True)
    turned = {**structure, "pos": structure["pos"] @ rotation.T, "cell": structure["cell"] @ rotation.T}
    _, turned_forces, turned_stress = potential.energy_forces(**turned, stress=True)
    torch.testing.assert_close(turned_forces, forces @ rotation.T, rtol=0, atol=1e-10)
    torch.testing.assert_close(turned_stress[0], rotation @ stress[0] @ rotation.T, rtol=0, atol=1e-10)


def test_batches_of_crystals_and_precomputed_lists_change_nothing():
    potential = crystal_potential()
    first, second = crystal(), crystal(CUBIC)
    together = {
        "pos": torch.cat([first["pos"], second["pos"]]),
        "numbers": NUMBERS.repeat(2),
        "cell": torch.cat([first["cell"], second["cell"]]),
        "batch": torch.tensor([0] * 3 + [1] * 3),
    }
    energy, forces, stress = potential.energy_forces(**together, stress=True)
    for number, structure in enumerate((first, second)):
        alone = potential.energy_forces(**structure, stress=True)
        torch.testing.assert_close(energy[number], alone.energy[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(forces[3 * number : 3 * number + 3], alone.forces, rtol=0, atol=1e-10)
        torch.testing.assert_close(stress[number], alone.stress[0], rtol=0, atol=1e-10)
    edges, offsets = periodic_neighbors(first["pos"], 4.5, TRICLINIC, torch.tensor([True] * 3), loops=True)
    shuffled = torch.randperm(edges.shape[1])
    listed = potential.energy_forces(**first, edge_index=edges[:, shuffled], offsets=offsets[shuffled])
    torch.testing.assert_close(listed.forces, forces[:3], rtol=0, atol=1e-10)  # longer pairs have no kernel


def test_a_force_and_stress_loss_has_gradients_in_all_weights():
    potential, structure = crystal_potential(kernel="spline", lattice=(16, 12)), crystal()
    result = potential.energy_forces(**structure, stress=True, create_graph=True)
    loss = result.forces.square().sum() + result.stress.square().sum()
    gradients = torch.autograd.grad(loss, [p for p in potential.parameters()], allow_unused=True)
    assert all(g is None or bool(g.isfinite().all()) for g in gradients)
    assert sum(g is not None and bool(g.abs().max() > 0) for g in gradients) > 10


def test_heads_share_the_network_and_have_outputs_and_references_of_their_own(tmp_path):
    potential = crystal_potential(out_channels=2, heads=("pbe", "r2scan"))
    potential.reference_energies.copy_(torch.tensor([[-3.0, -7.0], [-4.0, -9.0]]))
    structure = crystal()
    with torch.no_grad():
        first, second = (potential(**structure, head=name) for name in ("pbe", "r2scan"))
        assert torch.equal(potential(**structure), first) and float((second - first).abs()) > 1.0
        both = {k: torch.cat([v, v]) for k, v in structure.items()}
        both |= {"batch": torch.tensor([0] * 3 + [1] * 3), "head": torch.tensor([1, 0])}
        torch.testing.assert_close(potential(**both), torch.cat([second, first]), rtol=0, atol=1e-10)
        save(potential, tmp_path / "p.pt")
        torch.testing.assert_close(load(tmp_path / "p.pt")(**structure, head="r2scan"), second, rtol=0, atol=0)
        contributions = potential.atom_energies(**structure, head="pbe")
        torch.testing.assert_close(contributions.sum() + potential.shift, first[0])
    with pytest.raises(
        ValueError, match=r"head='hf' is unknown to this potential; expected one of \['pbe', 'r2scan'\]"
    ):
        potential(**structure, head="hf")
    with pytest.raises(ValueError, match="2 heads needs out_channels=2, not 1"):
        crystal_potential(heads=("a", "b"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": torch.zeros(1, 3, 3, dtype=torch.float64)}, "is flat along a periodic direction"),
        ({"cell": torch.eye(3).double().repeat(2, 1, 1)}, "cell has 2 structures; expected 1"),
        ({"numbers": torch.tensor([12, 8, 26])}, r"atomic numbers \[26\] are unknown"),
        ({"edge_index": torch.zeros(2, 1).long(), "offsets": torch.zeros(2, 3)}, r"offsets has shape \[2, 3\]"),
        ({"edge_index": torch.zeros(2, 0).long(), "offsets": torch.zeros(0, 3), "cell": None}, "without cells"),
    ],
)
def test_bad_crystals_are_explained(change, message):
    with pytest.raises(ValueError, match=message):
        crystal_potential()(**{**crystal(), **change})


def test_stress_needs_cells_and_crystals_a_cutoff():
    structure = crystal()
    with pytest.raises(ValueError, match="a stress needs cells"):
        crystal_potential().energy_forces(structure["pos"], NUMBERS, stress=True)
    with pytest.raises(ValueError, match="need a network with a cutoff"):
        crystal_potential(cutoff=None)(**structure)
