"""Probability shift: bins of cost, architectures on request, and which bins gain probability."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from ponita.geometry import fully_connected
from ponita.sharing.search.complexity import (
    ArchitectureGenerator,
    ComplexityBins,
    architecture_of,
    gumbel_softmax,
    resource_loss,
)
from ponita.sharing.search.costs import message_passing_flops
from ponita.sharing.search.hypergradient import hypergradient, loss_gradient, norm_of
from ponita.sharing.search.layered import LayeredSupernet
from ponita.sharing.search.layers import MixedOp
from ponita.sharing.search.ponita_supernet import PonitaSupernet
from ponita.sharing.search.sampling import Draw, PathSampler
from ponita.sharing.search.shift import MOST, REQUESTS, ComplexityShiftSampler, ShiftUpdate
from ponita.sharing.search.space import Choice, SearchSpace
from ponita.sharing.search.testbed import ToyData, ToySupernet, batches, fourier, toy_data, toy_space
from ponita.sharing.search.training import Callback, Losses, SupernetTrainer

TRAIN, VALID = toy_data(64, seed=1), toy_data(64, seed=2)
K = 5


def small_space() -> SearchSpace:
    return SearchSpace(
        Choice("basis", (4, 8)), Choice("hidden", (4, 6, 8)), Choice("ratio", (1, 2)), Choice("num_layers", (1, 2))
    )


def toy(seed: int = 0) -> ToySupernet:
    torch.manual_seed(seed)
    return ToySupernet(small_space())


def double(data: ToyData) -> ToyData:
    return ToyData(data.x.double(), data.y)


def entropy_loss(model: nn.Module, batch) -> Losses:
    return Losses(nn.functional.cross_entropy(model(batch.x), batch.y, reduction="none"))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generator_of(space: SearchSpace, seed: int = 0, hidden: int = 64) -> ArchitectureGenerator:
    torch.manual_seed(seed)
    return ArchitectureGenerator(space, hidden)


def sampler_of(net, n_bins: int = K, **options) -> ComplexityShiftSampler:
    bins = ComplexityBins(net.space, net.num_parameters, n_bins)
    return ComplexityShiftSampler(bins, generator_of(net.space), **options)


def teach(sampler: ComplexityShiftSampler, net: nn.Module, steps: int) -> None:
    """Train the generator on costs alone."""
    for step in range(steps):
        if step % (steps // 10) == 0:
            sampler.epoch_end(step // (steps // 10) - 1, 10)
        (draw,) = sampler.draw(step)
        sampler.extra_loss(draw, net).backward()
        sampler.observe(draw, None)


def test_bins_are_equal_ratios_of_the_cost_that_hold_every_architecture_once():
    space = toy_space()
    net = ToySupernet(space)
    bins = ComplexityBins(space, net.num_parameters, K)
    costs = {a: float(net.num_parameters(a)) for a in space.enumerate()}
    assert sorted(itertools.chain.from_iterable(bins.members)) == sorted(costs)
    ratios = [high / low for low, high in itertools.pairwise(bins.edges)]
    assert ratios == pytest.approx([(max(costs.values()) / min(costs.values())) ** (1 / K)] * K)
    for k, members in enumerate(bins.members):
        assert all(bins.edges[k] <= costs[a] <= bins.edges[k + 1] and bins.bin_of(costs[a]) == k for a in members)
    assert [bins.position(cost) for cost in (bins.edges[0], bins.edges[-1])] == [0, 1]
    assert bins.position(bins.edges[1]) == pytest.approx(1 / K)
    requests = {bins.request(2, generator) for generator in [seeded()] for _ in range(300)}
    assert requests == {costs[a] for a in bins.members[2]}


def test_an_empty_bin_is_joined_to_the_next():
    space = SearchSpace(Choice("width", (1, 2, 900, 1000)))
    bins = ComplexityBins(space, lambda a: space["width"].values[a[0]], 3)
    assert bins.members == [[(0,), (1,)], [(2,), (3,)]]
    assert bins.edges == pytest.approx([1, 10, 1000])
    assert [bins.bin_of(cost) for cost in (1, 9, 11, 200, 1000)] == [0, 0, 1, 1, 1]
    assert bins.span == pytest.approx(math.log(1000))
    on_edge = ComplexityBins(SearchSpace(Choice("width", (1, 2, 4))), lambda a: 2.0 ** a[0], 2)
    assert on_edge.members == [[(0,)], [(1,), (2,)]] and on_edge.bin_of(2.0) == 1
    for cost in (lambda a: 3.0, lambda a: float(a[0])):
        with pytest.raises(ValueError, match="positive and differ"):
            ComplexityBins(space, cost, 3)
    with pytest.raises(ValueError, match="0 bins"):
        ComplexityBins(space, lambda a: a[0] + 1.0, 0)


def test_costs_under_a_relaxation_are_expected_ones():
    net = toy()
    bins = ComplexityBins(net.space, net.num_parameters, 3)
    weights = {name: torch.rand(len(c), dtype=torch.float64).softmax(0) for name, c in net.space.items()}
    expected = sum(
        math.prod(float(weights[name][i]) for name, i in zip(net.space, a, strict=True))
        * math.log(net.num_parameters(a))
        for a in net.space.enumerate()
    )
    assert float(bins.log_cost(weights)) == pytest.approx(expected)
    loss = resource_loss(torch.tensor([3.0, 7.0]), torch.tensor([1.0, 8.0]), 4.0)
    torch.testing.assert_close(loss, torch.tensor([0.25, 0.0625]))


def test_draws_are_exactly_one_hot_and_allowed():
    space = small_space().restrict(hidden=[0, 2], basis=[1])
    drawn = generator_of(space)(torch.rand(5000), tau=2.0, generator=seeded())
    for name, weights in drawn.items():
        assert weights.shape == (5000, len(space[name]))
        assert set(weights.unique().tolist()) <= {0.0, 1.0} and bool((weights.sum(1) == 1).all())
        assert set(weights.argmax(1).tolist()) == set(space.allowed[name])
    soft = generator_of(space)(0.5, hard=False, generator=seeded())
    assert all(weights.sum().item() == pytest.approx(1) for weights in soft.values())
    assert soft["hidden"][1] == 0 and 0 < soft["hidden"][0] < 1 and soft["basis"].tolist() == [0, 1]
    assert generator_of(space).greedy(0.5) in space


def test_options_that_are_not_allowed_leave_the_gradients_finite():
    generator = generator_of(small_space().restrict(hidden=[0, 2], basis=[1]))
    drawn, entropy = generator.draw(torch.rand(3), generator=seeded())
    (entropy.sum() + sum((weights * torch.rand_like(weights)).sum() for weights in drawn.values())).backward()
    assert entropy.max() <= 3 * math.log(2) + 1e-6
    assert all(bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in generator.heads[1].parameters())
    assert generator.heads[1].bias.grad[1] == 0


def test_draws_follow_the_softmax_of_the_scores_whatever_the_temperature():
    probs = torch.tensor([0.1, 0.6, 0.3])
    for tau in (0.2, 2.0):
        drawn = gumbel_softmax(probs.log().expand(20_000, 3), tau, True, seeded())
        torch.testing.assert_close(drawn.mean(0), probs, rtol=0, atol=0.015)


def test_options_depend_on_the_request_and_on_those_before_and_the_entropy_is_that_of_the_decisions():
    space = SearchSpace(Choice("a", (1, 2)), Choice("b", (1, 2, 3)))
    generator = generator_of(space).double()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(4)

    def second(first: int, request: float) -> torch.Tensor:
        picked, seen = iter([torch.eye(2).double()[first][None]]), []
        generator._decide(request, lambda logits: seen.append(logits) or next(picked, logits))
        return seen[1][0].softmax(0)

    assert (second(0, 0.2) - second(1, 0.2)).abs().max() > 0.01
    assert (second(0, 0.2) - second(0, 0.9)).abs().max() > 0.01
    seen = []
    generator._decide(0.2, lambda logits: seen.append(logits[0].softmax(0)) or logits)
    joint = torch.cat([p * second(i, 0.2) for i, p in enumerate(seen[0])])
    _, entropy = generator.draw(torch.full((4000,), 0.2), generator=seeded())
    assert entropy.mean().item() == pytest.approx(torch.special.entr(joint).sum().item(), abs=0.01)


def test_a_drawn_relaxation_is_the_slice_of_its_architecture():
    net = toy().double()
    for seed in range(20):
        drawn = generator_of(net.space, seed).double()(0.4, generator=seeded(seed))
        x = VALID.x.double()
        torch.testing.assert_close(net(x, path=drawn), net(x, path=architecture_of(drawn)), rtol=1e-10, atol=1e-10)


def masked_loss(net, generator, hard):
    drawn = generator(0.4, tau=0.7, hard=hard, generator=seeded(3))
    return entropy_loss(lambda x: net(x, path=drawn), double(TRAIN)).mean, drawn


def test_the_gradient_of_the_loss_reaches_the_generator_through_the_masks():
    net, generator = toy().double(), generator_of(small_space(), hidden=6).double()
    masked_loss(net, generator, hard=False)[0].backward()
    for parameter in generator.parameters():
        place = int(parameter.grad.abs().argmax())
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.view(-1)[place] += step
                ends.append(masked_loss(net, generator, hard=False)[0].item())
                parameter.view(-1)[place] -= step
        assert parameter.grad.view(-1)[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-10)


def test_a_hard_draw_has_the_slope_of_the_loss_at_the_option_times_that_of_the_soft_weights():
    net, logits = toy().double(), torch.randn(3, dtype=torch.float64, generator=seeded()).requires_grad_()
    others = small_space().onehot((1, 0, 1, 1), torch.float64)
    loss = lambda hidden: entropy_loss(lambda x: net(x, path=others | {"hidden": hidden}), double(TRAIN)).mean  # noqa: E731
    hard, soft = (gumbel_softmax(logits, 0.7, kind, seeded(1)) for kind in (True, False))
    (found,) = torch.autograd.grad(loss(hard), logits)
    slope = torch.zeros(3, dtype=torch.float64)
    for option, step in itertools.product(range(3), (1e-5, -1e-5)):
        moved = hard.detach() + step * nn.functional.one_hot(torch.tensor(option), 3)
        slope[option] += loss(moved).item() / (2 * step)
    (expected,) = torch.autograd.grad(soft, logits, slope)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)


def test_the_generator_hits_requests_and_keeps_drawing_different_architectures():
    space = toy_space()
    net = ToySupernet(space)
    sampler = sampler_of(net, lr=3e-3)
    teach(sampler, net, 600)
    bins, rng, number = sampler.bins, seeded(9), 500
    costs = [bins.request(i % K, rng) for i in range(number)]
    positions = [bins.position(cost) for cost in costs]

    def hits(architectures):
        missed = [abs(bins.position(float(bins.cost(a))) - p) for a, p in zip(architectures, positions, strict=True)]
        return sum(share <= 0.1 for share in missed) / number

    with torch.no_grad():
        drawn, entropy = sampler.architectures.draw(torch.tensor(positions), generator=rng)
    architectures = [architecture_of({name: w[i] for name, w in drawn.items()}) for i in range(number)]
    assert hits([space.sample(rng) for _ in range(number)]) < 0.3
    assert hits(architectures) >= 0.9
    assert hits([sampler.query(cost) for cost in costs]) >= 0.9
    for k, members in enumerate(bins.members):
        assert len(set(architectures[k::K]) & set(members)) >= len(members) / 2
        assert float(entropy[k::K].mean()) > 1.5


def test_a_draw_is_of_the_drawn_bin_and_its_loss_teaches_the_costs_of_all_bins():
    net = toy()
    sampler = sampler_of(net, 3, resource_weight=7.0, entropy_weight=0.5)
    sampler.theta.copy_(torch.tensor([MOST, 0.0, -MOST]))
    draws = [sampler.draw(step)[0] for step in range(400)]
    share = torch.bincount(torch.tensor([draw.info["bin"] for draw in draws])) / 400
    torch.testing.assert_close(share, sampler.probabilities, rtol=0, atol=0.06)
    assert all(sampler.bins.bin_of(draw.info["cost"]) == draw.info["bin"] for draw in draws)
    seen = []
    decide = sampler.architectures.draw
    sampler.architectures.draw = lambda *a, **k: seen.append((a, decide(*a, **k))) or seen[-1][1]
    (draw,) = sampler.draw(0)
    ((positions, tau), (drawn, entropy)), bins = seen[0], sampler.bins
    edges = [bins.position(edge) for edge in bins.edges]
    ends = [(edges[k] - 1e-6, edges[k + 1] + 1e-6) for k in range(len(bins)) for _ in range(REQUESTS)]
    assert tau == 1.0 and all(low <= p <= high for (low, high), p in zip(ends, positions, strict=True))
    rows = [architecture_of({name: w[i] for name, w in drawn.items()}) for i in range(len(ends))]
    assert architecture_of(draw.path) == rows[draw.info["bin"] * REQUESTS]
    assert bins.position(draw.info["cost"]) == pytest.approx(float(positions[draw.info["bin"] * REQUESTS]), abs=1e-6)
    missed = [bins.position(float(bins.cost(a))) - float(p) for a, p in zip(rows, positions, strict=True)]
    expected = 7 * (sum(m**2 for m in missed) / len(rows) - 0.5 * float(entropy.detach().mean()))
    assert sampler.extra_loss(draw, net).item() == pytest.approx(expected, rel=1e-4)
    sampler.extra_loss(draw, net).backward()
    before = copy.deepcopy(sampler.architectures.state_dict())
    sampler.observe(draw, None)
    assert any(not torch.equal(v, before[k]) for k, v in sampler.architectures.state_dict().items())
    assert all(p.grad is None for p in sampler.architectures.parameters())


def test_the_temperature_goes_from_the_first_to_the_last_epoch():
    sampler, seen = sampler_of(toy(), tau=(1.0, 0.4)), []
    for epoch in range(4):
        seen.append(sampler.tau)
        sampler.epoch_end(epoch, 4)
    assert seen == pytest.approx([1.0, 0.8, 0.6, 0.4]) and sampler.tau == pytest.approx(0.4)


def test_a_shift_goes_up_the_expected_score_and_stays_bounded():
    sampler = sampler_of(toy(), 4, shift_lr=0.3)
    sampler.theta.copy_(torch.tensor([0.5, -0.2, 0.1, 0.0]))
    scores = torch.tensor([3.0, 1.0, 0.0, 8.0])
    theta = sampler.theta.clone().requires_grad_()
    z = (scores - scores.mean()) / scores.std(correction=0)
    (slope,) = torch.autograd.grad((theta.softmax(0) * z).sum(), theta)
    sampler.shift(scores.tolist())
    torch.testing.assert_close(sampler.theta, (theta + 0.3 * slope).detach())
    for _ in range(200):
        sampler.shift(scores)
    assert sampler.theta[3] == MOST and sampler.theta.abs().max() == MOST
    assert sampler.probabilities.min() > 0.01
    before = sampler.theta.clone()
    sampler.shift([2.0] * 4)
    assert torch.equal(sampler.theta, before)
    for wrong in ([1.0, 2.0], [1.0, 2.0, float("nan"), 0.0]):
        with pytest.raises(ValueError, match="expected 4 finite"):
            sampler.shift(wrong)


def test_a_hypergradient_is_the_product_of_the_mean_gradients():
    net, train, valid = toy().double(), double(TRAIN), double(VALID)
    chosen = [(0, 1, 0, 1), (1, 2, 1, 0), (1, 0, 1, 1)]

    def gradient(data):
        net.zero_grad(set_to_none=False)
        for a in chosen:
            (entropy_loss(lambda x, a=a: net(x, path=a), data).mean / 3).backward()
        return torch.cat([p.grad.flatten() for p in net.parameters()])

    sum(p.sum() for p in net.parameters()).backward()  # so that each has a gradient
    expected = gradient(train) @ gradient(valid)
    assert hypergradient(net, chosen, entropy_loss, train, valid) == pytest.approx(float(expected), rel=1e-3)
    own = torch.cat([part.flatten() for part in loss_gradient(net, chosen, entropy_loss, valid)])
    torch.testing.assert_close(own, gradient(valid))
    assert float(norm_of(loss_gradient(net, chosen, entropy_loss, valid))) == pytest.approx(float(own.norm()))


def test_a_hypergradient_is_what_a_step_on_the_training_loss_takes_off_the_validation_loss():
    net, train, valid = toy(2).double(), double(TRAIN), double(VALID)
    path = net.space.largest()
    score = hypergradient(net, [path], entropy_loss, train, valid)
    direction = loss_gradient(net, [path], entropy_loss, train)
    before, step = entropy_loss(net, valid).mean.item(), 1e-5
    with torch.no_grad():
        for p, g in zip(net.parameters(), direction, strict=True):
            p -= step * g
    assert (before - entropy_loss(net, valid).mean.item()) / step == pytest.approx(score, rel=1e-2)


def test_measuring_restores_the_weights_bit_for_bit_even_after_an_error():
    net, calls = toy(), []
    net.embedding.weight.grad = torch.ones_like(net.embedding.weight)
    net.head.bias.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}

    def failing(model, batch):
        calls.append(not torch.equal(model.embedding.weight, before["embedding.weight"]))
        if calls[-1]:
            raise RuntimeError("stop")
        return entropy_loss(model, batch)

    assert hypergradient(net, [(1, 2, 1, 1)], entropy_loss, TRAIN, VALID) > 0
    with pytest.raises(RuntimeError, match="stop"):
        hypergradient(net, [(1, 2, 1, 1)], failing, TRAIN, VALID)
    assert calls == [False, True] and net.path == net.space.largest()
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    assert bool((net.embedding.weight.grad == 1).all()) and net.head.weight.grad is None
    assert hypergradient(net, [(0, 0, 0, 0)], lambda m, b: Losses(0 * m(b.x).sum(1)), TRAIN, VALID) == 0


class Widths(LayeredSupernet):
    """Bottlenecks of five widths, each with weights of its own, between layers that all share."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__(SearchSpace(Choice("width", (4, 6, 9, 14, 21), ordered=False)))
        layers = {
            str(w): nn.Sequential(nn.Linear(16, w), nn.Tanh(), nn.Linear(w, 16)) for w in self.space["width"].values
        }
        self.stem, self.op, self.head = nn.Linear(12, 16), MixedOp(layers, self.space, "width"), nn.Linear(16, 4)

    def run(self, path, x):
        return self.head(torch.tanh(self.op(torch.tanh(self.stem(fourier(x, 12))), path)))


