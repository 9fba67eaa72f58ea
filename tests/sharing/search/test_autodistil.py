"""Relations that do not see widths, grids and rotations; supernets of sub-spaces that learn them from a teacher."""

import copy
import math

import pytest
import torch
from support.graphs import random_graph

from ponita import Ponita
from ponita.geometry import EdgeSet, fully_connected
from ponita.geometry.rotations import spiral_rotations
from ponita.nn import calibrate
from ponita.sharing.search import Callback, Choice, PonitaSupernet, SearchSpace, UniformSampler, calibrate_supernet
from ponita.sharing.search.autodistil import (
    DistillationObjective,
    DistillationTrainer,
    inherit,
    select_student,
)
from ponita.sharing.search.relations import (
    RELATIONS,
    Graphs,
    RelationDistillationLoss,
    dense,
    edge,
    mean_by_graph,
    orientation,
)
from ponita.sharing.search.subspaces import check_partition, compact, partition_by_cost, translate
from ponita.sharing.search.taps import recorded
from ponita.testing import rotate_inputs

KINDS = list(RELATIONS)
NORMS = ("softmax", "none")
SIZES = (3, 5)
HEADS = 3
EXACT = {"rtol": 1e-12, "atol": 1e-12}
FIXED = {"in_channels": 3, "in_vector_channels": 2, "degree": 2, "basis_channels": 6, "widening": 2}
OPTIONS = SearchSpace(
    Choice("hidden_channels", (4, 6, 12)), Choice("num_layers", (1, 2)), Choice("num_orientations", (6, 12))
)


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


def teacher(**changes: object) -> Ponita:
    torch.manual_seed(5)
    net = Ponita(**{**FIXED, "hidden_channels": 12, "num_layers": 2, "num_orientations": 12, **changes}).double()
    calibrate(net, batch_of(0))
    return net


def supernet(space: SearchSpace = OPTIONS, seed: int = 0) -> PonitaSupernet:
    torch.manual_seed(seed)
    net = PonitaSupernet(space, **FIXED).double()
    calibrate_supernet(net, batch_of(0))
    return net


def batch_of(seed: int, sizes: tuple[int, ...] = SIZES) -> dict[str, object]:
    return random_graph(sizes, seed=seed)


def sgd(parameters, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr)


def last_block(net: Ponita, batch: dict[str, object]) -> dict[str, torch.Tensor]:
    with recorded(net) as blocks:
        net(**batch)
    return blocks[-1]


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


# sub-spaces


def cost_of_values(space: SearchSpace):
    return lambda architecture: float(math.prod(space.decode(architecture).values()))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 18])
def test_parts_by_cost_hold_every_architecture_once_the_cheapest_first(k):
    space = SearchSpace(*OPTIONS.values(), allowed={"num_orientations": [1]}) if k == 5 else OPTIONS
    k = min(k, space.cardinality)
    cost = cost_of_values(space)
    parts = partition_by_cost(space, k, cost)
    listed = [architecture for part in parts for architecture in part.enumerate()]
    assert len(parts) == k and sorted(listed) == sorted(space.enumerate())
    assert check_partition(space, parts) is parts
    means = [sum(math.log(cost(a)) for a in part.enumerate()) / part.cardinality for part in parts]
    assert means == sorted(means)


def test_parts_by_cost_are_cut_where_costs_are_apart():
    space = SearchSpace(Choice("a", (1, 2, 3)), Choice("b", (1, 2, 3, 4)), Choice("c", ("x", "y", "z"), ordered=False))
    jump = [0, 0, 3]
    of_kind = [0.0, 9.0, 0.1]
    parts = partition_by_cost(space, 3, lambda p: math.exp(jump[p[0]] + 0.01 * p[1] + of_kind[p[2]]))
    assert [part.allowed for part in parts] == [
        {"a": (0, 1), "b": (0, 1, 2, 3), "c": (0, 2)},
        {"a": (2,), "b": (0, 1, 2, 3), "c": (0, 2)},
        {"a": (0, 1, 2), "b": (0, 1, 2, 3), "c": (1,)},
    ]


