"""A controller and its policy gradient against enumeration; its memory; what its hidden states know."""

import itertools
import math

import pytest
import scipy.stats
import torch
from torch import nn

from ponita.sharing.search.controller import Controller, ControllerSample
from ponita.sharing.search.enas import ControllerSampler, ReinforceTrainer, derive
from ponita.sharing.search.hidden_states import hidden_state_correlation, pearson, spearman
from ponita.sharing.search.memory import MODES, ArchitectureMemory, MemoryRegularizer
from ponita.sharing.search.space import Choice, SearchSpace
from ponita.sharing.search.testbed import ToySupernet, batches, toy_data, toy_loss
from ponita.sharing.search.training import Losses, SupernetTrainer

CUBE = SearchSpace(*(Choice(name, (1, 2, 3)) for name in "abc"))
UNEVEN = SearchSpace(
    Choice("width", (4, 8)), Choice("kind", ("x", "y", "z", "w"), ordered=False), Choice("depth", (1, 2, 3))
)
RESTRICTED = UNEVEN.restrict(kind=[1, 3], depth=[1])


def rough(space, scale=0.5, **options):
    """A controller in float64 whose weights are large enough that decisions depend on those before."""
    controller = Controller(space, hidden=8, **options).double()
    generator = torch.Generator().manual_seed(3)
    for parameter in controller.parameters():
        nn.init.normal_(parameter, std=scale, generator=generator)
    return controller


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


def gradient(value, module, **options):
    return flat(torch.autograd.grad(value, list(module.parameters()), materialize_grads=True, **options))


def rewards_of(architectures):
    generator = torch.Generator().manual_seed(5)
    table = torch.rand(3, 3, 3, generator=generator, dtype=torch.float64)
    return torch.stack([table[a] for a in architectures])


def by_hand(controller, architectures):
    """Logits of every decision and states, by an LSTM cell and the formulas."""
    lstm, heads = controller.lstm, controller.heads
    cell = nn.LSTMCell(lstm.input_size, lstm.hidden_size).double()
    for name, parameter in cell.named_parameters():
        parameter.data = getattr(lstm, f"{name}_l0").data
    decisions = torch.tensor(architectures)
    sizes = [len(choice) for choice in controller.space.values()]
    state = tuple(torch.zeros(len(decisions), lstm.hidden_size, dtype=torch.float64) for _ in range(2))
    state = cell(controller.start.expand(len(decisions), -1), state)
    logits, states = [], [state[0]]
    for t, size in enumerate(sizes):
        raw = state[0] @ heads.weight[t, :size].T + heads.bias[t, :size]
        logits.append(heads.tanh_constant * torch.tanh(raw / heads.temperature))
        rows = torch.tensor([sum(sizes[:t]) + int(option) for option in decisions[:, t]])
        state = cell(controller.embedding.weight[rows], state)
        states.append(state[0])
    return logits, states, decisions


# The policy.


@pytest.mark.parametrize("space", [CUBE, UNEVEN, RESTRICTED])
def test_probabilities_of_all_architectures_sum_to_one(space):
    total = rough(space).log_prob(list(space.enumerate())).detach().exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-12)


def test_decisions_follow_the_formulas_of_an_lstm_cell_with_bounded_logits():
    controller = rough(UNEVEN, scale=2.0, tanh_constant=1.5, temperature=3.0)
    architectures = list(UNEVEN.enumerate())
    seen = controller.unroll(architectures)
    logits, states, decisions = by_hand(controller, architectures)
    torch.testing.assert_close(seen.states, torch.stack(states, 1), rtol=0, atol=1e-12)
    for t, row in enumerate(logits):
        torch.testing.assert_close(seen.log_probs[:, t, : row.shape[1]], row.log_softmax(1), rtol=0, atol=1e-12)
        assert bool(seen.log_probs[:, t, row.shape[1] :].isinf().all())
    assert seen.decisions.equal(decisions)
    log_prob = sum(row.log_softmax(1).gather(1, decisions[:, [t]])[:, 0] for t, row in enumerate(logits))
    torch.testing.assert_close(controller.log_prob(architectures), log_prob, rtol=0, atol=1e-12)
    torch.testing.assert_close(controller.score(architectures).hidden, states[-1], rtol=0, atol=1e-12)


