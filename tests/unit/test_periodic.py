"""Neighbour lists: every backend against a plain search, in cells small, skewed and partly periodic."""

from itertools import product

import pytest
import torch

from ponita.geometry import EdgeSet, batched_neighbors, image_shifts, periodic_neighbors, radius_graph

CELLS = {
    "cubic": torch.eye(3) * 4.0,
    "triclinic": torch.tensor([[4.0, 0.0, 0.0], [1.5, 3.5, 0.0], [-1.0, 0.7, 3.0]]),
    "left-handed": torch.tensor([[0.0, 3.0, 0.0], [3.5, 0.5, 0.0], [0.2, 0.1, 4.0]]),
    "thin": torch.tensor([[1.2, 0.0, 0.0], [0.3, 1.4, 0.0], [0.0, 0.2, 9.0]]),
}
PBC = [(True, True, True), (True, False, True), (False, False, True), (False, False, False)]


def plain_search(pos, cutoff, cell, pbc):
    """(sender, receiver, offset) by trying ten images each way."""
    span = [range(-10, 11) if periodic else (0,) for periodic in pbc]
    images = torch.tensor(list(product(*span)), dtype=torch.float64)
    found = set()
    for i in range(len(pos)):
        for j in range(len(pos)):
            distance = (pos[j] + images @ cell - pos[i]).norm(dim=1)
            for k in ((distance < cutoff) & (distance > 0)).nonzero()[:, 0].tolist():
                found.add((j, i, *images[k].long().tolist()))
    return found


def as_set(edges):
    rows = torch.cat([edges.edge_index, edges.offsets.T]).T.tolist()
    assert len({tuple(row) for row in rows}) == len(rows)
    return {tuple(row) for row in rows}


@pytest.mark.parametrize("backend", ["vesin", "brute force"])
@pytest.mark.parametrize("pbc", PBC)
@pytest.mark.parametrize("name", CELLS)
def test_all_images_in_reach_are_found(name, pbc, backend):
    cell, generator = CELLS[name].double(), torch.Generator().manual_seed(1)
    pos = (3 * torch.rand(6, 3, generator=generator, dtype=torch.float64) - 1) @ cell  # some outside the cell
    for cutoff in (1.1, 3.3):
        found = periodic_neighbors(pos, cutoff, cell, torch.tensor(pbc), backend=backend)
        assert as_set(found) == plain_search(pos, cutoff, cell, pbc)


def test_a_single_atom_sees_its_own_images():
    cell = 2.5 * torch.eye(3, dtype=torch.float64)
    edges = periodic_neighbors(torch.zeros(1, 3, dtype=torch.float64), 2.6, cell, torch.tensor([True] * 3))
    assert edges.edge_index.tolist() == [[0] * 6, [0] * 6] and edges.offsets.abs().sum(1).tolist() == [1] * 6
    with_loop = periodic_neighbors(torch.zeros(1, 3), 2.6, cell.float(), torch.tensor([True] * 3), loops=True)
    assert with_loop.edge_index.shape[1] == 7 and bool((with_loop.offsets[-1] == 0).all())


def test_lists_are_symmetric_and_pairs_are_found():
    cell = CELLS["triclinic"].double()
    pos = torch.rand(5, 3, dtype=torch.float64) @ cell
    found = periodic_neighbors(pos, 3.0, cell, torch.tensor([True] * 3), loops=True)
    shift = image_shifts(found.offsets, cell[None], torch.zeros(found.edge_index.shape[1], dtype=torch.long))
    edges = EdgeSet.from_edge_index(found.edge_index, 5, shift)
    assert edges.is_symmetric and edges.num_two_way == (edges.num_edges - 5) // 2
    distance = (pos[found.edge_index[0]] - pos[found.edge_index[1]] + shift).norm(dim=1)
    assert float(distance.max()) < 3.0


def test_batches_hold_the_lists_of_their_structures():
    cells = torch.stack([CELLS["cubic"], CELLS["triclinic"]]).double()
    pos = torch.cat([torch.rand(n, 3, dtype=torch.float64) @ cell for n, cell in zip((3, 4), cells, strict=True)])
    batch, pbc = torch.tensor([0] * 3 + [1] * 4), torch.tensor([[True, True, False], [True] * 3])
    together = batched_neighbors(pos, 2.5, cells, pbc, batch)
    expected = plain_search(pos[:3], 2.5, cells[0], pbc[0].tolist())
    expected |= {(j + 3, i + 3, *o) for j, i, *o in plain_search(pos[3:], 2.5, cells[1], pbc[1].tolist())}
    assert as_set(together) == expected
    free = batched_neighbors(pos, 2.5, None, None, batch)
    assert torch.equal(free.edge_index, radius_graph(pos, 2.5, batch)) and not free.offsets.any()


def test_shifts_are_differentiable_in_the_cell():
    cell = CELLS["triclinic"].double()[None].requires_grad_()
    offsets = torch.tensor([[1, 0, -2]])
    shift = image_shifts(offsets, cell, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(shift.sum(), cell)
    assert torch.equal(gradient[0], torch.tensor([[1.0] * 3, [0.0] * 3, [-2.0] * 3], dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cutoff": 0.0}, r"cutoff=0.0; expected a positive"),
        ({"cell": torch.zeros(3, 3)}, r"is flat along a periodic direction \(volume 0\)"),
        ({"cell": torch.ones(3, 3)}, "is flat along a periodic direction"),
        ({"cell": torch.ones(2, 3)}, r"cell has shape \[2, 3\]; expected \[3, 3\]"),
        ({"backend": "octree"}, "backend='octree'; expected 'auto' or one of"),
        ({"backend": "nvalchemi"}, "not installed: pip install nvalchemi-toolkit-ops"),
    ],
)
def test_bad_input_is_explained(change, message):
    arguments = {"pos": torch.rand(2, 3), "cutoff": 1.0, "cell": torch.eye(3), "pbc": torch.tensor([True] * 3)}
    with pytest.raises(ValueError, match=message):
        periodic_neighbors(**{**arguments, **change})
    free = {**arguments, "cell": torch.zeros(3, 3), "pbc": torch.tensor([False] * 3), "cutoff": 3.0}
    assert periodic_neighbors(**free).edge_index.shape == (2, 2)
