"""Forces and the derivatives training needs, on real geometries of trouble: self-loops, axes, cut-offs."""

import contextlib

import pytest
import torch
from support.graphs import small_ponita

from ponita.geometry import fully_connected
from ponita.models import Ponita, Potential

METHANE = torch.tensor(
    [[0.0, 0.0, 0.0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]],
    dtype=torch.float64,
)
NUMBERS = torch.tensor([6, 1, 1, 1, 1])


def small_potential(**changes) -> Potential:
    channels = {"in_channels": 2, "in_vector_channels": 0, "out_channels": 1, "out_vector_channels": 0}
    potential = Potential(small_ponita(**{**channels, **changes}), elements=[1, 6])
    potential.set_normalization(shift=-1100.0, scale=0.7)
    return potential


def numerical_forces(energy, pos, step=1e-5):
    forces = torch.zeros_like(pos)
    for index in range(pos.numel()):
        shift = torch.zeros_like(pos).view(-1)
        shift[index] = step
        shift = shift.view_as(pos)
        forces.view(-1)[index] = -(energy(pos + shift) - energy(pos - shift)) / (2 * step)
    return forces


@pytest.mark.parametrize("cutoff", [None, 1.5])
@pytest.mark.parametrize("space", ["R3xS2", "R3"])
def test_forces_are_the_numerical_gradient(space, cutoff):
    potential = small_potential(space=space, cutoff=cutoff)
    pos = METHANE + 0.1 * torch.randn_like(METHANE)
    forces = potential.energy_forces(pos, NUMBERS).forces
    assert float(forces.abs().max()) > 1e-3
    with torch.no_grad():
        numerical = numerical_forces(lambda p: potential(p, NUMBERS)[0], pos)
    torch.testing.assert_close(forces, numerical, rtol=1e-6, atol=1e-8)


def test_forces_of_a_batch_sum_to_zero_on_each_molecule():
    pos = torch.cat([METHANE, METHANE + 0.2 * torch.randn_like(METHANE)])
    batch = torch.tensor([0] * 5 + [1] * 5)
    energy, forces = small_potential().energy_forces(pos, NUMBERS.repeat(2), batch=batch)
    assert energy.shape == (2,) and energy.dtype == torch.float64
    assert float(torch.zeros(2, 3, dtype=forces.dtype).index_add_(0, batch, forces).abs().max()) < 1e-10


def force_loss_gradients(potential, pos):
    """Gradients of a force loss with respect to positions and weights."""
    pos = pos.clone().requires_grad_()
    energy, forces = potential.energy_forces(pos, NUMBERS, create_graph=True)
    return torch.autograd.grad(forces.square().sum() + energy.square().sum(), [pos, *potential.parameters()])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("num_orientations", [6, 8, 20])
def test_second_derivatives_are_finite_with_self_loops_and_atoms_on_an_axis(num_orientations, smoothing):
    potential = small_potential(num_orientations=num_orientations, axis_smoothing=smoothing)
    axis = potential.network.grid[0]
    on_axis = torch.stack([0 * axis, axis, 2 * axis, -axis, torch.tensor([0.3, 0.9, -0.4], dtype=torch.float64)])
    for pos in (METHANE, on_axis):
        assert all(g.isfinite().all() for g in force_loss_gradients(potential, pos))
        assert all(g.isfinite().all() for g in force_loss_gradients(potential.float(), pos.float()))
        potential.double()


def test_forces_are_continuous_across_an_axis_only_with_smoothing():
    jumps = {}
    for smoothing in (0.0, 0.1):
        torch.manual_seed(0)
        potential = small_potential(num_orientations=6, axis_smoothing=smoothing)
        sides = []
        for side in (-1e-7, 1e-7):
            pos = torch.tensor([[0, 0, 0], [1.0, side, 0]], dtype=torch.float64)
            sides.append(potential.energy_forces(pos, NUMBERS[:2]).forces)
        jumps[smoothing] = float((sides[0] - sides[1]).abs().max())
    assert jumps[0.1] < 1e-5 < 1e-3 < jumps[0.0]


def test_energy_and_forces_are_continuous_at_the_cutoff():
    potential = small_potential(cutoff=1.5)
    values = []
    for distance in (1.5 - 1e-7, 1.5 + 1e-7):
        pos = torch.tensor([[0, 0, 0], [0.3, 0.8, 0], [distance, 0, 0]], dtype=torch.float64)
        values.append(potential.energy_forces(pos, NUMBERS[:3]))
    torch.testing.assert_close(values[0].energy, values[1].energy, rtol=0, atol=1e-8)
    torch.testing.assert_close(values[0].forces, values[1].forces, rtol=0, atol=1e-6)


def test_distant_molecules_add_up():
    potential = small_potential(cutoff=2.0)
    alone = potential(METHANE, NUMBERS) - potential.shift
    pair = potential(torch.cat([METHANE, METHANE + 50]), NUMBERS.repeat(2)) - potential.shift
    torch.testing.assert_close(pair, 2 * alone, rtol=0, atol=1e-9)