def test_entropies_of_decisions_average_to_the_entropy_of_the_policy():
    controller = rough(UNEVEN, tanh_constant=5.0, temperature=0.5)
    seen = controller.score(list(UNEVEN.enumerate()))
    log_prob, entropy = seen.log_prob.detach(), seen.entropy.detach()
    exact = -(log_prob.exp() * log_prob).sum()
    assert float((log_prob.exp() * entropy).sum()) == pytest.approx(float(exact), abs=1e-12)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("space", [CUBE, RESTRICTED])
def test_draws_have_the_frequencies_of_the_policy(space, layers):
    controller = rough(space, scale=1.5, layers=layers, tanh_constant=4.0, temperature=0.5)
    number, names = 20_000, list(space.enumerate())
    drawn = controller.sample(number, torch.Generator().manual_seed(0)).architectures
    expected = number * controller.log_prob(names).exp().detach()
    counts = torch.tensor([drawn.count(name) for name in names], dtype=torch.float64)
    assert counts.sum() == number
    frequent = expected > 5
    chi2 = ((counts - expected).square() / expected)[frequent].sum()
    assert float(chi2) < scipy.stats.chi2.ppf(0.999, int(frequent.sum()))


def test_a_decision_depends_on_all_before_not_only_on_the_last():
    def spread(controller):
        rows = controller.unroll([(first, 1, 0) for first in range(3)]).log_probs[:, 2].detach()
        return float((rows - rows[0]).abs().max())

    assert spread(rough(CUBE)) > 1e-3
    memoryless = rough(CUBE)
    memoryless.lstm.weight_hh_l0.data.zero_()
    memoryless.lstm.bias_hh_l0.data[8:16] = -1e3  # forget gate
    assert spread(memoryless) < 1e-12


def test_a_sample_says_of_its_architectures_what_scoring_them_says():
    controller = rough(UNEVEN)
    sample = controller.sample(7, torch.Generator().manual_seed(1))
    again = controller.score(sample.architectures)
    assert sample.architectures == again.architectures and len(sample.architectures) == 7
    for name in ("log_prob", "entropy", "hidden"):
        torch.testing.assert_close(getattr(sample, name), getattr(again, name), rtol=0, atol=0)
        assert getattr(sample, name).requires_grad
    assert sample.hidden.shape == (7, 8) and sample.log_prob.shape == sample.entropy.shape == (7,)
    assert controller.sample(7, torch.Generator().manual_seed(1)).architectures == sample.architectures
    assert controller.sample(7, torch.Generator().manual_seed(2)).architectures != sample.architectures


def test_each_decision_has_embeddings_of_its_own_and_the_start_is_learned():
    controller = rough(UNEVEN)
    controller.score([(1, 3, 2)]).hidden.sum().backward()
    used = controller.embedding.weight.grad.abs().sum(1).nonzero()[:, 0].tolist()
    assert controller.embedding.num_embeddings == 9 and used == [1, 2 + 3, 6 + 2]
    assert float(controller.start.grad.abs().max()) > 0


def test_an_untrained_policy_is_nearly_uniform():
    controller = Controller(UNEVEN)
    assert all(0.05 < float(p.detach().abs().max()) <= 0.1 for p in controller.parameters())
    log_prob = controller.log_prob(list(UNEVEN.enumerate())).detach()
    assert float((log_prob + math.log(24)).abs().max()) < 0.2


def test_restricted_spaces_are_never_left():
    controller = rough(RESTRICTED)
    sample = controller.sample(200, torch.Generator().manual_seed(0))
    assert set(sample.architectures) == set(RESTRICTED.enumerate())
    assert float(sample.entropy.detach().max()) <= 2 * math.log(2)  # one choice has no alternative
    total = gradient((sample.log_prob + sample.entropy).sum(), controller)
    assert bool(total.isfinite().all()) and float(total.abs().max()) > 0
    with pytest.raises(ValueError, match="not in the space"):
        controller.log_prob([(0, 0, 1)])


def test_weights_of_a_controller_move_to_another_part_of_the_space():
    whole, part = rough(UNEVEN), Controller(RESTRICTED, hidden=8).double()
    part.load_state_dict(whole.state_dict())
    names = list(RESTRICTED.enumerate())
    rows = whole.unroll(names).log_probs[:, 1, [1, 3]].log_softmax(1)
    torch.testing.assert_close(part.unroll(names).log_probs[:, 1, [1, 3]], rows, rtol=0, atol=1e-12)