class AllButOne(PathSampler):
    """Every width but one."""

    def __init__(self, space: SearchSpace, held_out: int, seed: int) -> None:
        super().__init__(space, seed)
        self.options = [option for option in range(K) if option != held_out]

    def draw(self, step):
        return [Draw((self.options[int(torch.randint(K - 1, (), generator=self.generator))],))]


def planted(case: int, sampler: ComplexityShiftSampler):
    """A supernet of which one width was not trained, and the update that is to find out which."""
    net, data = Widths(case), toy_data(384, case + 100)
    epochs = [batch for epoch in range(20) for batch in batches(data, 96, epoch)]
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3)
    SupernetTrainer(net, entropy_loss, optimizer, AllButOne(net.space, case % K, case)).fit(epochs, 1)
    return net, ShiftUpdate(sampler, [data], [toy_data(384, case + 200)], per_bin=2)


def test_a_bin_that_was_not_trained_scores_highest_and_the_literal_sign_scores_it_lowest():
    widths = Widths(0)
    bins = ComplexityBins(widths.space, lambda a: widths.space["width"].values[a[0]], K)
    assert [len(members) for members in bins.members] == [1] * K
    sampler = ComplexityShiftSampler(bins, generator_of(widths.space))
    sampler.members = lambda k, number: [(k,)] * number
    highest = norm = literal = 0
    for case in range(8):
        net, update = planted(case, sampler)
        sampler.measure = "hypergradient"
        scores = update.scores(net, entropy_loss)
        highest += scores.index(max(scores)) == case % K
        literal += scores.index(min(scores)) == case % K
        sampler.theta.zero_()
        for _ in range(5):
            sampler.shift(scores)
        assert sampler.probabilities.argmax() == case % K
        sampler.measure = "grad_norm"
        norms = update.scores(net, entropy_loss)
        assert norms == pytest.approx(
            [float(norm_of(loss_gradient(net, [(k,)], entropy_loss, toy_data(384, case + 200)))) for k in range(K)]
        )
        norm += norms.index(max(norms)) == case % K
    assert min(highest, norm) >= 6 and literal == 0  # by chance 1.6 of 8


