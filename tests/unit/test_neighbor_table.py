"""Neighbour lists made once: batches that are joined are those that are searched and matched anew."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from ase import Atoms
from support.atoms import crystals, molecules

from ponita.data import from_ase
from ponita.data.neighbor_table import NeighborTable
from ponita.geometry import EdgeSet, batched_neighbors


def edges_of(edge_index, offsets):
    return {(*e, *o) for e, o in zip(edge_index.T.tolist(), offsets.tolist(), strict=True)}


@pytest.mark.parametrize("loops", [False, True])
def test_joined_lists_are_those_of_the_batch(loops):
    s = from_ase([*crystals(5), *molecules(3)])
    table = NeighborTable.make(s.chunks(3), 3.5, loops)
    rows = np.array([6, 0, 3, 0])
    batch = s.take(rows)
    edge_index, offsets, reverse = (torch.from_numpy(a) for a in table.take(rows, batch.ptr[:-1]))
    pos, cell, pbc = (torch.from_numpy(array) for array in (batch.positions, batch.cell, batch.pbc))
    searched = batched_neighbors(pos, 3.5, cell, pbc, torch.from_numpy(batch.structure), loops=loops)
    assert edges_of(edge_index, offsets) == edges_of(searched.edge_index, searched.offsets)
    joined = EdgeSet.from_sorted(edge_index, len(pos), reverse)
    matched = EdgeSet.from_edge_index(edge_index, len(pos), offsets.double())
    for field in fields(EdgeSet):
        ours, theirs = getattr(joined, field.name), getattr(matched, field.name)
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs, field.name
    assert joined.is_symmetric and torch.equal(reverse[reverse], torch.arange(len(reverse)))


def test_one_sided_sets_and_lone_atoms():
    s = from_ase([Atoms("Cu"), *molecules(1), Atoms("Au")])
    table = NeighborTable.make([s], 3.5, False)
    edge_index, _, reverse = table.take(np.array([0, 1, 2]), s.ptr[:-1])
    assert edge_index.shape[1] == 6 and set(edge_index.ravel()) == {1, 2, 3}
    alone = EdgeSet.from_sorted(torch.from_numpy(edge_index), 5, None)
    assert not alone.is_symmetric and alone.num_pairs == 6
    none = table.take(np.array([0, 2]), np.array([0, 1]))
    assert none[0].shape == (2, 0) and none[1].shape == (0, 3) and reverse.shape == (6,)
    assert EdgeSet.from_sorted(torch.from_numpy(none[0]), 2, torch.from_numpy(none[2])).num_edges == 0


def test_a_flat_cell_names_its_structure():
    frames = crystals(3)
    frames[1].cell[2] = 0
    with pytest.raises(ValueError, match=r"f, structure 1: the cell .* is flat"):
        NeighborTable.make([from_ase(frames, source="f")], 3.5, False)
