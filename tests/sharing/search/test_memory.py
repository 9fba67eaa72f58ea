"""The memory of a controller, and what it repairs."""

import pytest
import torch
from support.controllers import CUBE, RESTRICTED, UNEVEN, by_hand, rough
from torch import nn

from ponita.sharing.search.controller import Controller, ControllerSample
from ponita.sharing.search.enas import ReinforceTrainer
from ponita.sharing.search.hidden_states import hidden_state_correlation
from ponita.sharing.search.memory import MODES, ArchitectureMemory, MemoryRegularizer
from ponita.sharing.search.space import Choice, SearchSpace

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