@pytest.mark.parametrize("wrong", [{"hidden": 0}, {"layers": 0}, {"tanh_constant": 0.0}, {"temperature": -1.0}])
def test_controllers_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Controller(CUBE, **wrong)


def test_architectures_that_cannot_be_are_refused():
    controller = Controller(CUBE)
    with pytest.raises(ValueError, match="n=0"):
        controller.sample(0)
    for call in (controller.score, controller.log_prob, controller.unroll):
        with pytest.raises(ValueError, match="no architectures"):
            call([])
        with pytest.raises(ValueError, match="not in the space"):
            call([(0, 1, 3)])


# The policy gradient.


@pytest.mark.parametrize("baseline", [None, 0.4])
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_expected_gradient_is_that_of_expected_reward_and_entropy(baseline, weight):
    controller, names = rough(CUBE, temperature=1.0), list(CUBE.enumerate())
    trainer = ReinforceTrainer(controller, lambda a: 0.0, entropy_weight=weight)
    trainer.baseline = baseline
    rewards, sample = rewards_of(names), controller.score(names)
    p = sample.log_prob.exp()
    surrogate = gradient((p.detach() * trainer.surrogate(sample, rewards)).sum(), controller, retain_graph=True)
    exact = gradient((p * (rewards - weight * sample.log_prob)).sum(), controller)
    assert float(exact.abs().max()) > 1e-3
    torch.testing.assert_close(surrogate, -exact, rtol=0, atol=1e-12)


def test_a_baseline_lowers_the_variance_of_the_gradient():
    controller, names = rough(CUBE, temperature=1.0), list(CUBE.enumerate())
    rewards = rewards_of(names)
    p = controller.log_prob(names).exp().detach()

    def variance(baseline):
        trainer = ReinforceTrainer(controller, lambda a: 0.0, entropy_weight=0.0)
        trainer.baseline = baseline
        losses = trainer.surrogate(controller.score(names), rewards)
        rows = torch.stack([gradient(loss, controller, retain_graph=True) for loss in losses])
        return float((p[:, None] * (rows - p @ rows).square()).sum())

    assert variance(float(p @ rewards)) < 0.5 * variance(None)


def test_the_gradient_of_many_draws_points_where_the_exact_one_does():
    controller, names = rough(CUBE, temperature=1.0), list(CUBE.enumerate())
    table = dict(zip(names, rewards_of(names).tolist(), strict=True))
    trainer = ReinforceTrainer(controller, table.get, samples=20_000, lr=0.0, entropy_weight=0.0)
    exact = gradient(controller.log_prob(names).exp() @ rewards_of(names), controller)
    trainer.step()
    estimate = flat(p.grad for p in controller.parameters())
    assert float(torch.cosine_similarity(-estimate, exact, dim=0)) > 0.99


def test_the_baseline_is_a_moving_average_that_starts_at_the_first_rewards():
    rewards = iter([1.0, 3.0, -2.0, 0.0, 5.0, 5.0])
    controller = rough(CUBE)
    trainer = ReinforceTrainer(controller, lambda a: next(rewards), 0.9, entropy_weight=0.5, samples=2, lr=0.0)
    again = torch.Generator().manual_seed(0)
    bonus = [0.5 * float(controller.sample(2, again).entropy.detach().mean()) for _ in range(3)]
    assert trainer.baseline is None
    expected = 2 + bonus[0]
    assert trainer.step() == 2 and trainer.baseline == pytest.approx(expected)
    for mean, extra in ((-1, bonus[1]), (5, bonus[2])):
        expected = 0.9 * expected + 0.1 * (mean + extra)
        assert trainer.step() == mean and trainer.baseline == pytest.approx(expected)


