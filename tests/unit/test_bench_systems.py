"""Benchmarks: the systems that are measured, and whether they fit in memory."""

from __future__ import annotations

import math

import pytest
import torch

from ponita import EdgeSet
from ponita.geometry import radius_graph
from ponita.tasks.bench import cases, geometry, memory, scaling, suite, variants


def edges_with_shifts(graph):
    """Edges as a set of (sender, receiver, shift)."""
    edge_index, shift = graph
    return {(*pair, *row) for pair, row in zip(edge_index.T.tolist(), (1000 * shift).round().tolist(), strict=True)}


def test_a_periodic_graph_has_all_images_in_reach_once():
    generator = torch.Generator().manual_seed(0)
    box = torch.tensor([5.0, 6.0, 7.0], dtype=torch.float64)
    pos = 3 * box * torch.rand(12, 3, generator=generator, dtype=torch.float64) - box  # some outside the box
    images = torch.cartesian_prod(*[torch.arange(-6.0, 7.0, dtype=torch.float64)] * 3) * box
    r = pos[None, :, None] - pos[:, None, None] + images
    for cutoff in (2.4, 2.6, 7.3):  # the last reaches over several boxes
        edge_index, shift = geometry.periodic_graph(pos, box, cutoff)
        near = (r.norm(dim=-1) < cutoff).sum((1, 2)) - 1
        assert torch.equal(torch.bincount(edge_index[1], minlength=12), near)
        assert len(edges_with_shifts((edge_index, shift))) == edge_index.shape[1]
        lengths = (pos[edge_index[0]] - pos[edge_index[1]] + shift).norm(dim=1)
        assert bool((lengths < cutoff).all()) and bool((edge_index[1].diff() >= 0).all())
        assert EdgeSet.from_edge_index(edge_index, 12, shift).is_symmetric
    assert (edge_index[0] == edge_index[1]).any()
    with_loops = geometry.periodic_graph(pos, box, 7.3, loops=True)[0]
    assert with_loops.shape[1] == edge_index.shape[1] + 12


def test_cells_find_the_same_neighbours(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    box = torch.tensor([9.0, 10.0, 14.0], dtype=torch.float64)
    pos = 2 * box * torch.rand(60, 3, generator=generator, dtype=torch.float64) - box / 2
    brute = geometry.periodic_graph(pos, box, 2.9, loops=True)
    monkeypatch.setattr(geometry, "CELLS_FROM", 0)
    monkeypatch.setattr(geometry, "_image_pairs", None)
    cells = geometry.periodic_graph(pos, box, 2.9, loops=True)
    assert edges_with_shifts(cells) == edges_with_shifts(brute) and cells[0].shape == brute[0].shape


def test_water_has_its_density_and_its_molecules():
    pos, numbers, box = geometry.water_box(4, torch.Generator().manual_seed(0))
    assert len(pos) == 192 and numbers.bincount().tolist() == [0, 128, 0, 0, 0, 0, 0, 0, 64]
    grams = 64 * 18.015 / 6.02214e23
    assert grams / float(box.prod() * 1e-24) == pytest.approx(1.0, abs=0.01)
    molecules = pos.view(64, 3, 3)
    assert (molecules[:, 1] - molecules[:, 0]).norm(dim=1).tolist() == pytest.approx([0.9572] * 64)
    assert (molecules[:, 1] - molecules[:, 2]).norm(dim=1).tolist() == pytest.approx([1.5139] * 64, abs=1e-3)


def test_copper_has_the_shells_of_its_crystal(tmp_path):
    case = cases.make("S6", tmp_path)
    assert case.sizes["N"] == 1024 and case.sizes["G"] == 16 and case.inputs["x"].shape == (1024, 1)
    assert case.sizes["E"] == pytest.approx(1024 * (12 + 6 + 24 + 1), rel=0.02)  # three shells and the self-loop
    pos, edges, shift = (case.inputs[k] for k in ("pos", "edge_index", "edge_shift"))
    lengths = (pos[edges[0]] - pos[edges[1]] + shift).norm(dim=1)
    assert int((lengths < 3.0).sum()) == 1024 * 13 and float(lengths[lengths > 0].min()) > 2.0
    assert bool((case.inputs["batch"][edges[0]] == case.inputs["batch"][edges[1]]).all())
    assert len(case.search()) == 16


def test_random_points_stand_in_for_aspirin(tmp_path):
    case = cases.make("S2", tmp_path)
    assert case.sizes == {"N": 105, "E": 2205, "G": 5, "O": 20, "C": 128, "B": 256, "L": 5}
    assert "random points" in case.about
    assert radius_graph(case.inputs["pos"], 0.75, case.inputs["batch"]).shape[1] == 0
    part = case.gate_inputs()
    assert 441 < part["edge_index"].shape[1] <= cases.MAX_GATE_EDGES and part["num_graphs"] == 2
    assert part["pos"].shape[0] == part["x"].shape[0] == int(part["edge_index"].max()) + 1
    with pytest.raises(ValueError, match="S9"):
        cases.make("S9", tmp_path)


def test_large_boxes_have_sixty_neighbours_and_stop_where_asked():
    found = scaling.large(1000)
    assert list(found) == ["S5, 1000 atoms"] and list(scaling.large(300)) == ["S5, 300 atoms"]
    sizes = found["S5, 1000 atoms"].sizes
    assert sizes["E"] / sizes["N"] == pytest.approx(60, rel=0.05)
    assert (sizes["O"], sizes["B"], sizes["C"], sizes["L"]) == (16, 128, 128, 5)
    assert all(math.prod(shape) == atoms for atoms, shape in scaling.BOXES.items())


def test_what_does_not_fit_is_told_and_not_run(tmp_path, monkeypatch):
    system = geometry.water_box(3, torch.Generator().manual_seed(0))
    case = cases.periodic("box", "water", [system], tiny_network(), loops=True)
    monkeypatch.setattr(suite, "LARGE", 400)
    monkeypatch.setattr(suite, "PROBES", (60, 250))
    variant = variants.build(case, ("mlp torch",))[0]["mlp torch"]
    kept = memory.saved_bytes(lambda: suite.loss(variant.model, variant.prepare(case.inputs)))
    assert not suite.too_large(case, variant)
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(2.9 * kept))
    reasons = suite.too_large(case, variant)
    assert list(reasons) == ["training step"] and reasons["training step"].startswith("needs about")
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(3.3 * kept))
    assert not suite.too_large(case, variant)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    part = suite.measure(case, ("mlp torch",), 1)
    assert not part["seconds"] and {"mlp torch, forward", "eager, training step"} <= part["skipped"].keys()


def tiny_network():
    sizes = {"hidden_channels": 8, "basis_channels": 8, "num_layers": 2, "widening": 2, "num_orientations": 12}
    return {**cases.PUBLISHED, **sizes, "cutoff": 3.0}


def test_memory_is_read_off_a_line_through_two_sizes():
    assert memory.extrapolated((10, 1000), (20, 1500), 100) == 5500  # a constant part of 500 is counted once
    assert memory.free_bytes(torch.device("cpu")) > 2**28
