"""Spline kernels as a model: interpolation, smoothness, symmetry, and tabulation of trained networks."""

import pytest
import torch
from support.graphs import random_graph, small_ponita

from ponita.geometry import EdgeSet, fully_connected, grid_symmetry
from ponita.models import Potential, load, save
from ponita.nn import KernelBasis, KernelLattice
from ponita.nn.memo import Memo
from ponita.nn.spline import interpolation_matrix
from ponita.ops import pair_conv, spline_conv, spline_taps
from ponita.testing import assert_equivariant


def spline_ponita(**changes):
    return small_ponita(**{"kernel": "spline", "cutoff": 4.0, "lattice": (16, 12), **changes})


@pytest.mark.parametrize("num_nodes", [4, 5, 24])
def test_interpolation_reproduces_cubics_exactly(num_nodes):
    t = torch.arange(num_nodes, dtype=torch.float64) / num_nodes
    cubic = lambda t: 1 - 2 * t + 3 * t**2 - 4 * t**3  # noqa: E731
    coefficients = interpolation_matrix(num_nodes) @ cubic(t)
    between = torch.rand(50, dtype=torch.float64) * (num_nodes - 1)
    zeros = torch.zeros_like(between)
    weights, corner = spline_taps(torch.stack([between, zeros], -1), (num_nodes, 4))
    table = coefficients[:, None].expand(-1, 6).flatten()  # constant across
    nodes = corner.long()[:, None] + (6 * torch.arange(4)[:, None] + torch.arange(4)).flatten()
    torch.testing.assert_close((weights * table[nodes]).sum(1), cubic(between / num_nodes), rtol=0, atol=1e-12)


def test_a_lattice_interpolates_its_basis_at_the_nodes_and_converges_between_them():
    basis = KernelBasis(2, 8, 5).double()
    samples = torch.rand(200, 1, 2, dtype=torch.float64) * torch.tensor([6.0, 3.0]) - torch.tensor([3.0, 0.0])

    def interpolant(nodes, at):
        lattice = KernelLattice(nodes, radius=3.0, across=(0.0, 3.0))
        weights, corner = lattice.taps(at, None)
        steps = (lattice.stride * torch.arange(4)[:, None] + torch.arange(4)).flatten()
        return torch.einsum("pot,potb->pob", weights, lattice.coefficients(basis)[corner.long()[..., None] + steps])

    at_nodes = KernelLattice((9, 7), 3.0, (0.0, 3.0)).points[:, None]
    torch.testing.assert_close(interpolant((9, 7), at_nodes), basis(at_nodes), rtol=0, atol=1e-12)
    errors = [float((interpolant(n, samples) - basis(samples)).norm().detach()) for n in ((17, 9), (33, 17), (65, 33))]
    assert errors[0] > 8 * errors[1] > 64 * errors[2] > 0  # fourth order, with room


