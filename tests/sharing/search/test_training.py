"""The loop that trains supernets, samplers without memory, costs, and searches of a trained supernet."""

import itertools
import math

import pytest
import torch
from torch import nn

from ponita import Ponita
from ponita.sharing.search import (
    Callback,
    Choice,
    CostTable,
    Draw,
    Latency,
    Limit,
    Losses,
    PathSampler,
    PonitaSupernet,
    SandwichSampler,
    SearchSpace,
    SupernetTrainer,
    UniformSampler,
    evolutionary_search,
    exhaustive_search,
    front,
    kendall_tau,
    message_passing_flops,
    optuna_search,
    random_search,
    rank_report,
)
from ponita.sharing.search.testbed import ToySupernet, batches, toy_data, toy_loss, toy_space

SPACE = toy_space()
DATA = toy_data(96, 0)


def losses(model: nn.Module, batch) -> Losses:
    output = model(batch.x)
    return Losses(nn.functional.cross_entropy(output, batch.y, reduction="none"), output, batch.y)


def trainer(model: nn.Module, sampler: PathSampler, lr: float = 0.0, **options) -> SupernetTrainer:
    return SupernetTrainer(model, losses, torch.optim.SGD(model.parameters(), lr=lr), sampler, **options)


class Fixed(PathSampler):
    """The same draws in every step."""

    def __init__(self, *draws: Draw) -> None:
        super().__init__(SPACE)
        self.draws, self.seen = draws, []

    def draw(self, step):
        return list(self.draws)

    def observe(self, draw, feedback):
        self.seen.append((draw, feedback))


def test_gradients_of_several_paths_are_added_with_their_weights():
    torch.manual_seed(0)
    model = ToySupernet()
    paths, weights = [(0, 0, 0, 0), (3, 2, 2, 2)], [0.25, 2.0]
    sampler = Fixed(*(Draw(path, weight) for path, weight in zip(paths, weights, strict=True)))
    trainer(model, sampler, grad_clip=None).train_step(DATA)
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    sum(
        w * nn.functional.cross_entropy(model(DATA.x, path=p), DATA.y) for p, w in zip(paths, weights, strict=True)
    ).backward()
    for a, b in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad)


def test_a_sampler_sees_the_norm_of_each_path_before_clipping():
    torch.manual_seed(0)
    model = ToySupernet()
    paths = [(3, 2, 2, 2), (0, 0, 0, 0), (1, 1, 1, 1)]
    sampler = Fixed(*map(Draw, paths))
    trainer(model, sampler, grad_clip=1e-3).train_step(DATA)
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)
    for path, (draw, feedback) in zip(paths, sampler.seen, strict=True):
        model.zero_grad()
        expected = nn.functional.cross_entropy(model(DATA.x, path=path), DATA.y)
        expected.backward()
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        assert draw.path == path and float(feedback.loss) == pytest.approx(float(expected.detach()))
        assert feedback.grad_norm == pytest.approx(float(torch.stack(norms).norm()), rel=1e-5)
        assert feedback.sample_losses.shape == (96,)


def test_samples_count_with_their_weights():
    given = Losses(torch.tensor([1.0, 2.0, 3.0]), weights=torch.tensor([3.0, 0.0, 1.0]))
    assert float(given.mean) == 2.0 and float(Losses(torch.tensor([1.0, 3.0])).mean) == 2.0


class Notes(Callback):
    def __init__(self):
        self.calls = []

    def on_fit_start(self, trainer):
        self.calls.append("fit")

    def on_epoch_start(self, trainer, epoch):
        self.calls.append(f"epoch {epoch}")

    def on_backward_end(self, trainer, draw, feedback):
        self.calls.append("backward")

    def on_step_end(self, trainer, step):
        self.calls.append(f"step {step}")

    def on_epoch_end(self, trainer, epoch):
        self.calls.append(f"end {epoch}")