def test_the_logarithm_of_the_cost_is_what_is_alike_in_a_part():
    space = SearchSpace(Choice("a", (1, 2, 3, 4)))
    cheap, dear = partition_by_cost(space, 2, lambda p: (1.0, 100.0, 130.0, 200.0)[p[0]])
    assert cheap.allowed == {"a": (0,)} and dear.allowed == {"a": (1, 2, 3)}


def test_a_cut_lowers_the_sum_of_squares_not_the_mean_square():
    space = SearchSpace(Choice("a", tuple(range(10))))
    logs = [0.0, 0.3, 2.0, 2.3, 2.6, 2.9, 3.2, 3.5, 3.8, 4.1]

    def spread(rows):
        return sum((x - sum(rows) / len(rows)) ** 2 for x in rows)

    best = min(range(1, 10), key=lambda i: spread(logs[:i]) + spread(logs[i:]))
    parts = partition_by_cost(space, 2, lambda p: math.exp(logs[p[0]]))
    assert parts[0].cardinality == best


def test_parts_that_overlap_miss_some_or_hold_others_are_refused():
    first, second = OPTIONS.partition("hidden_channels", [[0], [1, 2]])
    assert check_partition(OPTIONS, [first, second]) == [first, second]
    with pytest.raises(ValueError, match="share architectures"):
        check_partition(OPTIONS, [first, second, first.restrict(num_layers=[0])])
    with pytest.raises(ValueError, match="hold 8 architectures; expected the 12"):
        check_partition(OPTIONS, [second])
    inside = OPTIONS.restrict(num_layers=[0])
    with pytest.raises(ValueError, match="no others"):
        check_partition(inside, [OPTIONS.restrict(num_layers=[1])])
    for k in (0, 13):
        with pytest.raises(ValueError, match="expected 1 to 12"):
            partition_by_cost(OPTIONS, k, lambda _: 1.0)
    with pytest.raises(ValueError, match="expected positive"):
        partition_by_cost(OPTIONS, 2, lambda architecture: float(sum(architecture)))


def test_the_supernet_of_a_compact_space_holds_no_more_than_its_largest_network():
    part = OPTIONS.restrict(hidden_channels=[0, 1], num_layers=[0])
    small = compact(part)
    assert {name: choice.values for name, choice in small.items()} == {
        "hidden_channels": (4, 6),
        "num_layers": (1,),
        "num_orientations": (6, 12),
    }
    assert PonitaSupernet(part, **FIXED).network.config["hidden_channels"] == 12
    net = PonitaSupernet(small, **FIXED)
    assert net.network.config["hidden_channels"] == 6 and len(net.network.blocks) == 1
    held = sum(p.numel() for p in net.parameters())
    assert held == int(net.num_parameters(small.largest()))
    unordered = compact(SearchSpace(Choice("c", ("y", "x"), ordered=False)))
    assert not unordered["c"].ordered and unordered["c"].values == ("y", "x")


def test_architectures_are_translated_between_a_space_and_its_compact_parts():
    part = OPTIONS.restrict(hidden_channels=[0, 2], num_layers=[1])
    small = compact(part)
    translated = {a: translate(a, small, OPTIONS) for a in small.enumerate()}
    assert sorted(translated.values()) == sorted(part.enumerate())
    assert translated[(1, 0, 1)] == (2, 1, 1)
    assert all(translate(whole, part, small) == a for a, whole in translated.items())
    with pytest.raises(ValueError, match="no options"):
        translate((1, 1, 1), OPTIONS, small)


# inheritance


def test_a_supernet_as_large_as_the_teacher_becomes_it():
    net, original = PonitaSupernet(OPTIONS, **FIXED).double(), teacher()
    assert len(inherit(net, original)) == len(list(original.named_parameters()))
    assert bool(net.calibrated)
    batch = batch_of(1)
    assert torch.equal(net(**batch).scalars, original(**batch).scalars)
    with torch.no_grad():
        next(original.parameters()).add_(1)
    assert not torch.equal(net(**batch).scalars, original(**batch).scalars)


