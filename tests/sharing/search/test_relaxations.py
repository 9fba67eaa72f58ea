"""Distributions of relaxed architectures, and pruning."""

import math

import pytest
import torch
from torch import nn

from ponita.sharing.search.sampling import Draw
from ponita.sharing.search.space import Choice, SearchSpace
from ponita.sharing.search.tangle import RelaxationSampler, prune, sparsemax

KINDS = [("drnas", "softmax"), ("darts", "softmax"), ("darts", "sparsemax"), ("gdas", "softmax")]


def test_sparsemax_is_the_nearest_point_of_the_simplex():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        z = torch.randn(5, generator=generator, dtype=torch.float64)
        p = sparsemax(z)
        assert float(p.sum()) == pytest.approx(1.0) and float(p.min()) >= 0
        # Where p > 0 the residual z - p is one number, and nowhere is it larger.
        residual = z - p
        assert (residual[p > 0] - residual.max()).abs().max() < 1e-12
    assert sparsemax(torch.tensor([5.0, 0.0, 4.5])).tolist() == [0.75, 0.0, 0.25]
    z = torch.tensor([0.3, 0.1, -0.2, -3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sparsemax, (z,))


# Distributions


def toy_sampler(kind: str, activation: str = "softmax", **options) -> RelaxationSampler:
    """Of one choice of three options, with logits of both signs, in float64."""
    sampler = RelaxationSampler(SearchSpace(Choice("width", (1, 2, 3))), kind, activation, **options).double()
    with torch.no_grad():
        sampler.logits["width"].copy_(torch.tensor([0.5, -0.7, 0.1]))
    return sampler


def test_dirichlet_weights_have_the_mean_of_elu_plus_one_and_its_gradient():
    sampler, values = toy_sampler("drnas"), torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
    logits = sampler.logits["width"]
    draws = torch.stack([sampler.relaxation()["width"] for _ in range(4000)])
    assert torch.allclose(draws.sum(1), torch.ones(4000, dtype=torch.float64))
    concentration = nn.functional.elu(logits) + 1
    mean = concentration / concentration.sum()
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=0.015)
    variance = mean * (1 - mean) / (concentration.sum() + 1)
    torch.testing.assert_close(draws.var(0), variance, rtol=0, atol=0.006)
    (sampled,) = torch.autograd.grad((draws @ values).mean(), logits)
    (exact,) = torch.autograd.grad(mean @ values, logits)
    torch.testing.assert_close(sampled, exact, rtol=0, atol=0.06)
    assert sampler.probabilities()["width"].tolist() == pytest.approx(mean.tolist())


def test_gumbel_weights_are_exactly_one_hot_of_softmax_frequencies_with_the_gradient_of_the_soft_ones():
    sampler = toy_sampler("gdas", tau=(0.7, 0.7))
    logits = sampler.logits["width"]
    draws = torch.stack([sampler.relaxation()["width"] for _ in range(4000)]).detach()
    assert set(draws.flatten().tolist()) == {0.0, 1.0} and draws.sum(1).eq(1).all()
    torch.testing.assert_close(draws.mean(0), logits.softmax(0).detach(), rtol=0, atol=0.02)
    assert sampler.probabilities()["width"].tolist() == pytest.approx(logits.softmax(0).tolist())

    values = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
    state = sampler.generator.get_state()
    (hard,) = torch.autograd.grad(sampler.relaxation()["width"] @ values, logits)
    sampler.generator.set_state(state)
    noise = -(-torch.rand(3, generator=sampler.generator, dtype=torch.float64).log()).log()
    (soft,) = torch.autograd.grad(((logits + noise) / 0.7).softmax(0) @ values, logits)
    torch.testing.assert_close(hard, soft, rtol=1e-6, atol=1e-9)
    assert hard.abs().max() > 1e-3


def test_the_temperature_falls_linearly_from_the_first_epoch_to_the_last():
    sampler = toy_sampler("gdas", tau=(10.0, 0.1))
    seen = []
    for epoch in range(4):
        seen.append(float(sampler.temperature))
        sampler.epoch_end(epoch, 4)
    assert seen == pytest.approx([10.0, 6.7, 3.4, 0.1]) and float(sampler.temperature) == pytest.approx(0.1)


@pytest.mark.parametrize(("kind", "activation"), KINDS)
def test_weights_lie_on_the_simplex_and_vanish_where_not_allowed(kind, activation):
    choices = (
        Choice("width", (1, 2, 3, 4)),
        Choice("kind", ("a", "b"), ordered=False),
        Choice("num_orientations", (4, 8, 12)),
    )
    space = SearchSpace(*choices, allowed={"width": [0, 2], "kind": [1], "num_orientations": [0, 2]})
    sampler = RelaxationSampler(space, kind, activation)
    with torch.no_grad():
        sampler.logits["width"].copy_(torch.tensor([0.1, 9.0, 0.2, 9.0]))
        sampler.logits["num_orientations"].copy_(torch.tensor([0.0, 9.0, -0.1]))
    for _ in range(10):
        path = sampler.relaxation()
        for weights in path.values():
            assert weights.sum().item() == pytest.approx(1.0) and weights.min().item() >= 0
        assert path["width"][[1, 3]].tolist() == [0, 0] and path["kind"].tolist() == [0, 1]
        assert path["num_orientations"].tolist() in ([1, 0, 0], [0, 0, 1])
    path["width"].square().sum().backward()
    assert sampler.logits["width"].grad[[1, 3]].tolist() == [0, 0]
    assert torch.isfinite(sampler.logits["width"].grad).all()
    assert sampler.argmax() == (2, 1, 0)
    for name, probs in sampler.probabilities().items():
        assert float(probs.sum()) == pytest.approx(1.0)
        assert all(probs[i] == 0 for i in range(len(probs)) if i not in space.allowed[name])