def test_spline_conv_is_pair_conv_with_the_interpolated_kernel():
    edges = EdgeSet.from_edge_index(fully_connected(torch.zeros(4, dtype=torch.long), loops=True), 4)
    x, table = torch.randn(4, 6, 3, dtype=torch.float64), torch.randn(7, 8, 3, dtype=torch.float64)
    coords = torch.rand(edges.num_pairs, 6, 2, dtype=torch.float64) * torch.tensor([4.0, 5.0], dtype=torch.float64)

    def splines(t):
        """The four cubic B-splines by the recursion of de Boor, at fraction t."""
        values = [torch.ones_like(t)]
        for k in range(1, 4):
            left = [torch.zeros_like(t), *values]
            right = [*values, torch.zeros_like(t)]
            values = [((t + k - i) * left[i] + (i + 1 - t) * right[i]) / k for i in range(k + 1)]
        return torch.stack(values, -1)

    cell = coords.floor().long()
    weights = splines(coords - cell)
    kernel = torch.zeros(edges.num_pairs, 6, 3, dtype=torch.float64)
    for a in range(4):
        for b in range(4):
            weight = weights[..., 0, a] * weights[..., 1, b]
            kernel += weight[..., None] * table[cell[..., 0] + a, cell[..., 1] + b]
    torch.testing.assert_close(spline_conv(x, coords, table, edges), pair_conv(x, kernel, edges), rtol=0, atol=1e-12)
    far = coords + 100.0
    last = torch.tensor([4.0, 5.0], dtype=torch.float64).expand_as(coords)
    torch.testing.assert_close(spline_conv(x, far, table, edges), spline_conv(x, last, table, edges))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": torch.zeros(3, 9, 3)}, r"table has shape \[3, 9, 3\]; expected \[P, Q, C\] with P and Q at least 4"),
        ({"coords": torch.zeros(2, 6, 2)}, r"coords has shape \[2, 6, 2\]; expected \[P, O, 2\]"),
        ({"table": torch.zeros(5, 5, 2)}, r"table has shape \[25, 2\]; expected \[K, C\]"),
    ],
)
def test_bad_arguments_are_explained(change, message):
    edges = EdgeSet.from_edge_index(fully_connected(torch.zeros(2, dtype=torch.long)), 2)
    given = {"x": torch.zeros(2, 6, 3), "coords": torch.zeros(1, 6, 2), "table": torch.zeros(5, 5, 3), "edges": edges}
    with pytest.raises(ValueError, match=message):
        spline_conv(**{**given, **change})


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_spline_networks_are_exactly_equivariant_under_the_grid(backend, graph):
    model = spline_ponita(backend=backend)
    with torch.no_grad():
        assert_equivariant(model, graph, rotations=grid_symmetry(12)[::5], tolerance=1e-10)
        assert_equivariant(model, graph, rotations=-grid_symmetry(12)[::5], tolerance=1e-10)
        edges = EdgeSet.from_edge_index(graph["edge_index"], 9)
        single = model(**{**graph, "edge_index": edges.without_pairs()})
        for a, b in zip(model(**graph), single, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def small_potential(**changes):
    channels = {"in_channels": 2, "in_vector_channels": 0, "out_channels": 1, "out_vector_channels": 0}
    return Potential(spline_ponita(**{**channels, **changes}), elements=[1, 6])


def test_forces_are_the_numerical_gradient_and_second_derivatives_are_finite():
    potential, numbers = small_potential(), torch.tensor([6, 1, 1, 1])
    pos = torch.tensor(
        [[0.0, 0, 0], [1, 0, 0], [0, 1.1, 0.2], [-0.8, 0.3, 0.9]], dtype=torch.float64, requires_grad=True
    )
    energy, forces = potential.energy_forces(pos, numbers, create_graph=True)
    gradients = torch.autograd.grad(forces.square().sum(), [pos, *potential.parameters()], allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in gradients)
    for index in ((0, 0), (1, 1), (3, 2)):
        step = torch.zeros(4, 3, dtype=torch.float64)
        step[index] = 1e-5
        with torch.no_grad():
            slope = (potential(pos + step, numbers) - potential(pos - step, numbers)) / 2e-5
        torch.testing.assert_close(forces[index].detach(), -slope[0], rtol=1e-6, atol=1e-9)
    assert energy.isfinite().all()


def test_forces_and_their_slopes_are_continuous_across_lattice_cells_and_axes():
    """C2: along a line through many cells and through an axis, second differences of the forces stay bounded."""
    potential = small_potential(num_orientations=6, lattice=(9, 7))
    numbers = torch.tensor([6, 1])
    t = torch.linspace(-0.3, 0.3, 2001, dtype=torch.float64)
    pos = torch.stack([torch.zeros(2001, 3, dtype=torch.float64), torch.stack([1 + t, t, 0.3 * t], 1)], 1)
    batch = torch.arange(2001).repeat_interleave(2)
    forces = potential.energy_forces(pos.flatten(0, 1), numbers.repeat(2001), batch=batch).forces.view(2001, 2, 3)
    slope = forces.diff(dim=0) / t.diff()[:, None, None]
    jumps = slope.diff(dim=0).abs()
    assert float(jumps.max()) < 0.02 * float(slope.abs().max())


@pytest.mark.parametrize("cutoff", [4.0, None])
def test_tabulation_converges_to_the_network_and_reports_its_error(cutoff):
    torch.manual_seed(2)
    model, graph = small_ponita(cutoff=cutoff), random_graph((6, 5))
    radius = None if cutoff else 8.0
    errors = []
    for nodes in ((32, 16), (64, 32), (128, 64)):
        fast = model.tabulate(nodes, radius=radius, batch=graph)
        errors.append(fast.tabulation.forces)
        with torch.no_grad():
            expected, ours = (torch.cat([p.flatten() for p in m(**graph)]) for m in (model, fast))
        assert fast.tabulation.outputs == pytest.approx(float((ours - expected).norm() / expected.norm()), rel=1e-6)
        assert fast.tabulation.nodes == nodes
    assert errors[0] > 1.5 * errors[1] > 6 * errors[2] > 0
    assert not any(p.requires_grad for p in fast.parameters()) and not fast.training and model.config["kernel"] == "mlp"


def test_tabulation_refuses_what_it_cannot_keep():
    model = small_ponita(cutoff=4.0)
    with pytest.raises(ValueError, match=r"on 8 x 8 nodes the relative force error is .*, larger than rtol=1.0e-10"):
        model.tabulate((8, 8), rtol=1e-10)
    assert model.tabulate((64, 48), rtol=1e-2).tabulation.forces < 1e-2
    with pytest.raises(ValueError, match=r"needs a space with directions .* and a finite reach"):
        small_ponita().tabulate()
    fast = small_ponita().tabulate((16, 12), radius=2.0)
    with pytest.raises(ValueError, match=r"a pair is .* apart, beyond the radius 2\.0 of the spline kernels"):
        fast(**random_graph((6,)))


def test_tabulated_potentials_keep_scale_and_shift_and_are_saved(tmp_path):
    potential = small_potential(kernel="mlp")
    potential.set_normalization(-1000.0, 0.5)
    fast = potential.tabulate((48, 32))
    pos, numbers = torch.randn(5, 3, dtype=torch.float64), torch.tensor([6, 1, 1, 1, 1])
    with torch.no_grad():
        difference = float((fast(pos, numbers) - potential(pos, numbers)).abs())
    assert difference < 1e-2 * float((potential(pos, numbers) - potential.shift).detach().abs())
    save(fast, tmp_path / "fast.pt")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "fast.pt").eval()(pos, numbers), fast(pos, numbers))