def test_a_compact_supernet_inherits_the_corners_that_the_whole_one_would_use():
    whole, part = supernet(), OPTIONS.restrict(hidden_channels=[0, 1])
    small = PonitaSupernet(compact(part), **FIXED).double()
    inherit(small, whole.network)
    assert not bool(small.calibrated)
    batch = batch_of(1)
    for architecture in small.space.enumerate():
        expected = whole(**batch, path=translate(architecture, small.space, OPTIONS))
        torch.testing.assert_close(small(**batch, path=architecture).scalars, expected.scalars, **EXACT)


def test_only_parameters_that_the_teacher_has_as_large_are_inherited():
    narrow = teacher(hidden_channels=6, num_layers=1, out_channels=2)
    net = PonitaSupernet(compact(OPTIONS.restrict(hidden_channels=[1])), **FIXED).double()
    before = {name: p.clone() for name, p in net.network.named_parameters()}
    names = inherit(net, narrow)
    assert {name for name in before if name not in names} == {
        name for name in before if name.startswith(("blocks.1.", "readouts."))
    }
    changed = {name for name, p in net.network.named_parameters() if not torch.equal(p, before[name])}
    assert changed <= set(names) and "blocks.0.conv.kernel.weight" in changed
    assert not bool(net.calibrated)


def test_kernels_as_wide_as_the_teachers_count_as_calibrated_in_fewer_blocks_too():
    net = PonitaSupernet(compact(OPTIONS.restrict(hidden_channels=[2], num_layers=[0])), **FIXED).double()
    inherit(net, teacher())
    assert bool(net.calibrated)
    for smaller in ({"basis_channels": 4}, {"degree": 1}):
        net = PonitaSupernet(compact(OPTIONS.restrict(hidden_channels=[2])), **{**FIXED, **smaller}).double()
        assert "blocks.0.conv.kernel.weight" in inherit(net, teacher())
        assert not bool(net.calibrated)


def test_keys_of_attention_of_another_width_are_not_inherited():
    given = teacher(attention_channels=4)
    net = PonitaSupernet(compact(OPTIONS.restrict(hidden_channels=[1])), **FIXED, attention_channels=3).double()
    assert not any("attention" in name for name in inherit(net, given))
    net = PonitaSupernet(compact(OPTIONS.restrict(hidden_channels=[1])), **FIXED, attention_channels=4).double()
    assert any("attention" in name for name in inherit(net, given))


def test_teachers_of_other_inputs_or_with_fewer_channels_are_refused():
    net = PonitaSupernet(OPTIONS, **FIXED).double()
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(ValueError, match=r"'in_channels': \(3, 4\)"):
        inherit(net, Ponita(**{**FIXED, "in_channels": 4}, hidden_channels=12).double())
    with pytest.raises(ValueError, match=r"'hidden_channels': \(12, 4\)"):
        inherit(net, Ponita(**FIXED, hidden_channels=4).double())
    assert all(map(torch.equal, before, net.parameters()))


# training


class Steps(Callback):
    """What every step drew, and how many gradients came before each step of the optimiser."""

    def __init__(self) -> None:
        self.drawn: list[list[tuple[int, ...]]] = [[]]

    def on_backward_end(self, trainer, draw, feedback) -> None:
        self.drawn[-1].append(draw.path)

    def on_step_end(self, trainer, step) -> None:
        self.drawn.append([])


def parts_of_two() -> list[SearchSpace]:
    return [compact(part) for part in OPTIONS.partition("hidden_channels", [[0, 1], [2]])]


def students() -> list[PonitaSupernet]:
    return [supernet(space, seed) for seed, space in enumerate(parts_of_two())]


