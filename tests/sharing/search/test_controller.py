"""The LSTM controller against enumeration and the formulas of its cell."""

import math

import pytest
import scipy.stats
import torch
from support.controllers import CUBE, RESTRICTED, UNEVEN, by_hand, gradient, rough

from ponita.sharing.search.controller import Controller

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