def test_callbacks_are_told_in_order_and_the_schedule_steps():
    model, notes = ToySupernet(), Notes()
    made = trainer(model, SandwichSampler(SPACE, 0), lr=1.0, callbacks=[notes])
    made.scheduler = torch.optim.lr_scheduler.LambdaLR(made.optimizer, lambda step: 0.5**step)
    history = made.fit([DATA], 2)
    assert notes.calls == [
        "fit",
        *itertools.chain.from_iterable(
            (f"epoch {e}", "backward", "backward", f"step {e + 1}", f"end {e}") for e in (0, 1)
        ),
    ]
    assert made.optimizer.param_groups[0]["lr"] == 0.25 and len(history.loss) == 2


def test_a_sandwich_has_both_ends_and_weights_of_a_mean():
    draws = SandwichSampler(SPACE, 2).draw(0)
    assert [d.path for d in draws[:2]] == [SPACE.smallest(), SPACE.largest()] and len(draws) == 4
    assert sum(d.weight for d in draws) == pytest.approx(1)
    with pytest.raises(ValueError, match="expected at least 0"):
        SandwichSampler(SPACE, -1)


def test_uniform_training_lowers_the_loss_of_every_network():
    torch.manual_seed(0)
    model = ToySupernet()
    data, before = toy_data(384, 0), {}
    some = [SPACE.smallest(), SPACE.largest(), (1, 1, 1, 1)]
    before = {a: toy_loss(model, data, path=a) for a in some}
    made = SupernetTrainer(model, losses, torch.optim.AdamW(model.parameters(), lr=5e-3), UniformSampler(SPACE))
    epochs = 25
    history = [made.fit(batches(data, 64, epoch), 1).loss[0] for epoch in range(epochs)]
    assert history[-1] < 0.5 * history[0]
    assert all(toy_loss(model, data, path=a) < 0.5 * before[a] for a in some)


def test_kernels_must_be_calibrated_before_training():
    net = PonitaSupernet(SearchSpace(Choice("num_layers", (1, 2))), in_channels=1, hidden_channels=4, basis_channels=4)
    with pytest.raises(ValueError, match=r"was not calibrated. Call ponita.sharing.search.calibrate_supernet"):
        trainer(net, UniformSampler(net.space))
    with pytest.raises(ValueError, match="holds no supernet"):
        trainer(nn.Linear(2, 2), UniformSampler(SPACE))


def test_tables_of_costs_are_linear_in_every_choice():
    table = CostTable(SPACE, lambda a: 1.0 + a[0] * a[1] + 10 * a[3])
    for architecture in [(0, 0, 0, 0), (3, 2, 1, 2)]:
        assert (
            float(table(architecture))
            == float(table(SPACE.onehot(architecture)))
            == 1 + architecture[0] * architecture[1] + 10 * architecture[3]
        )
    weights = {name: torch.rand(len(c), dtype=torch.float64).softmax(0) for name, c in SPACE.items()}
    expected = sum(
        float(table(a)) * math.prod(float(weights[n][i]) for n, i in zip(SPACE, a, strict=True))
        for a in SPACE.enumerate()
    )
    assert float(table(weights)) == pytest.approx(expected)
    assert torch.autograd.gradcheck(
        lambda *w: table(dict(zip(SPACE, w, strict=True))), [w.clone().requires_grad_() for w in weights.values()]
    )
    assert table.bounds == (1.0, 27.0)
    with pytest.raises(ValueError, match="up to 50"):
        CostTable(SPACE, lambda a: 1.0, limit=50)


def test_operations_grow_with_every_size_as_counted_by_hand():
    config = Ponita(
        1, hidden_channels=8, basis_channels=16, num_layers=2, widening=3, degree=2, num_orientations=6
    ).config
    n, e, o, c, b = 10, 40, 6, 8, 16
    per_layer = e * o * (b * c + c) + n * o * o * c + o * o * b * c + n * o * 2 * 3 * c * c
    assert message_passing_flops(config, n, e) == e * o * (c * b + 2 * c) + 2 * per_layer


