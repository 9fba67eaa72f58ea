"""The policy gradient against enumeration, and the controller with a supernet."""

import itertools
import math

import pytest
import scipy.stats
import torch
from support.controllers import CUBE, RESTRICTED, flat, gradient, rough
from torch import nn

from ponita.sharing.search.controller import Controller
from ponita.sharing.search.enas import ControllerSampler, ReinforceTrainer, derive
from ponita.sharing.search.testbed import ToySupernet, batches, toy_data, toy_loss
from ponita.sharing.search.training import Losses, SupernetTrainer


def rewards_of(architectures):
    generator = torch.Generator().manual_seed(5)
    table = torch.rand(3, 3, 3, generator=generator, dtype=torch.float64)
    return torch.stack([table[a] for a in architectures])


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