def test_a_memo_computes_once_until_its_tensors_change():
    calls, memo = [], Memo()
    a = torch.ones(2)

    def compute():
        calls.append(1)
        return a * 2

    assert memo(compute, a) is memo(compute, a) and len(calls) == 1
    a.add_(1)
    assert torch.equal(memo(compute, a), torch.full((2,), 4.0)) and len(calls) == 2
    memo(compute, a.clone())
    assert len(calls) == 3
    a.requires_grad_()
    memo(compute, a)
    memo(compute, a)
    assert len(calls) == 5


def test_without_gradients_weights_are_remembered_and_compared_with_copies():
    calls, memo, weight = [], Memo(), torch.nn.Parameter(torch.ones(2))

    def compute():
        calls.append(1)
        return weight * 2

    with torch.no_grad():
        first = memo(compute, weight)
        assert memo(compute, weight) is first and len(calls) == 1
        weight.data.add_(1)  # leaves the version counter alone, as swaps of averaged weights do
        assert torch.equal(memo(compute, weight), torch.full((2,), 4.0)) and len(calls) == 2
    assert memo(compute, weight).requires_grad and len(calls) == 3


def test_frozen_networks_reuse_their_kernels_and_notice_new_weights(graph):
    model = spline_ponita().requires_grad_(False)
    before = model(**graph).scalars
    projections = []
    model.blocks[0].conv.kernel.register_forward_hook(lambda *_: projections.append(1))
    assert torch.equal(model(**graph).scalars, before) and not projections
    other = spline_ponita()
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model(**graph).scalars, other(**graph).scalars.detach())
    assert projections