def test_parameter_gradients_of_a_force_loss_equal_eager_autograd(monkeypatch):
    """The registered operators against torch's own autograd on gather, multiply and scatter for every edge."""
    from ponita.nn import conv

    potential = small_potential(num_orientations=12)
    pos = METHANE + 0.1 * torch.randn_like(METHANE)
    ours = force_loss_gradients(potential, pos)

    def eager_pair_conv(x, kernel, edges, backend):
        flipped = torch.where(edges.flip[:, None, None], kernel.roll(6, 1)[edges.pair], kernel[edges.pair])
        return torch.zeros_like(x).index_add(0, edges.edge_index[1], flipped * x[edges.edge_index[0]])

    monkeypatch.setattr(conv, "pair_conv", eager_pair_conv)
    monkeypatch.setattr(conv, "orientation_conv", lambda x, k, _: torch.einsum("noc,opc->npc", x, k) / x.shape[1])
    for a, b in zip(ours, force_loss_gradients(potential, pos), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * (1 + float(b.abs().max())))


@pytest.mark.parametrize("kernel", ["mlp", "spline"])
def test_the_force_pass_leaves_out_work_but_changes_no_gradient(kernel, monkeypatch):
    from ponita.ops import autograd

    potential = small_potential(kernel=kernel, cutoff=3.0, num_orientations=12, lattice=(12, 8))
    pos = (METHANE + 0.1 * torch.randn_like(METHANE)).requires_grad_()
    calls = []

    def counting(original):
        return lambda *args: (calls.append(1), original(*args))[1]

    for name in ("orientation_product", "spline_table_gradient"):
        monkeypatch.setattr(autograd, name, counting(getattr(autograd, name)))
    with_pass = potential.energy_forces(pos, NUMBERS).forces
    assert not calls
    energy = potential(pos, NUMBERS)
    without_pass = -torch.autograd.grad(energy.sum(), pos)[0]
    assert calls and torch.equal(with_pass, without_pass)

    ours = force_loss_gradients(potential, pos.detach())
    monkeypatch.setattr("ponita.models.potential.force_pass", contextlib.nullcontext)
    for a, b in zip(ours, force_loss_gradients(potential, pos.detach()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_total_energies_keep_their_millielectronvolts_in_float32():
    potential = small_potential().float()
    potential.shift.fill_(-17617.7290001)
    assert potential.shift.dtype == torch.float64
    energy = potential(METHANE.float(), NUMBERS)
    assert energy.dtype == torch.float64
    torch.testing.assert_close(energy - potential.shift, small_part(potential), rtol=0, atol=1e-9)


def small_part(potential):
    x = torch.nn.functional.one_hot(potential.element_of(NUMBERS), 2).float()
    edges = fully_connected(torch.zeros(5, dtype=torch.long), loops=True)
    return potential.scale * potential.network(METHANE.float(), edges, x=x).scalars[:, 0].double()


def test_a_single_atom_has_an_energy_and_no_force():
    energy, forces = small_potential().energy_forces(torch.zeros(1, 3, dtype=torch.float64), NUMBERS[:1])
    assert energy.isfinite().all() and forces.abs().max() == 0


def test_inference_mode_is_refused_with_the_remedy():
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"use Trainer\(inference_mode=False\)"):
        small_potential().energy_forces(METHANE, NUMBERS)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (
            torch.tensor([6, 1, 1, 1, 9]),
            r"atomic numbers \[9\] are unknown to this potential, which was made for \[1, 6\]",
        ),
        (torch.tensor([6, 1, 1, 1, 300]), r"atomic numbers \[300\] are unknown"),
        (torch.tensor([6, 1, 1, 1, -1]), r"atomic numbers \[-1\] are unknown"),
        (torch.ones(5), r"dtype torch.float32; expected \[N\] torch.int64"),
    ],
)
def test_unknown_elements_are_named(numbers, message):
    with pytest.raises(ValueError, match=message):
        small_potential()(METHANE, numbers)


@pytest.mark.parametrize(
    ("network", "elements", "message"),
    [
        ({"in_channels": 2}, [1, 6, 8], "potential of 3 elements and 1 heads needs in_channels=3, not 2"),
        ({"in_channels": 2, "pooling": None}, [1, 6], r"needs pooling=sum"),
        ({"in_channels": 2}, [1, 1], "expected distinct atomic numbers"),
        ({"in_channels": 2}, [1, 200], "expected distinct atomic numbers from 1 to 118"),
    ],
)
def test_networks_that_do_not_fit_a_potential_are_refused(network, elements, message):
    with pytest.raises(ValueError, match=message):
        Potential(Ponita(**network, hidden_channels=4, basis_channels=4), elements)


def test_a_scale_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"scale=0\.0; expected a positive"):
        small_potential().set_normalization(0.0, 0.0)
