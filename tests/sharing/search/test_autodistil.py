"""Supernets of parts of a space that learn from a teacher, and the student that is selected."""

import pytest
import torch
from support.relations import EXACT, FIXED, OPTIONS, batch_of, last_block, supernet, teacher

from ponita.sharing.search import Callback, Choice, PonitaSupernet, SearchSpace, UniformSampler
from ponita.sharing.search.autodistil import (
    DistillationObjective,
    DistillationTrainer,
    select_student,
)
from ponita.sharing.search.relations import (
    Graphs,
    RelationDistillationLoss,
)
from ponita.sharing.search.subspaces import compact


def sgd(parameters, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr)


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
