"""Relations that do not see widths, grids and rotations."""

import copy
import math

import pytest
import torch
from support.relations import EXACT, SIZES, batch_of, last_block, supernet

from ponita.geometry import EdgeSet, fully_connected
from ponita.geometry.rotations import spiral_rotations
from ponita.sharing.search import Choice, SearchSpace
from ponita.sharing.search.relations import (
    RELATIONS,
    Graphs,
    RelationDistillationLoss,
    dense,
    edge,
    mean_by_graph,
    orientation,
)
from ponita.testing import rotate_inputs

KINDS = list(RELATIONS)


NORMS = ("softmax", "none")


HEADS = 3


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def graphs(sizes: tuple[int, ...] = SIZES, drop: float = 0.4) -> Graphs:
    """Some of the edges, in a random order."""
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    edges = fully_connected(batch, loops=True)
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(edges.shape[1], generator=generator)
    return Graphs(edges[:, order[: int((1 - drop) * len(order))]], batch, len(sizes))


def features(channels: int = 11, orientations: int = 4, seed: int = 0, points: int = sum(SIZES)) -> torch.Tensor:
    return randn(points, orientations, channels, seed=seed)


def block(channels: int = 11, orientations: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    return {name: features(channels, orientations, 10 * seed + i) for i, name in enumerate("SFU")}


# relations


@pytest.mark.parametrize("normalize", NORMS)
def test_dense_relations_are_the_sum_over_channels_and_the_mean_over_orientations(normalize):
    f, g = features(), graphs()
    found = dense(f, HEADS, g, normalize)
    assert found.shape == (HEADS, 8, 8)
    for h in range(HEADS):
        for n in range(8):
            logits = torch.zeros(8, dtype=torch.float64)
            for m in range(8):
                for o in range(4):
                    for c in (3 * h, 3 * h + 1, 3 * h + 2):
                        logits[m] += f[n, o, c] * f[m, o, c] / (4 * math.sqrt(3))
            same = g.batch == g.batch[n]
            row = logits[same].exp() / logits[same].exp().sum() if normalize == "softmax" else logits[same]
            torch.testing.assert_close(found[h, n, same], row, **EXACT)
            assert not found[h, n, ~same].any()


def test_edge_relations_are_dense_ones_restricted_to_the_edges_and_renormalised_over_those_into_a_point():
    f, g = features(), graphs()
    sender, receiver = g.edge_index
    torch.testing.assert_close(edge(f, HEADS, g, "none"), dense(f, HEADS, g, "none")[:, receiver, sender], **EXACT)
    kept = torch.zeros(8, 8, dtype=torch.float64)
    kept[receiver, sender] = 1
    restricted = dense(f, HEADS, g) * kept
    renormalised = restricted / restricted.sum(-1, keepdim=True)
    torch.testing.assert_close(edge(f, HEADS, g), renormalised[:, receiver, sender], **EXACT)
    assert (edge(f, HEADS, g) - restricted[:, receiver, sender]).abs().max() > 0.1


def test_edge_relations_on_all_pairs_are_the_dense_ones_and_have_their_loss():
    g = graphs(drop=0.0)
    losses = [RelationDistillationLoss(HEADS, kind=kind)(block(), block(7, 6, seed=1), g) for kind in ("dense", "edge")]
    torch.testing.assert_close(*losses, **EXACT)
    assert losses[0].min() > 1e-3


@pytest.mark.parametrize("normalize", NORMS)
def test_orientation_relations_are_the_sum_over_channels_and_the_mean_over_points_of_a_graph(normalize):
    sizes = (1, 7)
    f, g = features(), graphs(sizes)
    found = orientation(f, HEADS, g, normalize)
    assert found.shape == (2, HEADS, 4, 4)
    for k, size in enumerate(sizes):
        inside = f[g.batch == k].reshape(size, 4, 11)
        for h in range(HEADS):
            part = inside[..., 3 * h : 3 * h + 3]
            logits = sum(part[n] @ part[n].T for n in range(size)) / (size * math.sqrt(3))
            expected = torch.softmax(logits, dim=1) if normalize == "softmax" else logits
            torch.testing.assert_close(found[k, h], expected, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_channels_that_the_heads_leave_over_are_dropped(kind):
    f, g = features(), graphs()
    changed = f.clone()
    changed[..., 9:] += 1
    assert torch.equal(RELATIONS[kind](changed, HEADS, g), RELATIONS[kind](f, HEADS, g))
    changed[..., 8] += 1
    assert not torch.equal(RELATIONS[kind](changed, HEADS, g), RELATIONS[kind](f, HEADS, g))


@pytest.mark.parametrize("kind", KINDS)
def test_relations_do_not_change_under_an_orthogonal_map_inside_each_head(kind):
    f, g = features(9), graphs()
    maps = torch.linalg.qr(randn(HEADS, 3, 3, seed=3)).Q
    inside = torch.block_diag(*maps)
    between = torch.linalg.qr(randn(9, 9, seed=4)).Q
    relation = RELATIONS[kind]
    torch.testing.assert_close(relation(f @ inside, HEADS, g), relation(f, HEADS, g), **EXACT)
    assert (relation(f @ between, HEADS, g) - relation(f, HEADS, g)).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_of_a_batch_do_not_see_each_other(kind):
    loss, g = RelationDistillationLoss(HEADS, kind=kind), graphs()
    student, target = block(7), block(seed=1)
    together = loss(student, target, g)
    start = 0
    for k, size in enumerate(SIZES):
        points = slice(start, start + size)
        inside = g.batch[g.edge_index[1]] == k
        one = Graphs(g.edge_index[:, inside] - start, torch.zeros(size, dtype=torch.long), 1)
        alone = loss({i: f[points] for i, f in student.items()}, {i: f[points] for i, f in target.items()}, one)
        torch.testing.assert_close(together[k : k + 1], alone, **EXACT)
        start += size


def test_graphs_are_read_from_the_arguments_of_a_network():
    batch = batch_of(0)
    g = Graphs.of(batch)
    assert g.number == 2 and torch.equal(g.batch, batch["batch"]) and torch.equal(g.edge_index, batch["edge_index"])
    assert Graphs.of({**batch, "num_graphs": 3}).number == 3
    edges = EdgeSet.from_edge_index(batch["edge_index"], 8)
    assert torch.equal(Graphs.of({**batch, "edge_index": edges}).edge_index, edges.edge_index)
    del batch["batch"]
    assert Graphs.of(batch).number == 1 and not Graphs.of(batch).batch.any()
    with pytest.raises(ValueError, match="expected a mapping"):
        Graphs.of(g)
    with pytest.raises(ValueError, match="'pos' and 'edge_index'"):
        Graphs.of({"x": batch["x"]})


# loss


@pytest.mark.parametrize("normalize", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_zero_for_features_of_the_same_relations_and_positive_for_others(kind, normalize):
    loss, g = RelationDistillationLoss(HEADS, normalize=normalize, kind=kind), graphs()
    assert not loss(block(), block(), g).any()
    rotated = {i: f[..., :9] @ torch.block_diag(*torch.linalg.qr(randn(HEADS, 3, 3)).Q) for i, f in block().items()}
    assert loss(rotated, block(), g).max() < 1e-24
    assert loss(block(seed=1), block(), g).min() > 1e-4


@pytest.mark.parametrize("kind", ["edge", "dense"])
def test_networks_of_other_widths_and_grids_can_be_compared_and_one_with_repeated_orientations_is_the_same(kind):
    loss, g = RelationDistillationLoss(HEADS, kind=kind), graphs()
    assert loss(block(16, 16), block(8, 24, seed=1), g).shape == (2,)
    twice = {i: f.repeat(1, 2, 1) for i, f in block().items()}
    assert loss(twice, block(), g).max() < 1e-24


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_weighted_sum_of_mean_squares_over_heads_and_pairs(kind):
    betas, g = {"S": 0.5, "U": 2.0}, graphs()
    student, target = block(), block(seed=1)
    found = RelationDistillationLoss(HEADS, betas, "softmax", kind)(student, target, g)
    expected = torch.zeros(2, dtype=torch.float64)
    for name, beta in betas.items():
        square = (RELATIONS[kind](student[name], HEADS, g) - RELATIONS[kind](target[name], HEADS, g)) ** 2
        for k in range(2):
            if kind == "edge":
                of_graph = square[:, g.batch[g.edge_index[1]] == k]
            elif kind == "dense":
                of_graph = square[:, g.batch == k][:, :, g.batch == k]
            else:
                of_graph = square[k]
            expected[k] += beta * sum(head.mean() for head in of_graph.flatten(-2 if kind != "edge" else 1)) / HEADS
    torch.testing.assert_close(found, expected, **EXACT)


def test_every_kind_of_features_counts_once_unless_betas_say_otherwise():
    g, student, target = graphs(), block(), block(seed=1)
    parts = [RelationDistillationLoss(HEADS, {name: 1.0})(student, target, g) for name in "SFU"]
    torch.testing.assert_close(RelationDistillationLoss(HEADS)(student, target, g), sum(parts), **EXACT)


def test_a_graph_without_pairs_has_no_loss():
    g = graphs()
    empty = Graphs(g.edge_index[:, g.batch[g.edge_index[1]] == 1], g.batch, 3)
    found = RelationDistillationLoss(HEADS)(block(), block(seed=1), empty)
    assert found[0] == 0 and found[1] > 0 and found[2] == 0
    found = RelationDistillationLoss(HEADS, kind="orientation")(block(), block(seed=1), empty)
    assert found[0] > 0 and found[1] > 0 and found[2] == 0
    assert torch.equal(
        mean_by_graph(torch.ones(2, 8, 8), "dense", Graphs(g.edge_index, g.batch * 2, 3))[1:2], torch.zeros(1)
    )


@pytest.mark.parametrize("normalize", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_student_has_the_gradient_of_finite_differences_and_the_teacher_none(kind, normalize):
    g = graphs((2, 3), drop=0.2)
    loss = RelationDistillationLoss(2, {"U": 1.0}, normalize, kind)
    student, target = features(4, 3, points=5).requires_grad_(), features(4, 3, 1, points=5).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: loss({"U": f}, {"U": target}, g), student)
    loss({"U": student}, {"U": target}, g).sum().backward()
    assert student.grad.abs().max() > 0 and target.grad is None


def test_losses_that_cannot_be_are_refused():
    g = graphs()
    with pytest.raises(ValueError, match="3 channels for 4 relation heads"):
        edge(features(3), 4, g)
    with pytest.raises(ValueError, match=r"expected \[N, O, C\] with N = 8"):
        edge(features(points=7), 2, g)
    for options in ({"heads": 0}, {"heads": 2, "betas": {"S": -1.0}}, {"heads": 2, "betas": {}}):
        with pytest.raises(ValueError, match="at least one of both"):
            RelationDistillationLoss(**options)
    for options in ({"normalize": "max"}, {"kind": "pairs"}):
        with pytest.raises(ValueError, match="expected one of"):
            RelationDistillationLoss(2, **options)
    with pytest.raises(ValueError, match="normalize='max'"):
        dense(features(), 2, g, "max")
    with pytest.raises(ValueError, match="expected \\['F'\\] too"):
        RelationDistillationLoss(2)({"S": features(), "U": features()}, block(), g)
    with pytest.raises(ValueError, match="need one grid"):
        RelationDistillationLoss(2, kind="orientation")(block(orientations=6), block(orientations=4), g)


# rotations


@pytest.mark.parametrize("kind", KINDS)
def test_relations_of_a_cloud_rotated_with_its_grid_stay(kind):
    net = supernet().extract((1, 1, 1))
    batch, g = batch_of(1), graphs()
    before = {i: RELATIONS[kind](f, 2, g) for i, f in last_block(net, batch).items()}
    rotation = spiral_rotations(5)[3]
    rotated = copy.deepcopy(net)
    rotated.set_grid(net.grid @ rotation.T)
    for i, f in last_block(rotated, rotate_inputs(batch, rotation)).items():
        torch.testing.assert_close(RELATIONS[kind](f, 2, g), before[i], rtol=0, atol=1e-10)


def test_relations_of_a_cloud_rotated_alone_change_less_on_a_finer_grid():
    net = supernet(SearchSpace(Choice("hidden_channels", (6, 12)), Choice("num_orientations", (8, 64))))
    batch = batch_of(1)
    errors = {}
    for option in (0, 1):
        path = (1, option)
        before = dense(net.taps(**batch, path=path)[1][-1]["U"], HEADS, Graphs.of(batch))
        found = []
        for rotation in spiral_rotations(6):
            after = dense(net.taps(**rotate_inputs(batch, rotation), path=path)[1][-1]["U"], HEADS, Graphs.of(batch))
            found.append((after - before).norm() / before.norm())
        errors[option] = float(torch.stack(found).mean().detach())
    assert errors[1] < errors[0] / 4 and errors[0] > 1e-4