def test_every_step_of_every_supernet_trains_its_smallest_its_largest_and_two_others():
    trainer = DistillationTrainer(teacher(), students(), RelationDistillationLoss(2), sgd)
    for one in trainer.trainers:
        one.callbacks.append(Steps())
    histories = trainer.fit([batch_of(0), batch_of(1)], epochs=2)
    assert len(histories) == 2 and all(len(history.loss) == 2 for history in histories)
    for one, net in zip(trainer.trainers, trainer.supernets, strict=True):
        steps = one.callbacks[0].drawn
        assert len(steps) == 5 and steps.pop() == []
        for drawn in steps:
            assert len(drawn) == 4 and all(path in net.space for path in drawn)
            assert drawn[:2] == [net.space.smallest(), net.space.largest()]


def test_gradients_of_all_paths_are_added_before_one_step_of_the_optimizer():
    net, batch, loss = students()[0], batch_of(0), RelationDistillationLoss(2)
    guide = teacher()
    trainer = DistillationTrainer(guide, [net], loss, sgd, grad_clip=None)
    paths = [draw.path for draw in type(trainer.trainers[0].sampler)(net.space).draw(0)]
    target, g = last_block(guide, batch), Graphs.of(batch)
    total = sum(loss(net.taps(**batch, path=path)[1][-1], target, g).mean() for path in paths) / 4
    parameters = {name: p for name, p in net.named_parameters()}
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    expected = {
        name: p.detach() - (0.0 if gradient is None else 0.1 * gradient)
        for (name, p), gradient in zip(parameters.items(), gradients, strict=True)
    }
    moved = [name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
    trainer.fit([batch], epochs=1)
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], **EXACT)
    assert len(moved) > 10 and not any("readouts" in name for name in moved)


def test_the_last_active_block_meets_the_last_block_of_the_teacher():
    net, guide, batch = students()[0], teacher(), batch_of(1)
    loss = RelationDistillationLoss(2)
    objective = DistillationObjective(guide, loss)
    for path in ((0, 0, 0), (1, 1, 1)):
        alone = net.extract(path)
        assert len(alone.blocks) == net.space.decode(path)["num_layers"]
        expected = loss(last_block(alone, batch), last_block(guide, batch), Graphs.of(batch))
        with net.activate(path):
            losses = objective(net, batch)
        torch.testing.assert_close(losses.samples, expected, **EXACT)
        torch.testing.assert_close(losses.mean, expected.mean(), **EXACT)


def test_a_supernet_teaches_with_its_largest_network():
    guide, batch = supernet(seed=3), batch_of(1)
    objective = DistillationObjective(guide, RelationDistillationLoss(2))
    with guide.activate(guide.space.smallest()):
        found = objective.target(batch)
    expected = DistillationObjective(guide.extract(guide.space.largest()), objective.loss).target(batch)
    for name in "SFU":
        torch.testing.assert_close(found[name], expected[name], **EXACT)


def test_the_teacher_is_asked_once_a_step_and_stays_as_it_was():
    guide = teacher().train()
    before = {name: p.clone() for name, p in guide.named_parameters()}
    calls = []
    guide.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    trainer = DistillationTrainer(guide, students()[:1], RelationDistillationLoss(2), sgd)
    batches = [batch_of(0), batch_of(1), batch_of(2)]
    trainer.fit(batches, epochs=2)
    assert calls == [False] * 6 and not guide.training
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in guide.named_parameters())
    trainer.fit(batches[2:], epochs=1)
    assert len(calls) == 7
    trainer.fit(batches[2:], epochs=2)
    assert len(calls) == 8


def test_other_samplers_can_be_used():
    trainer = DistillationTrainer(teacher(), students(), RelationDistillationLoss(2), sgd, UniformSampler)
    assert [type(one.sampler) for one in trainer.trainers] == [UniformSampler] * 2
    assert [one.sampler.space for one in trainer.trainers] == [net.space for net in trainer.supernets]