class Watch(Callback):
    """Notes the scores of the bins after every step."""

    def __init__(self, sampler):
        self.sampler, self.seen = sampler, []

    def on_step_end(self, trainer, step):
        self.seen.append(self.sampler.theta.clone())


def test_training_shifts_after_the_warm_up_every_so_many_steps_and_trains_network_and_generator():
    net = toy()
    sampler = sampler_of(net, 3, update_every=4, warmup=5)
    watch = Watch(sampler)
    update = ShiftUpdate(sampler, batches(TRAIN, 16, 0), batches(VALID, 32, 0), per_bin=2)
    first = copy.deepcopy((net.state_dict(), sampler.architectures.state_dict()))
    trainer = SupernetTrainer(net, entropy_loss, torch.optim.AdamW(net.parameters(), 1e-3), sampler, [update, watch])
    trainer.fit(batches(TRAIN, 16, 0), epochs=4)
    thetas = [torch.zeros(3), *watch.seen]
    changed = [step for step, (old, new) in enumerate(itertools.pairwise(thetas), start=1) if not torch.equal(old, new)]
    assert changed == [9, 13]
    for before, module in zip(first, (net, sampler.architectures), strict=True):
        assert any(not torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert sampler.tau == pytest.approx(0.5)


def test_measurements_take_the_next_batches_in_turn_and_draws_of_each_bin():
    net, seen = toy(), []
    sampler = sampler_of(net, 3)
    update = ShiftUpdate(sampler, ["a", "b"], ["v"], per_bin=4)

    def loss_fn(model, batch):
        seen.append((batch, model.path))
        return Losses(model(VALID.x).sum(1))

    for _ in range(3):
        update.scores(net, loss_fn)
    assert [batch for batch, _ in seen] == (3 * [*"vvvvaaaaaaaa"] + 3 * [*"vvvvbbbbbbbb"] + 3 * [*"vvvvaaaaaaaa"])
    by_bin = [path for _, path in seen[:4]]
    assert [path for _, path in seen[4:8]] == by_bin == [path for _, path in seen[8:12]]
    with pytest.raises(ValueError, match="has no batches"):
        ShiftUpdate(sampler, [], ["v"]).scores(net, loss_fn)


def test_members_of_a_bin_are_drawn_for_its_costs():
    net = toy()
    sampler = sampler_of(net, 3)
    seen = []
    sampler.architectures.forward = lambda positions, generator: (
        seen.append(positions)
        or {name: torch.eye(len(c))[torch.arange(len(positions)) % len(c)] for name, c in net.space.items()}
    )
    assert sampler.members(1, 5) == [(i % 2, i % 3, i % 2, i % 2) for i in range(5)]
    edges = [sampler.bins.position(edge) for edge in sampler.bins.edges]
    assert len(seen[0]) == 5 and all(edges[1] <= position <= edges[2] for position in seen[0].tolist())


def test_grids_are_drawn_one_at_a_time_for_a_ponita_supernet():
    torch.manual_seed(0)
    space = SearchSpace(
        Choice("hidden_channels", (4, 6)), Choice("num_orientations", (4, 6)), Choice("cutoff", (2.0, 3.0))
    )
    net = PonitaSupernet(space, in_channels=2, num_layers=1, basis_channels=4)
    net.calibrated.fill_(True)
    bins = ComplexityBins(space, lambda a: message_passing_flops(net.config | space.decode(a), 5, 20), 3)
    sampler = ComplexityShiftSampler(bins, generator_of(space), update_every=2)
    batch = {"pos": torch.randn(5, 3), "x": torch.randn(5, 2), "edge_index": fully_connected(torch.zeros(5).long())}

    def loss_fn(model, batch):
        return Losses(model(**batch, batch=torch.zeros(5).long()).scalars.square().flatten())

    update = ShiftUpdate(sampler, [batch], [batch], per_bin=2)
    before = copy.deepcopy(sampler.architectures.state_dict())
    trainer = SupernetTrainer(net, loss_fn, torch.optim.AdamW(net.parameters(), 1e-3), sampler, [update])
    history = trainer.fit([batch] * 4, epochs=1)
    assert math.isfinite(history.loss[0]) and bool(sampler.theta.any())
    assert any(not torch.equal(v, before[k]) for k, v in sampler.architectures.state_dict().items())
    assert sampler.query(bins.edges[0]) in space


def test_what_cannot_be_is_refused():
    net = toy()
    bins = ComplexityBins(net.space, net.num_parameters, 3)
    other = generator_of(net.space.restrict(hidden=[0]))
    with pytest.raises(ValueError, match="expected the same"):
        ComplexityShiftSampler(bins, other)
    with pytest.raises(ValueError, match="measure='loss'"):
        ComplexityShiftSampler(bins, generator_of(net.space), measure="loss")
    for wrong in ({"update_every": 0}, {"warmup": -1}):
        with pytest.raises(ValueError, match="expected at least 1 and 0"):
            ComplexityShiftSampler(bins, generator_of(net.space), **wrong)
    with pytest.raises(ValueError, match="the space has costs from"):
        sampler_of(net).query(1e9)