def test_a_latency_is_measured_once_for_each_architecture():
    made = []
    latency = Latency(lambda a: made.append(a) or nn.Linear(1, 1), lambda net: sum(range(20_000)), repeats=3)
    first = latency((0,))
    assert latency((0,)) == first > 0 and made == [(0,)] and set(latency.measured) == {(0,)}


def truth(a):
    return abs(a[0] - 1) + abs(a[1] - 2) + 0.5 * abs(a[2] - 1) + 0.1 * a[3]


BEST = (1, 2, 1, 0)
SEARCHES = {
    "exhaustive": exhaustive_search,
    "random": lambda space, evaluate, limit=None: random_search(
        space, evaluate, 80, limit, torch.Generator().manual_seed(0)
    ),
    "evolutionary": lambda space, evaluate, limit=None: evolutionary_search(
        space, evaluate, 60, limit, torch.Generator().manual_seed(0)
    ),
    "optuna": lambda space, evaluate, limit=None: optuna_search(space, evaluate, 60, limit),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_find_the_best_within_the_limit_and_evaluate_each_once(name):
    if name == "optuna":
        pytest.importorskip("optuna")
    seen = []

    def evaluate(a):
        seen.append(a)
        return truth(a)

    found = SEARCHES[name](SPACE, evaluate)
    assert len(seen) == len(set(seen)) == len(found.errors)
    assert truth(found.best) == min(found.errors.values()) and truth(found.best) <= (0.0 if name != "random" else 0.6)
    limit = Limit(lambda a: float(sum(a)), 3.0)
    inside = SEARCHES[name](SPACE, truth, limit=limit)
    assert all(sum(a) <= 3 for a in inside.errors) and truth(inside.best) <= 1.2
    with pytest.raises(ValueError, match="costs at most -1 ms; the smallest one takes 0"):
        SEARCHES[name](SPACE, truth, limit=Limit(lambda a: float(sum(a)), -1.0))


def test_evolution_beats_chance_on_a_separable_problem():
    wins = 0
    for seed in range(5):
        bred = evolutionary_search(SPACE, truth, 40, generator=torch.Generator().manual_seed(seed), population=12)
        drawn = random_search(SPACE, truth, 40, generator=torch.Generator().manual_seed(seed))
        wins += truth(bred.best) <= truth(drawn.best)
    assert wins >= 4


def test_random_search_of_a_small_space_ends():
    assert len(random_search(SPACE.restrict(basis=[0], hidden=[0], ratio=[0]), truth, 10).errors) == 3


def test_the_front_is_what_nothing_beats():
    errors = {(0,): 5.0, (1,): 3.0, (2,): 4.0, (3,): 2.0, (4,): 2.0}
    assert front(errors, lambda a: float(a[0])) == [(0,), (1,), (3,)]


def test_kendall_counts_pairs():
    from scipy.stats import kendalltau

    a = [1.0, 2.0, 2.0, 5.0, 4.0, 0.0]
    b = [0.0, 2.0, 3.0, 4.0, 4.0, 1.0]
    assert kendall_tau(a, b) == pytest.approx(kendalltau(a, b).statistic)
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1
    for wrong, message in (([1.0], "at least two"), ([1.0, 1.0], "rank nothing")):
        with pytest.raises(ValueError, match=message):
            kendall_tau(wrong, [2.0, 2.0][: len(wrong)])


def test_ranks_are_reported_with_what_size_alone_reaches():
    true = {(0,): 1.0, (1,): 2.0, (2,): 4.0}
    report = rank_report({(0,): 0.2, (1,): 0.1, (2,): 0.3}, true, {(0,): 3.0, (1,): 2.0, (2,): 1.0})
    assert report.tau == pytest.approx(1 / 3) and report.tau_cost == -1
    assert report.regret == 1.0 and report.random_regret == pytest.approx(4 / 3)