def test_a_step_uses_the_baseline_of_earlier_steps_and_descends():
    controller = rough(CUBE)
    trainer = ReinforceTrainer(
        controller, lambda a: 1.0 + a[0], baseline_decay=0.5, entropy_weight=0.2, lr=0.0, samples=3
    )
    trainer.step()
    before = trainer.baseline
    copy = torch.Generator()
    copy.set_state(trainer.generator.get_state())
    sample = controller.sample(3, copy)
    advantage = torch.tensor([1.0 + a[0] for a in sample.architectures]) + 0.2 * sample.entropy.detach() - before
    by_hand = gradient((-sample.log_prob * advantage - 0.2 * sample.entropy).mean(), controller)
    trainer.step()
    torch.testing.assert_close(flat(p.grad for p in controller.parameters()), by_hand, rtol=0, atol=1e-12)


def test_the_best_option_of_every_decision_becomes_likelier():
    best = (2, 0, 1)
    torch.manual_seed(1)
    controller = Controller(CUBE, hidden=16)
    trainer = ReinforceTrainer(
        controller, lambda a: sum(x == y for x, y in zip(a, best, strict=True)) / 3, samples=4, lr=5e-3
    )

    def marginals():
        names = list(CUBE.enumerate())
        p = controller.log_prob(names).exp().detach()
        return [float(sum(q for q, a in zip(p, names, strict=True) if a[t] == best[t])) for t in range(3)]

    stages = [marginals()]
    for epoch in range(3):
        for _ in range(40):
            trainer.step(epoch)
        stages.append(marginals())
    assert all(later > earlier for a, b in itertools.pairwise(stages) for earlier, later in zip(a, b, strict=True))
    assert min(stages[-1]) > 0.6


def test_the_entropy_bonus_alone_makes_the_policy_uniform():
    controller = rough(CUBE, tanh_constant=4.0, temperature=0.5)
    trainer = ReinforceTrainer(controller, lambda a: 0.0, entropy_weight=1.0, samples=8, lr=1e-2)
    for _ in range(100):
        trainer.step()
    log_prob = controller.log_prob(list(CUBE.enumerate())).detach()
    assert -float((log_prob.exp() * log_prob).sum()) > 0.98 * math.log(27)


@pytest.mark.parametrize(
    "wrong",
    [{"baseline_decay": 1.0}, {"baseline_decay": -0.1}, {"entropy_weight": -1.0}, {"samples": 0}, {"steps": 0}],
)
def test_trainings_of_a_controller_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ReinforceTrainer(Controller(CUBE), lambda a: 0.0, **wrong)


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_rewards_that_are_not_finite_are_refused_before_they_harm(reward):
    controller = Controller(CUBE)
    before = [p.detach().clone() for p in controller.parameters()]
    with pytest.raises(ValueError, match=f"is {reward}"):
        ReinforceTrainer(controller, lambda a: reward).step()
    assert all(p.equal(q) for p, q in zip(controller.parameters(), before, strict=True))


# With a supernet.


def test_weights_and_controller_are_trained_in_turns():
    torch.manual_seed(0)
    supernet, data = ToySupernet(), toy_data(96, seed=0)
    controller = Controller(supernet.space, hidden=8)
    seen = []

    def weights_of(module):
        return [p.detach().clone() for p in module.parameters()]

    def equal(a, b):
        return all(p.equal(q) for p, q in zip(a, b, strict=True))

    def reward(architecture):
        seen.append((supernet.training, torch.is_grad_enabled(), architecture, weights_of(supernet)))
        return math.exp(-toy_loss(supernet, data, path=architecture))

    policies = []
    inner = ControllerSampler(controller, seed=1)
    draw = inner.draw
    inner.draw = lambda step: policies.append(weights_of(controller)) or draw(step)
    trainer = SupernetTrainer(
        supernet,
        lambda model, batch: Losses(nn.functional.cross_entropy(model(batch.x), batch.y, reduction="none")),
        torch.optim.Adam(supernet.parameters(), 1e-3),
        inner,
        callbacks=[ReinforceTrainer(controller, reward, steps=3, samples=2)],
    )
    trainer.fit(batches(data, 48, 0), epochs=2)
    assert supernet.training and len(seen) == 2 * 3 * 2 and len(policies) == 4
    assert not any(training or grad for training, grad, *_ in seen)
    assert equal(policies[0], policies[1]) and equal(policies[2], policies[3]) and not equal(policies[1], policies[2])
    assert all(equal(seen[0][3], row[3]) for row in seen[:6]) and not equal(seen[0][3], seen[6][3])


