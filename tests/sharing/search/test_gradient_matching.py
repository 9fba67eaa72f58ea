"""Gradient matching: what is compared, which split it suggests, and the tree of supernets that splits make."""

import copy
import functools
import itertools

import pytest
import torch
from torch import nn

from ponita.geometry import fully_connected
from ponita.sharing.search.fewshot import FewShotTrainer, SupernetTree
from ponita.sharing.search.gradient_matching import gradient_matching, split_choice
from ponita.sharing.search.layered import LayeredSupernet
from ponita.sharing.search.layers import EntangledLinear, MixedOp
from ponita.sharing.search.masks import Dim
from ponita.sharing.search.ponita_supernet import PonitaSupernet
from ponita.sharing.search.sampling import UniformSampler
from ponita.sharing.search.searchers import random_search
from ponita.sharing.search.space import Choice, SearchSpace
from ponita.sharing.search.testbed import ToySupernet, batches, toy_data, toy_loss
from ponita.sharing.search.training import Callback, Losses, SupernetTrainer

DATA = toy_data(48, seed=0)
BATCHES = batches(DATA, 16, seed=0)
#: Of the six, one edge turns the sign of what it passes on; the others only scale it.
CONFLICT, MILD = (1.0, 0.5, -1.0, -0.5), (1.0, 0.9, 0.8, 0.7)
SIGNS = [(0, 1), (2, 3)]


def small_space() -> SearchSpace:
    return SearchSpace(
        Choice("basis", (4, 8)), Choice("hidden", (4, 6, 8)), Choice("ratio", (1, 2)), Choice("num_layers", (1, 2))
    )


def toy(seed: int = 0, space: SearchSpace | None = None) -> ToySupernet:
    torch.manual_seed(seed)
    return ToySupernet(space or small_space())


def entropy_loss(model: nn.Module, batch) -> Losses:
    return Losses(nn.functional.cross_entropy(model(batch.x), batch.y, reduction="none"))


class Edges(LayeredSupernet):
    """A sum of three edges, each times the factor that is chosen."""

    def __init__(self, planted: int) -> None:
        factors = [CONFLICT if edge == planted else MILD for edge in range(3)]
        super().__init__(SearchSpace(*(Choice(f"edge_{i}", f, ordered=False) for i, f in enumerate(factors))))
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 1)
        self.edges = nn.ModuleList(nn.Linear(8, 8) for _ in factors)

    def run(self, path, x):
        h, factors = self.stem(x), self.space.decode(path).values()
        return self.head(sum(f * torch.tanh(edge(h)) for f, edge in zip(factors, self.edges, strict=True)))[:, 0]


def planted(seed: int):
    """A network with a conflict at edge seed % 3, trained for a while, its loss and batches."""
    torch.manual_seed(seed)
    net, target = Edges(seed % 3), torch.randn(4)

    def loss_fn(model, x):
        return Losses((model(x) - torch.sin(2 * x @ target)).square())

    data = [torch.randn(64, 4) for _ in range(60)]
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    SupernetTrainer(net, loss_fn, optimizer, UniformSampler(net.space, seed)).fit(data, 1)
    return net, loss_fn, data[:10]


def brute_force(matching, n_groups, min_group, normalize):
    """The least similarity across a cut, over all labellings."""
    found = []
    for labels in itertools.product(range(n_groups), repeat=len(matching)):
        if min(labels.count(group) for group in range(n_groups)) >= min_group:
            cut = [
                float(matching[i, j])
                for i, j in itertools.combinations(range(len(matching)), 2)
                if labels[i] != labels[j]
            ]
            found.append(
                (sum(cut) / len(cut), 1 - sum(cut) / len(cut)) if normalize else (sum(cut), len(cut) - sum(cut))
            )
    return min(found)