def test_gradients_of_a_step_are_clipped():
    net = students()[0]
    before = torch.cat([p.detach().flatten().clone() for p in net.parameters()])
    trainer = DistillationTrainer(teacher(), [net], RelationDistillationLoss(2), sgd, grad_clip=1e-3)
    trainer.fit([batch_of(0)], epochs=1)
    after = torch.cat([p.detach().flatten() for p in net.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.1 * 1e-3, rel=1e-2)


def test_training_lowers_the_loss_of_every_network_on_clouds_it_did_not_see():
    net = supernet(SearchSpace(Choice("hidden_channels", (6, 12)), Choice("num_layers", (1, 2))), seed=1)
    loss, adam = RelationDistillationLoss(1), lambda parameters: torch.optim.Adam(parameters, lr=5e-3)
    trainer = DistillationTrainer(teacher(), [net], loss, adam)
    unseen = [batch_of(seed) for seed in (100, 101, 102)]

    def losses() -> dict[tuple[int, ...], float]:
        return select_student([net], trainer.objective, unseen, lambda *_: 1.0, 1.0).losses[0]

    before = losses()
    history = trainer.fit([batch_of(seed) for seed in range(8)], epochs=4)[0].loss
    after = losses()
    assert all(after[path] < before[path] for path in before)
    assert sum(after.values()) < 0.8 * sum(before.values()) and history[-1] < 0.8 * history[0]


def test_supernets_that_share_weights_with_the_teacher_and_none_are_refused():
    net = supernet()
    for guide, nets in ((net, [net]), (net.network, [net]), (teacher(), [])):
        with pytest.raises(ValueError, match="shares no parameter"):
            DistillationTrainer(guide, nets, RelationDistillationLoss(2), sgd)
    with pytest.raises(ValueError, match="not calibrated"):
        DistillationTrainer(teacher(), [PonitaSupernet(OPTIONS, **FIXED).double()], RelationDistillationLoss(2), sgd)


# selection


def test_the_student_is_the_network_of_least_loss_within_the_limit_among_all_supernets():
    nets, objective = students(), DistillationObjective(teacher(), RelationDistillationLoss(2))
    batches = [batch_of(1), batch_of(2, (4,))]
    before = [p.clone() for net in nets for p in net.parameters()]
    costs = sorted(int(net.num_parameters(a)) for net in nets for a in net.space.enumerate())
    seen = set()
    for limit in (costs[0], costs[len(costs) // 2], costs[-1]):
        found = select_student(nets, objective, batches, lambda net, a: net.num_parameters(a), limit)
        expected = {}
        for k, net in enumerate(nets):
            for a in net.space.enumerate():
                if int(net.num_parameters(a)) <= limit:
                    with net.activate(a):
                        samples = [objective(net, batch).samples for batch in batches]
                    expected[k, a] = float(torch.cat(samples).mean().detach())
        k, best = min(expected, key=expected.get)
        assert found.supernet is nets[k] and found.architecture == best
        assert found.loss == pytest.approx(expected[k, best], rel=1e-12)
        assert found.cost == int(nets[k].num_parameters(best)) <= limit
        listed = {(i, a): loss for i, of_one in enumerate(found.losses) for a, loss in of_one.items()}
        assert listed == pytest.approx(expected, rel=1e-12)
        seen.add((k, best))
    assert len(seen) > 1
    after = [p for net in nets for p in net.parameters()]
    assert all(map(torch.equal, before, after)) and all(p.grad is None for p in after)
    assert not any(net.training for net in nets)


def test_a_limit_below_every_network_and_no_batches_are_refused():
    nets, objective = students(), DistillationObjective(teacher(), RelationDistillationLoss(2))
    with pytest.raises(ValueError, match="2 supernets costs at most 9; the cheapest takes 10"):
        select_student(nets, objective, [batch_of(1)], lambda net, a: 10.0 + sum(a), 9.0)
    with pytest.raises(ValueError, match="no batches"):
        select_student(nets, objective, [], lambda *_: 1.0, 1.0)