def test_steps_of_the_weights_take_fresh_draws_of_the_policy():
    controller = rough(RESTRICTED, scale=1.5, tanh_constant=4.0, temperature=0.5)
    names = list(RESTRICTED.enumerate())
    sampler = ControllerSampler(controller, seed=4)
    draws = [sampler.draw(step) for step in range(600)]
    assert all(len(draw) == 1 and draw[0].weight == 1 for draw in draws) and sampler.space is RESTRICTED
    expected = 600 * controller.log_prob(names).exp().detach()
    counts = torch.tensor([sum(draw[0].path == name for draw in draws) for name in names])
    assert float(((counts - expected).square() / expected).sum()) < scipy.stats.chi2.ppf(0.999, len(names) - 1)
    again = ControllerSampler(controller, seed=4)
    assert [again.draw(step)[0].path for step in range(20)] == [draw[0].path for draw in draws[:20]]


def test_the_derived_architecture_has_the_least_error_of_those_drawn():
    controller, asked = rough(CUBE), []
    error = dict(zip(CUBE.enumerate(), rewards_of(list(CUBE.enumerate())).tolist(), strict=True))
    found = derive(controller, lambda a: asked.append(a) or error[a], 12, torch.Generator().manual_seed(0))
    drawn = controller.sample(12, torch.Generator().manual_seed(0)).architectures
    assert set(found.errors) == set(drawn) and len(asked) == len(set(drawn)) < 12
    assert error[found.best] == min(error[a] for a in drawn)
    with pytest.raises(ValueError, match="n=0"):
        derive(controller, error.get, 0)


# The memory.


class CountingController(Controller):
    """Draws (i, 0, 0) at its i-th storing, and remembers how many were asked for."""

    def __init__(self):
        super().__init__(SearchSpace(Choice("a", tuple(range(50))), Choice("b", (0, 1)), Choice("c", tuple(range(50)))))
        self.asked = []

    def sample(self, n, generator=None):
        self.asked.append(n)
        names = [(len(self.asked), 0, row) for row in range(n)]
        return ControllerSample(names, *torch.zeros(3, n).unbind())


def test_a_memory_is_filled_and_then_replaced_at_its_end():
    controller, memory = CountingController(), ArchitectureMemory(capacity=25, n_store=10, n_replace=4)
    for _ in range(2):
        memory.store(controller)
    first = [(1, 0, row) for row in range(10)] + [(2, 0, row) for row in range(10)]
    assert memory.architectures == first
    memory.store(controller)
    assert memory.architectures == first + [(3, 0, row) for row in range(5)] and len(memory) == 25
    full = list(memory.architectures)
    for time in (4, 5):
        memory.store(controller, torch.Generator().manual_seed(0))
        new = memory.architectures[-4:]
        assert memory.architectures[:-4] == full[:-4] and len(memory) == 25
        assert len(set(new)) == 4 and all(a[0] == time and a[2] < 10 for a in new)
        assert new != [(time, 0, row) for row in range(4)]
    assert controller.asked == [10] * 5


def test_a_memory_gives_uniform_entries_with_replacement():
    memory = ArchitectureMemory()
    memory.architectures = [(0, 0, 0), (1, 1, 1), (2, 2, 2)]
    drawn = memory.draw(3000, torch.Generator().manual_seed(0))
    assert len(drawn) == 3000 and all(900 < drawn.count(a) < 1100 for a in memory.architectures)
    assert memory.draw(9, torch.Generator().manual_seed(0)) == drawn[:9]


def test_memories_that_cannot_be_are_refused():
    for wrong in ({"capacity": 0}, {"n_store": 0}, {"n_replace": 0}, {"n_replace": 1001}, {"capacity": 50}):
        with pytest.raises(ValueError, match="expected at least 1 of each"):
            ArchitectureMemory(**wrong)
    with pytest.raises(ValueError, match="memory is empty"):
        ArchitectureMemory().draw(1)