def test_a_planted_conflict_is_found_by_the_mean_cut_and_missed_by_the_minimum_cut():
    edges = groups = balanced = minimum = 0
    for seed in range(12):
        net, loss_fn, data = planted(seed)
        generator = torch.Generator().manual_seed(seed)
        matching = {name: gradient_matching(net, name, loss_fn, data, generator) for name in net.space}
        cuts = {name: split_choice(m) for name, m in matching.items()}
        true = f"edge_{seed % 3}"
        edges += max(cuts, key=lambda name: cuts[name][1]) == true
        groups += cuts[true][0] == SIGNS
        balanced += split_choice(matching[true], min_group=2, normalize=False)[0] == SIGNS
        minimum += split_choice(matching[true], normalize=False)[0] == SIGNS
    assert edges == groups == balanced == 12
    assert minimum <= 3  # single options are cut off where cosines are positive


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("number", "n_groups", "min_group"), [(2, 2, 1), (5, 2, 1), (5, 2, 2), (6, 3, 1), (6, 3, 2)])
def test_a_split_is_the_best_of_all_partitions(number, n_groups, min_group, normalize):
    for seed in range(5):
        half = torch.randn(number, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        matching = nn.functional.normalize(half, dim=1) @ nn.functional.normalize(half, dim=1).T
        groups, score = split_choice(matching, n_groups, min_group, normalize)
        assert sorted(itertools.chain.from_iterable(groups)) == list(range(number))
        assert len(groups) == n_groups and min(map(len, groups)) >= min_group
        cut = [float(matching[i, j]) for a, b in itertools.combinations(groups, 2) for i in a for j in b]
        least, best = brute_force(matching, n_groups, min_group, normalize)
        assert (sum(cut) / len(cut) if normalize else sum(cut)) == pytest.approx(least)
        assert score == pytest.approx(best)


def test_a_minimum_cut_of_positive_cosines_separates_one_option():
    matching = torch.full((4, 4), 0.3).fill_diagonal_(1.0)
    matching[0, 1] = matching[1, 0] = matching[2, 3] = matching[3, 2] = 0.45
    assert split_choice(matching) == (SIGNS, pytest.approx(0.7))
    assert split_choice(matching, min_group=2, normalize=False) == (SIGNS, pytest.approx(4 * 0.7))
    assert sorted(map(len, split_choice(matching, normalize=False)[0])) == [1, 3]


def test_splits_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="3 options in 2 groups of at least 2"):
        split_choice(torch.eye(3), min_group=2)
    with pytest.raises(ValueError, match="in 1 groups"):
        split_choice(torch.eye(3), n_groups=1)
    with pytest.raises(ValueError, match="square matrix of finite"):
        split_choice(torch.ones(2, 3))
    with pytest.raises(ValueError, match="square matrix of finite"):
        split_choice(torch.full((3, 3), float("nan")))
    with pytest.raises(ValueError, match="13 options"):
        split_choice(torch.eye(13))


@pytest.mark.parametrize("choice", ["basis", "hidden", "num_layers"])
def test_a_matching_is_the_cosine_of_the_gradients_in_the_corner_of_the_smallest_option(choice):
    net, space = toy().double(), small_space()
    data = [type(DATA)(batch.x.double(), batch.y) for batch in BATCHES]
    found = gradient_matching(net, choice, entropy_loss, data, torch.Generator().manual_seed(4))
    generator, expected = torch.Generator().manual_seed(4), 0
    for batch in data:
        drawn = dict(zip(space, space.sample(generator), strict=True))
        paths = [tuple((drawn | {choice: option}).values()) for option in range(len(space[choice]))]
        corner, rows = net.block(paths[0]), []
        for path in paths:
            net.zero_grad()
            entropy_loss(functools.partial(net, path=path), batch).mean.backward()
            rows.append(torch.cat([net.get_parameter(name).grad[part].flatten() for name, part in corner.items()]))
        expected = expected + torch.tensor([[torch.cosine_similarity(a, b, dim=0) for b in rows] for a in rows])
    torch.testing.assert_close(found, (expected / len(data)).double(), rtol=1e-6, atol=1e-6)