@pytest.mark.parametrize(("kind", "activation"), KINDS)
def test_draws_depend_on_the_seed_alone(kind, activation):
    def draws(seed):
        sampler = RelaxationSampler(SearchSpace(Choice("width", (1, 2, 3))), kind, activation, seed=seed)
        return torch.stack([sampler.draw(0)[0].path["width"] for _ in range(8)])

    torch.manual_seed(1)
    first = draws(5)
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after)
    assert torch.equal(draws(5), first) and not torch.equal(draws(6), first)


@pytest.mark.parametrize("size", [-40.0, 40.0])
@pytest.mark.parametrize(("kind", "activation"), KINDS)
def test_extreme_logits_give_finite_weights_and_gradients(kind, activation, size):
    sampler = RelaxationSampler(SearchSpace(Choice("width", (1, 2, 3))), kind, activation, tau=(0.1, 0.1))
    logits = sampler.logits["width"]
    with torch.no_grad():
        logits.copy_(torch.tensor([size, 0.0, size]))
    for _ in range(10):
        weights = sampler.relaxation()["width"]
        (gradient,) = torch.autograd.grad(weights @ torch.arange(3.0), logits)
        assert torch.isfinite(weights).all() and torch.isfinite(gradient).all()


@pytest.mark.parametrize("kind", ["drnas", "darts", "gdas"])
def test_the_mean_score_gradient_is_that_of_the_mean_loss(kind):
    losses = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    sampler = RelaxationSampler(SearchSpace(Choice("num_orientations", (4, 8, 12))), kind).double()
    logits = sampler.logits["num_orientations"]
    with torch.no_grad():
        logits.copy_(torch.tensor([0.5, -0.7, 0.1]))
    probs = logits.softmax(0)
    if kind == "drnas":
        concentration = nn.functional.elu(logits) + 1
        probs = concentration / concentration.sum()
    (exact,) = torch.autograd.grad(probs @ losses, logits)
    total, seen = torch.zeros(3, dtype=torch.float64), set()
    while len(seen) < 3:
        draw = sampler.sample()
        option = int(draw.path["num_orientations"].argmax())
        assert draw.log_prob.item() == pytest.approx(probs[option].log().item())
        if option not in seen:
            seen.add(option)
            sampler._baseline = 0.3
            (part,) = torch.autograd.grad(sampler.score_loss(draw, losses[option]), logits)
            total += probs[option].detach() * part
    torch.testing.assert_close(total, exact, rtol=1e-10, atol=1e-12)


def test_the_baseline_is_the_running_mean_of_losses_before():
    sampler = RelaxationSampler(SearchSpace(Choice("num_orientations", (4, 8))), "darts")
    draw = Draw({}, log_prob=torch.tensor(-1.0))
    values = [float(sampler.score_loss(draw, torch.tensor(loss))) for loss in (2.0, 3.0, 4.0)]
    assert values == pytest.approx([0.0, -(3 - 2.0), -(4 - 2.1)])
    assert sampler.score_loss(Draw({}), torch.tensor(1.0)) == 0


def test_the_regularizer_is_the_divergence_from_the_uniform_dirichlet_of_all_choices():
    sampler = RelaxationSampler(SearchSpace(Choice("width", (1, 2, 3)), Choice("depth", (1, 2))), init_std=0.5).double()
    expected = 0.0
    for logits in sampler.logits.values():
        concentration = nn.functional.elu(logits.detach()) + 1
        total = concentration.sum()
        expected += torch.lgamma(total) - torch.lgamma(concentration).sum() - math.lgamma(len(logits))
        expected += ((concentration - 1) * (torch.digamma(concentration) - torch.digamma(total))).sum()
    assert expected > 0.01
    assert sampler.regularizer().item() == pytest.approx(float(expected), rel=1e-12)
    with torch.no_grad():
        for logits in sampler.logits.values():
            logits.zero_()
    assert sampler.regularizer().item() == pytest.approx(0.0, abs=1e-12)


def test_logits_start_with_the_given_spread():
    sampler = RelaxationSampler(SearchSpace(Choice("width", tuple(range(1, 4001)))), init_std=1e-3)
    assert sampler.logits["width"].std().item() == pytest.approx(1e-3, rel=0.05)
    assert abs(sampler.logits["width"].mean().item()) < 1e-4
    assert [len(parameter) for parameter in sampler.parameters()] == [4000]


def test_pruning_keeps_the_allowed_options_of_largest_probability():
    space = SearchSpace(Choice("width", (1, 2, 3, 4)), Choice("depth", (1, 2)), allowed={"width": [0, 2, 3]})
    sampler = RelaxationSampler(space)
    with torch.no_grad():
        sampler.logits["width"].copy_(torch.tensor([0.3, 9.0, -0.2, 0.1]))
    pruned = prune(space, sampler, {"width": 2})
    assert pruned.allowed == {"width": (0, 3), "depth": (0, 1)}
    assert prune(space, sampler, {"width": 7}).allowed == space.allowed
    sampler.space = pruned
    assert sampler.relaxation()["width"][[1, 2]].tolist() == [0, 0] and sampler.argmax()[0] == 0
    assert prune(pruned, sampler, {"width": 1}).allowed["width"] == (0,)
    # What the sampler still has and the space has not counts for nothing.
    sampler.space = SearchSpace(*space.values())
    assert prune(space, sampler, {"width": 2}).allowed["width"] == (0, 3)