@pytest.mark.parametrize("mode", MODES)
def test_losses_of_the_memory_are_the_formulas(mode):
    controller = rough(UNEVEN)
    regularizer = MemoryRegularizer(controller, ArchitectureMemory(), mode).double()
    names = list(UNEVEN.enumerate())[::5]
    logits, states, decisions = by_hand(controller, names)
    terms = []
    for t, size in enumerate((2, 4, 3)):
        if mode == "next" and t == 0:
            continue
        if mode == "next":
            row = logits[t]
        else:
            state = states[t + 1] if mode == "prev" else states[3]
            row = state @ regularizer.heads.weight[t, :size].T + regularizer.heads.bias[t, :size]
        terms.append(nn.functional.cross_entropy(row, decisions[:, t]))
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(regularizer.cross_entropy(controller.unroll(names)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_losses_of_the_memory_train_the_recurrence_in_restricted_spaces_too(mode):
    controller = rough(RESTRICTED)
    memory = ArchitectureMemory(capacity=40, n_store=40, n_replace=1)
    regularizer = MemoryRegularizer(controller, memory, mode, batch=16, store_from=0, train_from=0).double()
    regularizer.epoch_start(controller, 0, torch.Generator().manual_seed(0))
    regularizer.loss(controller, 0).backward()
    assert (
        bool(controller.lstm.weight_hh_l0.grad.isfinite().all()) and float(controller.lstm.weight_hh_l0.grad.norm()) > 0
    )
    imitates = controller.heads.weight.grad is not None
    assert imitates == (mode == "next") and bool(list(regularizer.parameters())) != imitates


def test_the_default_mode_is_recon_and_the_controller_is_no_part_of_it():
    controller = Controller(CUBE)
    regularizer = MemoryRegularizer(controller, ArchitectureMemory())
    assert regularizer.mode == "recon" and not set(regularizer.parameters()) & set(controller.parameters())
    assert (regularizer.weight, regularizer.batch, regularizer.store_from, regularizer.train_from) == (1.0, 100, 5, 10)
    memory = regularizer.memory
    assert (memory.capacity, memory.n_store, memory.n_replace) == (10_000, 1000, 100)


def test_the_memory_stores_and_trains_from_its_epochs_on():
    controller = rough(CUBE)
    memory = ArchitectureMemory(capacity=100, n_store=7, n_replace=1)
    regularizer = MemoryRegularizer(controller, memory, weight=0.5, batch=6, store_from=1, train_from=3).double()
    sizes, losses = [], []
    for epoch in range(5):
        regularizer.epoch_start(controller, epoch, torch.Generator().manual_seed(epoch))
        sizes.append(len(memory))
        losses.append(regularizer.loss(controller, epoch, torch.Generator().manual_seed(9)))
    assert sizes == [0, 7, 14, 21, 28] and losses[:3] == [0.0, 0.0, 0.0]
    batch = memory.draw(6, torch.Generator().manual_seed(9))
    assert float(losses[4].detach()) == pytest.approx(
        0.5 * float(regularizer.cross_entropy(controller.unroll(batch)).detach())
    )


def test_the_trainer_stores_once_an_epoch_and_adds_the_loss_of_every_step():
    controller = rough(CUBE)
    memory = ArchitectureMemory(capacity=100, n_store=7, n_replace=1)
    regularizer = MemoryRegularizer(controller, memory, store_from=0, train_from=1, batch=6).double()
    heads = [p.detach().clone() for p in regularizer.parameters()]
    trainer = ReinforceTrainer(controller, lambda a: 0.0, entropy_weight=0.0, steps=4, regularizer=regularizer)
    before = [p.detach().clone() for p in controller.parameters()]
    assert trainer.train_epoch(0) == [0.0] * 4 and len(memory) == 7
    # No reward and no bonus: nothing moves until the memory counts.
    assert all(p.equal(q) for p, q in zip(controller.parameters(), before, strict=True))
    trainer.train_epoch(1)
    assert len(memory) == 14 and not controller.lstm.weight_hh_l0.equal(before[2])
    assert not any(p.equal(q) for p, q in zip(regularizer.parameters(), heads, strict=True))


def test_regularizers_that_cannot_be_are_refused():
    controller, memory = Controller(CUBE), ArchitectureMemory()
    for match, wrong in {
        "mode='last'": {"mode": "last"},
        "weight=-1": {"weight": -1},
        "batch=0": {"batch": 0},
        "train_from=4": {"train_from": 4},
        "store_from=-1": {"store_from": -1},
    }.items():
        with pytest.raises(ValueError, match=match):
            MemoryRegularizer(controller, memory, **wrong)
    with pytest.raises(ValueError, match="single choice"):
        MemoryRegularizer(Controller(SearchSpace(Choice("a", (1, 2)))), memory, "next")
    with pytest.raises(ValueError, match="memory is empty"):
        MemoryRegularizer(controller, memory, store_from=0, train_from=0).loss(controller, 0)


# Hidden states.


def test_correlations_are_those_of_scipy_with_ties():
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(6, (200,), generator=generator)
    b = a + torch.randint(4, (200,), generator=generator) ** 2
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)
    assert pearson(a, b) == pytest.approx(scipy.stats.pearsonr(a.double(), b.double()).statistic, abs=1e-12)
    assert spearman(a, a.double().exp()) == pytest.approx(1) and spearman(a, -a) == pytest.approx(-1)
    # Of this length the mean of the constant is rounded, and differs from it.
    constant, series = torch.full((1000,), 0.1, dtype=torch.float64), torch.arange(1000)
    assert math.isnan(spearman(series, constant)) and math.isnan(pearson(constant, series))


def test_an_analysis_holds_every_pair_once():
    controller, asked = rough(CUBE), []
    found = hidden_state_correlation(
        controller, 20, generator=torch.Generator().manual_seed(0), score=lambda a: asked.append(a) or a[0] - 2.0 * a[1]
    )
    sample = controller.sample(20, torch.Generator().manual_seed(0))
    names, h = sample.architectures, sample.hidden.detach()
    assert found.architectures == names and found.num_different == len(set(names)) == len(asked) < 20
    assert not found.hidden.requires_grad and found.hidden.equal(h)
    pairs = list(itertools.combinations(range(20), 2))
    for row, (i, j) in enumerate(pairs):
        assert float(found.l2[row]) == pytest.approx(float((h[i] - h[j]).square().sum().sqrt()))
        assert float(found.cosine[row]) == pytest.approx(
            1 - float(h[i] @ h[j] / (h[i].norm() * h[j].norm())), abs=1e-12
        )
        assert float(found.distance[row]) == CUBE.distance(names[i], names[j])
        scores = [names[k][0] - 2.0 * names[k][1] for k in (i, j)]
        assert float(found.score_difference[row]) == abs(scores[0] - scores[1])
    assert len(found.l2) == len(found.cosine) == len(found.distance) == len(found.score_difference) == len(pairs)


def test_an_analysis_correlates_states_with_distances_and_scores():
    controller = rough(CUBE)
    found = hidden_state_correlation(controller, 30, score=lambda a: float(sum(a)))
    assert set(found.correlations) == set(itertools.product(("l2", "cosine"), ("distance", "score_difference")))
    for (states, target), seen in found.correlations.items():
        pair = getattr(found, states), getattr(found, target)
        assert (seen.spearman, seen.pearson) == (spearman(*pair), pearson(*pair))
    plain = hidden_state_correlation(controller, 30, distance=lambda a, b: abs(a[0] - b[0]))
    assert plain.score_difference is None and set(plain.correlations) == {("l2", "distance"), ("cosine", "distance")}
    names = plain.architectures
    assert plain.distance.tolist() == [abs(a[0] - b[0]) for a, b in itertools.combinations(names, 2)]


def test_given_architectures_are_read_in_place_of_draws():
    controller, names = rough(CUBE), [(0, 0, 0), (1, 2, 0), (1, 2, 2)]
    found = hidden_state_correlation(controller, architectures=names)
    assert found.architectures == names and found.distance.tolist() == [2, 3, 1]
    torch.testing.assert_close(found.hidden, controller.score(names).hidden.detach(), rtol=0, atol=0)


def test_analyses_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="2 architectures"):
        hidden_state_correlation(Controller(CUBE), n=2)
    with pytest.raises(ValueError, match="1 architectures"):
        hidden_state_correlation(Controller(CUBE), architectures=[(0, 0, 0)])