class Sum(LayeredSupernet):
    """The sum of the outputs of a linear layer of chosen width."""

    def __init__(self) -> None:
        super().__init__(SearchSpace(Choice("hidden", (1, 4, 16))))
        self.linear = EntangledLinear(2, Dim(self.space, "hidden"))

    def run(self, path, x):
        return self.linear(x, path).sum(1)


def test_options_that_agree_on_the_weights_they_share_match_whatever_else_they_have():
    matching = gradient_matching(Sum(), "hidden", lambda net, x: Losses(net(x)), [torch.ones(3, 2)])
    torch.testing.assert_close(matching, torch.ones(3, 3, dtype=torch.float64))  # of all weights cos(1, 16) is 1/4


def test_a_matching_is_symmetric_with_unit_diagonal_and_does_not_see_the_scale_of_the_loss():
    def scaled(net, batch):
        return Losses(7 * entropy_loss(net, batch).samples)

    seeded = lambda: torch.Generator().manual_seed(1)  # noqa: E731
    matching = gradient_matching(toy(), "hidden", entropy_loss, BATCHES, seeded())
    torch.testing.assert_close(matching, matching.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(matching.diag(), torch.ones(3, dtype=torch.float64))
    assert matching.fill_diagonal_(0).abs().max() < 1
    again = gradient_matching(toy(), "hidden", scaled, BATCHES, seeded())
    torch.testing.assert_close(again.fill_diagonal_(0), matching, rtol=0, atol=1e-5)


def test_a_matching_changes_no_weight_leaves_no_gradient_and_trains_nothing():
    net = toy().eval()
    before, modes = copy.deepcopy(net.state_dict()), []

    def loss_fn(model, batch):
        modes.append(model.training)
        return entropy_loss(model, batch)

    gradient_matching(net, "hidden", loss_fn, BATCHES)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert all(modes) and not net.training and net.path == net.space.largest()


def test_the_other_choices_are_alike_for_all_options_and_drawn_anew_for_each_batch():
    net, paths = toy(), []

    def loss_fn(model, batch):
        paths.append(model.path)
        return entropy_loss(model, batch)

    gradient_matching(net, "hidden", loss_fn, BATCHES * 3, torch.Generator().manual_seed(0))
    by_batch = [paths[i : i + 3] for i in range(0, len(paths), 3)]
    assert len(by_batch) == 9
    assert all([path[1] for path in batch] == [0, 1, 2] for batch in by_batch)
    others = [{(path[0], *path[2:]) for path in batch} for batch in by_batch]
    assert all(len(of_batch) == 1 for of_batch in others) and len(set().union(*others)) > 2


def test_only_allowed_options_are_compared():
    net = toy()
    net.restrict(net.space.restrict(hidden=[0, 2]))
    assert gradient_matching(net, "hidden", entropy_loss, BATCHES).shape == (2, 2)
    net.restrict(net.space.restrict(hidden=[2]))
    with pytest.raises(ValueError, match=r"hidden has options \[2\]"):
        gradient_matching(net, "hidden", entropy_loss, BATCHES)
    with pytest.raises(ValueError, match="depth has options"):
        gradient_matching(net, "depth", entropy_loss, BATCHES)
    with pytest.raises(ValueError, match="no batches"):
        gradient_matching(net, "basis", entropy_loss, [])


class Operations(LayeredSupernet):
    """Two operations with weights of their own, and a head, or none, that both use."""

    def __init__(self, head: bool) -> None:
        super().__init__(SearchSpace(Choice("op", ("a", "b"), ordered=False)))
        self.op = MixedOp({"a": nn.Linear(2, 3), "b": nn.Linear(2, 3)}, self.space, "op")
        self.head = nn.Linear(3, 1, bias=False) if head else None

    def run(self, path, x):
        h = self.op(x, path)
        return (h if self.head is None else self.head(h)).sum(1)


def test_weights_that_only_one_operation_has_are_not_compared():
    torch.manual_seed(0)
    net, x = Operations(head=True), torch.randn(5, 2)
    matching = gradient_matching(net, "op", lambda model, x: Losses(model(x)), [x])
    a, b = (net.op[name](x).mean(0).detach() for name in "ab")
    assert float(matching[0, 1]) == pytest.approx(float(torch.cosine_similarity(a, b, dim=0)), abs=1e-6)
    with pytest.raises(ValueError, match="no weight in common"):
        gradient_matching(Operations(head=False), "op", lambda model, x: Losses(model(x)), [x])


def tree_of(net: nn.Module, **options) -> SupernetTree:
    return SupernetTree(net, torch.optim.Adam(net.parameters(), 1e-2), **options)


def trained_tree(**options) -> SupernetTree:
    """A tree of one leaf that was trained for three steps."""
    tree = tree_of(toy(), **options)
    leaf = tree.leaves[0]
    SupernetTrainer(leaf.model, entropy_loss, leaf.optimizer, UniformSampler(leaf.space)).fit(BATCHES, 1)
    return tree


def test_a_tree_splits_the_planted_edge_into_its_signs_and_no_edge_twice():
    net, loss_fn, data = planted(4)
    tree = tree_of(net)
    tree.split(loss_fn, data, torch.Generator().manual_seed(0))
    assert [leaf.split for leaf in tree.leaves] == [("edge_1",)] * 2
    assert [leaf.space.allowed["edge_1"] for leaf in tree.leaves] == SIGNS
    tree.split(loss_fn, data, torch.Generator().manual_seed(0))
    assert len(tree.leaves) == 4
    assert all(leaf.split[0] == "edge_1" and leaf.split[1] in ("edge_0", "edge_2") for leaf in tree.leaves)


def test_leaves_share_no_architecture_and_hold_all():
    tree, every = trained_tree(), set(small_space().enumerate())
    for number in (2, 4, 8):
        tree.split(entropy_loss, BATCHES, torch.Generator().manual_seed(0))
        held = [architecture for leaf in tree.leaves for architecture in leaf.space.enumerate()]
        assert len(tree.leaves) == number and len(held) == len(every) and set(held) == every
        assert all(architecture in tree.leaf_of(architecture).space for architecture in every)
        assert all(leaf.model.path in leaf.space for leaf in tree.leaves)
    with pytest.raises(ValueError, match="in none of the leaves"):
        tree.leaf_of((9, 9, 9, 9))


def test_options_of_a_restricted_space_keep_their_indices():
    net = toy()
    net.restrict(net.space.restrict(basis=[1], ratio=[1], num_layers=[1], hidden=[1, 2]))
    tree = tree_of(net)
    tree.split(entropy_loss, BATCHES)
    assert [leaf.space.allowed["hidden"] for leaf in tree.leaves] == [(1,), (2,)]
    with pytest.raises(ValueError, match="none of the 2 leaves"):
        tree.split(entropy_loss, BATCHES)


def test_choices_with_too_few_options_for_the_groups_are_not_split():
    with pytest.raises(ValueError, match="none of the 1 leaves has a choice left with 4 options"):
        tree_of(toy(), min_group=2).split(entropy_loss, BATCHES)
    with pytest.raises(ValueError, match="with 4 options"):
        tree_of(toy(), n_groups=4).split(entropy_loss, BATCHES)
    tree = tree_of(toy(), n_groups=3)
    tree.split(entropy_loss, BATCHES)
    assert [leaf.space.allowed["hidden"] for leaf in tree.leaves] == [(0,), (1,), (2,)]


def test_a_leaf_without_a_choice_to_split_stays():
    space = SearchSpace(
        Choice("basis", (4,)), Choice("hidden", (2, 4, 8)), Choice("ratio", (1,)), Choice("num_layers", (1, 2))
    )
    tree = tree_of(toy(space=space), min_group=1)
    tree.leaves[0].split = ("num_layers",)
    tree.split(entropy_loss, BATCHES)
    tree.leaves[0].split = ("hidden",)
    kept = tree.leaves[1]
    kept.split = ("hidden", "num_layers")
    tree.split(entropy_loss, BATCHES)
    assert len(tree.leaves) == 3 and tree.leaves[-1] is kept


def test_parts_compute_what_the_leaf_computed_and_have_weights_of_their_own():
    tree = trained_tree()
    parent = tree.leaves[0]
    before = {a: parent.model(DATA.x, path=a) for a in parent.space.enumerate()}
    tree.split(entropy_loss, BATCHES)
    for leaf in tree.leaves:
        for architecture in leaf.space.enumerate():
            assert torch.equal(leaf.model(DATA.x, path=architecture), before[architecture])
    first, second = tree.leaves
    SupernetTrainer(first.model, entropy_loss, first.optimizer, UniformSampler(first.space)).fit(BATCHES, 1)
    for unchanged, space in ((second, second.space), (parent, first.space)):
        assert all(torch.equal(unchanged.model(DATA.x, path=a), before[a]) for a in space.enumerate())
    assert not torch.equal(first.model(DATA.x, path=first.space.largest()), before[first.space.largest()])


def test_parts_go_on_with_the_state_of_the_optimiser():
    tree = trained_tree()
    parent = tree.leaves[0]
    tree.split(entropy_loss, BATCHES)
    first, second = tree.leaves
    path = first.space.largest()
    for leaf in (first, parent):
        leaf.optimizer.zero_grad()
        entropy_loss(functools.partial(leaf.model, path=path), BATCHES[0]).mean.backward()
        leaf.optimizer.step()
    assert torch.equal(first.model(DATA.x, path=path), parent.model(DATA.x, path=path))
    steps = [float(next(iter(leaf.optimizer.state.values()))["step"]) for leaf in (first, second)]
    assert steps == [4, 3]


def test_a_ponita_supernet_is_split_and_computes_the_same():
    torch.manual_seed(0)
    space = SearchSpace(
        Choice("hidden_channels", (4, 6)), Choice("num_orientations", (4, 6)), Choice("num_layers", (1, 2))
    )
    net = PonitaSupernet(space, in_channels=2, basis_channels=4, cutoff=3.0)
    alone = torch.zeros(5, dtype=torch.long)
    batch = {"pos": torch.randn(5, 3), "x": torch.randn(5, 2), "edge_index": fully_connected(alone), "batch": alone}

    def loss_fn(model, batch):
        return Losses(model(**batch).scalars.square().flatten())

    matching = gradient_matching(net, "num_orientations", loss_fn, [batch])
    assert 0.5 < matching[0, 1] < 1 - 1e-6  # the same weights on another grid
    before = {a: net(**batch, path=a).scalars for a in space.enumerate()}
    tree = tree_of(net)
    tree.split(loss_fn, [batch])
    tree.split(loss_fn, [batch])
    for leaf in tree.leaves:
        for architecture in leaf.space.enumerate():
            assert torch.equal(leaf.model(**batch, path=architecture).scalars, before[architecture])


class Note(Callback):
    """Notes the weights and the optimiser that each training starts with, and its epochs."""

    def __init__(self, notes: list) -> None:
        self.notes = notes

    def on_fit_start(self, trainer):
        state = copy.deepcopy(trainer.supernet.state_dict())
        self.notes.append([trainer.supernet.space, state, len(trainer.optimizer.state), 0])

    def on_epoch_end(self, trainer, epoch):
        self.notes[-1][-1] += 1


def few_shot(tree: SupernetTree, notes: list, **options) -> FewShotTrainer:
    def make_trainer(leaf) -> SupernetTrainer:
        schedule = torch.optim.lr_scheduler.LambdaLR(leaf.optimizer, lambda step: 0.9**step)
        sampler = UniformSampler(leaf.space)
        return SupernetTrainer(leaf.model, entropy_loss, leaf.optimizer, sampler, [Note(notes)], scheduler=schedule)

    return FewShotTrainer(tree, make_trainer, generator=torch.Generator().manual_seed(0), n_batches=2, **options)


@pytest.mark.parametrize("restart", ["final", None])
def test_every_leaf_is_trained_between_splits_and_begins_anew_after_the_last_if_asked(restart):
    net, notes = toy(), []
    initial = copy.deepcopy(net.state_dict())
    tree, seen = tree_of(net), []
    split = tree.split
    tree.split = lambda loss_fn, data, generator: seen.append(data) or split(loss_fn, data, generator)
    history = few_shot(tree, notes, split_at=[1, 3], restart=restart).fit(BATCHES, epochs=4)
    assert seen == [BATCHES[:2]] * 2
    assert [note[-1] for note in notes] == [1, 2, 2, 1, 1, 1, 1]
    sizes = [note[0].cardinality for note in notes]
    assert sizes[0] == sum(sizes[1:3]) == sum(sizes[3:]) == 24
    as_at_first = [all(torch.equal(v, initial[k]) for k, v in note[1].items()) and not note[2] for note in notes]
    assert as_at_first == [True, False, False, *([restart == "final"] * 4)]
    assert len(history.loss) == 4 and all(0 < loss < 3 for loss in history.loss)


def test_the_history_is_the_mean_of_the_leaves():
    net, kept = toy(), []

    class Kept(SupernetTrainer):
        def fit(self, loader, epochs):
            kept.append(super().fit(loader, epochs).loss)
            return type("Losses", (), {"loss": kept[-1]})

    trainer = FewShotTrainer(
        tree_of(net), lambda leaf: Kept(leaf.model, entropy_loss, leaf.optimizer, UniformSampler(leaf.space)), [1]
    )
    history = trainer.fit(BATCHES, epochs=3)
    assert history.loss == pytest.approx([kept[0][0], *((a + b) / 2 for a, b in zip(*kept[1:], strict=True))])


def test_restarted_leaves_do_not_share_their_optimiser():
    tree = trained_tree()
    tree = SupernetTree(tree.leaves[0].model, tree.leaves[0].optimizer)  # begins with moments
    tree.split(entropy_loss, BATCHES)
    tree.restart()
    first, second = ({k: v["exp_avg"] for k, v in leaf.optimizer.state_dict()["state"].items()} for leaf in tree.leaves)
    assert all(torch.equal(first[k], second[k]) and first[k] is not second[k] for k in first)
    assert all(first[k].data_ptr() != second[k].data_ptr() for k in first)


def test_schedules_that_cannot_be_are_refused():
    for split_at in ([], [0, 2], [2, 2], [3, 1]):
        with pytest.raises(ValueError, match="growing numbers of epochs"):
            few_shot(tree_of(toy()), [], split_at=split_at)
    with pytest.raises(ValueError, match="restart='all'"):
        few_shot(tree_of(toy()), [], split_at=[1], restart="all")
    with pytest.raises(ValueError, match="after the last split"):
        few_shot(tree_of(toy()), [], split_at=[1, 3]).fit(BATCHES, epochs=3)


def test_selection_takes_the_best_of_all_leaves_with_their_own_weights():
    tree = trained_tree()
    tree.split(entropy_loss, BATCHES)
    with torch.no_grad():
        for parameter in tree.leaves[0].model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))

    def evaluate(model, architecture):
        return toy_loss(model, DATA, path=architecture)

    every = {a: evaluate(leaf.model, a) for leaf in tree.leaves for a in leaf.space.enumerate()}
    leaf, best = tree.select(evaluate)
    assert best == min(every, key=every.get) and leaf is tree.leaf_of(best)
    turned = {a: -error for a, error in every.items()}
    worst = tree.select(lambda model, a: -evaluate(model, a))
    assert worst[1] == min(turned, key=turned.get)
    searched = functools.partial(random_search, number=2, generator=torch.Generator().manual_seed(0))
    calls = []
    tree.select(lambda model, a: calls.append(a) or 0.0, searched)
    assert len(calls) == 4
