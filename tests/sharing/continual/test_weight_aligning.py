"""Weight aligning: what it scales and what it leaves, distillation, exemplars, and that it mends an imbalance."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from ponita import Ponita
from ponita.geometry import fully_connected
from ponita.geometry.symmetry import grid_symmetry
from ponita.sharing.continual import (
    AlignConfig,
    ExemplarMemory,
    align_weights,
    clip_heads,
    distillation_loss,
    grow_head,
    herd,
    incremental_loss,
)


def head(scale=3.0, classes=6, old=4, seed=0):
    torch.manual_seed(seed)
    made = nn.Linear(10, classes, bias=False).double()
    with torch.no_grad():
        made.weight[old:] *= scale
    return made


@pytest.mark.parametrize("p", [1, 2])
def test_new_rows_get_the_mean_norm_of_the_old_ones(p):
    made = head()
    before = made.weight.detach().clone()
    report = align_weights(made, 4, p=p)
    norms = made.weight.detach().norm(p=p, dim=1)
    assert float(norms[4:].mean()) == pytest.approx(float(norms[:4].mean()))
    assert torch.equal(made.weight[:4], before[:4]) and report.gamma < 1 and not report.capped
    torch.testing.assert_close(made.weight[4:].detach(), report.gamma * before[4:])
    assert align_weights(made, 4, p=p).gamma == pytest.approx(1)


def test_rankings_within_old_and_within_new_classes_stay():
    made, x = head(2.5), torch.randn(400, 10, dtype=torch.float64)
    before = made(x).detach()
    align_weights(made, 4)
    after = made(x).detach()
    assert torch.equal(before[:, :4].argsort(1), after[:, :4].argsort(1))
    assert torch.equal(before[:, 4:].argsort(1), after[:, 4:].argsort(1))
    assert (before.argmax(1) != after.argmax(1)).double().mean() > 0.2


def test_larger_old_rows_are_left_alone_unless_that_is_asked_for():
    made = head(0.2)
    before = made.weight.detach().clone()
    report = align_weights(made, 4)
    assert report.capped and report.gamma == 1 and torch.equal(made.weight, before)
    assert align_weights(made, 4, max_gamma=None).gamma > 3


def test_several_read_outs_share_one_factor():
    heads = [head(2.0, seed=1), head(4.0, seed=2)]
    x = [torch.randn(50, 10, dtype=torch.float64) for _ in heads]
    before = sum(h(v) for h, v in zip(heads, x, strict=True)).detach() / 2
    rows = torch.cat([h.weight.detach() for h in heads], dim=1)
    report = align_weights(heads, 4)
    norms = rows.norm(dim=1)
    assert report.gamma == pytest.approx(float(norms[:4].mean() / norms[4:].mean()))
    after = sum(h(v) for h, v in zip(heads, x, strict=True)).detach() / 2
    assert torch.equal(after[:, :4], before[:, :4])
    torch.testing.assert_close(after[:, 4:], report.gamma * before[:, 4:])


def test_biases_are_scaled_where_asked():
    made = nn.Linear(3, 4)
    with torch.no_grad():
        made.weight[2:] *= 5
    bias = made.bias.detach().clone()
    align_weights(copy.deepcopy(made), 2)
    report = align_weights(made, 2, scale_bias=True)
    torch.testing.assert_close(made.bias.detach()[2:], report.gamma * bias[2:])
    assert torch.equal(made.bias[:2], bias[:2])


def test_distillation_is_a_soft_cross_entropy_of_the_old_classes():
    torch.manual_seed(0)
    logits, teacher = (
        torch.randn(5, 6, dtype=torch.float64, requires_grad=True),
        torch.randn(5, 4, dtype=torch.float64, requires_grad=True),
    )
    distillation_loss(logits, teacher).backward()
    assert not logits.grad[:, 4:].any() and logits.grad[:, :4].any() and teacher.grad is None
    at_one = distillation_loss(logits, teacher, 1.0)
    torch.testing.assert_close(at_one, functional.cross_entropy(logits[:, :4], teacher.softmax(1).detach()))
    expected = (((logits[:, :4] / 2).softmax(1) - (teacher / 2).softmax(1)) / 2 / 5).detach()
    torch.testing.assert_close(logits.grad[:, :4], expected)
    y = torch.tensor([0, 5, 2, 4, 1])
    both = incremental_loss(logits, y, teacher)
    torch.testing.assert_close(
        both, functional.cross_entropy(logits, y) / 3 + 2 / 3 * distillation_loss(logits, teacher)
    )
    torch.testing.assert_close(incremental_loss(logits, y, None), functional.cross_entropy(logits, y))


def test_heads_grow_with_or_without_their_rows():
    made = nn.Linear(3, 2)
    copied, fresh = grow_head(made, 5, "copy"), grow_head(made, 5)
    assert torch.equal(copied.weight[:2], made.weight) and torch.equal(copied.bias[:2], made.bias)
    assert fresh.weight.shape == (5, 3) and not torch.equal(fresh.weight[:2], made.weight)
    assert grow_head(nn.Linear(3, 2, bias=False), 3).bias is None
    clip_heads([copied])
    assert float(copied.weight.detach().min()) >= 0


CENTRES = torch.randn(10, 16, generator=torch.Generator().manual_seed(3))


def clusters(counts, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.repeat_interleave(torch.arange(10), torch.tensor(counts))
    return CENTRES[y] + 0.9 * torch.randn(len(y), 16, generator=generator), y


def trained_head(counts, seed):
    """A fresh head on fixed random features, and the test features."""
    torch.manual_seed(seed)
    project = torch.randn(16, 96) / 4
    x, y = clusters(counts, seed)
    made = nn.Linear(96, 10, bias=False)
    optimizer = torch.optim.SGD(made.parameters(), lr=0.05, momentum=0.9)
    features = (x @ project).relu()
    for _ in range(25):
        for rows in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(made(features[rows]), y[rows]).backward()
            optimizer.step()
    x, y = clusters([100] * 10, 99)
    return made, (x @ project).relu(), y


def accuracies(made, features, y):
    right = made(features).argmax(1) == y
    return float(right.double().mean()), float(right[y < 5].double().mean())


def test_an_imbalance_of_classes_is_mended_and_a_balance_is_left():
    gained, gained_old, changed = 0.0, 0.0, 0.0
    for seed in range(3):
        made, features, y = trained_head([10] * 5 + [300] * 5, seed)
        before = accuracies(made, features, y)
        align_weights(made, 5)
        after = accuracies(made, features, y)
        gained, gained_old = gained + (after[0] - before[0]) / 3, gained_old + (after[1] - before[1]) / 3
        made, features, y = trained_head([150] * 10, seed)
        before = accuracies(made, features, y)
        align_weights(made, 5)
        changed += abs(accuracies(made, features, y)[0] - before[0]) / 3
    assert gained > 0.02 and gained_old > 0.05 and changed < 0.015


def test_herding_is_ranked_and_near_the_mean():
    features = torch.randn(200, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    chosen = herd(features, 20)
    assert herd(features, 10) == chosen[:10] and len(set(chosen)) == 20
    unit = functional.normalize(features, dim=1)

    def error(rows):
        return float((unit.mean(0) - unit[rows].mean(0)).norm())

    random = [error(torch.randperm(200, generator=torch.Generator().manual_seed(s))[:20]) for s in range(20)]
    assert error(chosen) < 0.4 * sum(random) / 20
    best = min(range(200), key=lambda i: float((unit.mean(0) - unit[i]).norm()))
    assert chosen[0] == best and len(herd(features[:5], 20)) == 5


def test_a_sample_is_chosen_once_even_where_it_is_the_mean_itself():
    assert herd(torch.tensor([[1.0, 0.5], [1.0, 0.0], [1.0, -0.5]]), 3)[0] == 1
    assert sorted(herd(torch.tensor([[1.0, 0.5], [1.0, 0.0], [1.0, -0.5]]), 3)) == [0, 1, 2]


def test_herding_does_not_depend_on_how_clouds_are_turned():
    torch.manual_seed(0)
    net = Ponita(1, hidden_channels=8, basis_channels=8, num_layers=2, num_orientations=12, out_channels=6).double()
    pos = torch.randn(80, 3, dtype=torch.float64)
    batch = torch.arange(20).repeat_interleave(4)
    inputs = {"edge_index": fully_connected(batch), "x": torch.ones(80, 1).double(), "batch": batch}
    with torch.no_grad():
        found = [herd(net(pos @ r.T, **inputs).scalars, 6) for r in grid_symmetry(12)[:4]]
    assert all(other == found[0] for other in found)


def test_the_memory_keeps_within_its_budget_and_its_best():
    memory = ExemplarMemory(12)
    features, labels = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    memory.update(range(60), features, labels)
    first = {c: list(rows) for c, rows in memory.rows.items()}
    assert {c: len(rows) for c, rows in first.items()} == {0: 6, 1: 6}
    assert first[0] == [2 * i for i in herd(features[labels == 0], 6)]
    memory.update(range(100, 160), features, labels + 2)
    assert {c: rows for c, rows in memory.rows.items() if c < 2} == {c: rows[:3] for c, rows in first.items()}
    assert len(memory.indices()) == 12 and all(row >= 100 for row in memory.rows[3])
    again = ExemplarMemory(12)
    again.load_state_dict(memory.state_dict())
    assert again.indices() == memory.indices()
    drawn = ExemplarMemory(12, "random")
    drawn.update(range(60), features, labels)
    assert drawn.rows != first and all(int(labels[r]) == c for c, rows in drawn.rows.items() for r in rows)


def test_the_authors_settings_are_other_than_the_defaults():
    assert AlignConfig.official() == AlignConfig(p=1, clip=True) != AlignConfig()


MISTAKES = {
    "no old": (lambda: align_weights(head(), 0), "0 old and 6 new classes of 6"),
    "too many": (lambda: align_weights(head(), 4, 5), "of 6"),
    "zero": (lambda: align_weights(head(0.0), 4), "expected positive, finite numbers"),
    "fewer": (lambda: grow_head(nn.Linear(3, 4), 2), "num_classes=2 after 4"),
    "init": (lambda: AlignConfig(head_init="old"), "'fresh' or 'copy'"),
    "selector": (lambda: ExemplarMemory(3, "best"), "expected at least 1 and one of"),
    "budget": (lambda: ExemplarMemory(1).update([0, 1], torch.ones(2, 2), torch.tensor([0, 1])), "leave 0 for each"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named(case):
    make, message = MISTAKES[case]
    with pytest.raises(ValueError, match=message):
        make()


def test_a_class_is_not_learned_twice():
    memory = ExemplarMemory(4)
    memory.update([0, 1], torch.ones(2, 2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"\[1\] are in the memory already"):
        memory.update([2, 3], torch.ones(2, 2), torch.tensor([1, 2]))