def test_a_policy_without_alternatives_correlates_with_nothing():
    single = CUBE.restrict(a=[1], b=[1], c=[1])
    found = hidden_state_correlation(Controller(single), 5)
    assert found.num_different == 1 and math.isnan(found.correlations["l2", "distance"].spearman)


def test_a_picture_shows_a_panel_for_each_quantity(tmp_path):
    pictures = pytest.importorskip("ponita.tasks.search.pictures")
    image = pytest.importorskip("matplotlib.image")
    with_scores = hidden_state_correlation(Controller(UNEVEN), 20, score=lambda a: a[1] + 0.01 * a[2] + 0.1 * a[0])
    plain = hidden_state_correlation(Controller(UNEVEN), 20)
    nothing = hidden_state_correlation(Controller(CUBE.restrict(a=[1], b=[1], c=[1])), 5)
    widths = []
    for number, analyses in enumerate(({"a": plain}, {"a": with_scores}, {"a": with_scores, "b": plain, "c": nothing})):
        pictures.draw_hidden_states(tmp_path / f"{number}.png", analyses)
        widths.append(image.imread(tmp_path / f"{number}.png").shape[1])
    assert widths == [widths[0], 2 * widths[0], 4 * widths[0]]
    with pytest.raises(ValueError, match="no analyses"):
        pictures.draw_hidden_states(tmp_path / "none.png", {})


def test_bins_of_a_picture_hold_means_and_deviations():
    binned = pytest.importorskip("ponita.tasks.search.pictures").binned
    x, y = torch.tensor([2.0, 1.0, 2.0, 1.0]), torch.tensor([5.0, 1.0, 9.0, 1.0])
    assert [part.tolist() for part in binned(x, y)] == [[1, 2], [1, 7], [0, 2]]
    centres, mean, deviation = binned(torch.arange(8.0).flip(0), torch.arange(8.0), num_bins=4)
    assert centres.tolist() == [0.5, 2.5, 4.5, 6.5] and mean.tolist() == [6.5, 4.5, 2.5, 0.5]
    assert deviation.tolist() == [0.5] * 4


# Rewards make the state forget, and the memory repairs that.

LENGTH, OPTIONS = 12, 4
LONG = SearchSpace(*(Choice(f"choice_{t}", tuple(range(OPTIONS))) for t in range(LENGTH)))


def noisy_reward(seed):
    """Terms of every decision and of every two neighbours, and noise."""
    generator = torch.Generator().manual_seed(100 + seed)
    single = torch.randn(LENGTH, OPTIONS, generator=generator).tolist()
    pair = (0.5 * torch.randn(LENGTH - 1, OPTIONS, OPTIONS, generator=generator)).tolist()

    def reward(a):
        value = sum(single[t][a[t]] for t in range(LENGTH)) + sum(pair[t][a[t]][a[t + 1]] for t in range(LENGTH - 1))
        return 0.03 * value + 0.05 * float(torch.randn((), generator=generator))

    return reward


def states_after_training(mode, seed):
    """Correlation on the policy's own draws, and on uniform architectures; the last reward."""
    torch.manual_seed(seed)
    controller = Controller(LONG, hidden=32)
    regularizer = None
    if mode != "none":
        memory = ArchitectureMemory(capacity=2000, n_store=200, n_replace=20)
        regularizer = MemoryRegularizer(controller, memory, mode, batch=30, store_from=0, train_from=0)
    trainer = ReinforceTrainer(
        controller,
        noisy_reward(seed),
        # A policy that is nearly certain repeats itself, and equal architectures are a correlation by themselves.
        entropy_weight=0.02,
        lr=5e-3,
        samples=4,
        steps=50,
        regularizer=regularizer,
        seed=seed,
    )
    rewards = [sum(trainer.train_epoch(epoch)) / 50 for epoch in range(6)]
    generator = torch.Generator().manual_seed(7)
    uniform = [LONG.sample(generator) for _ in range(100)]
    parts = (
        hidden_state_correlation(controller, 200, generator=generator),
        hidden_state_correlation(controller, architectures=uniform),
    )
    return [part.correlations["l2", "distance"].spearman for part in parts], rewards


@pytest.mark.parametrize("seed", range(3))
def test_states_forget_decisions_under_rewards_alone_and_a_memory_repairs_that(seed):
    (none, none_uniform), without = states_after_training("none", seed)
    (recon, recon_uniform), with_memory = states_after_training("recon", seed)
    assert recon >= none + 0.2
    assert recon_uniform >= none_uniform + 0.05
    # The policy learns with and without it.
    assert min(without[-1] - without[0], with_memory[-1] - with_memory[0]) > 0.05
