"""A network that learns classes as they come: its read-outs, its teacher and its exemplars; and numbers of a record."""

import pytest
import torch

from ponita import Ponita
from ponita.sharing.continual import AlignConfig, ExemplarMemory
from ponita.tasks.continual.incremental_learner import Learner, in_digit_order, pooled_features
from ponita.tasks.continual.incremental_report import Record, numbers, tables
from ponita.tasks.superpixel.task import AS_GIVEN, ROTATED

ORDER = [4, 1, 7, 5, 3, 9, 0, 8, 6, 2]


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def small_learner(method="wa", **align):
    torch.manual_seed(0)
    sizes = {"hidden_channels": 8, "basis_channels": 8, "num_layers": 2, "num_orientations": 4, "space": "R2xS1"}
    learner = Learner(method, Ponita(1, out_channels=10, **sizes).double(), AlignConfig(**align))
    learner.begin(0, 4, seed=0)
    return learner


def clouds(number=30):
    generator = torch.Generator().manual_seed(1)
    batch = torch.arange(number).repeat_interleave(5)
    ends = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    edges = (ends[ends[:, 0] != ends[:, 1]].T[:, None] + 5 * torch.arange(number)[None, :, None]).flatten(1)
    pos = torch.randn(len(batch), 2, generator=generator, dtype=torch.float64)
    x = torch.rand(len(batch), 1, generator=generator, dtype=torch.float64)
    return {"pos": pos, "edge_index": edges, "x": x, "batch": batch, "num_graphs": number}


def test_outputs_of_old_classes_stay_and_those_of_new_ones_scale():
    learner, inputs = small_learner(max_gamma=None), clouds()
    with torch.no_grad():
        for head in learner.heads:
            head.weight[2:4] *= 3
        before = learner.network(**inputs).scalars
        learner.end(1, 2, 4)
        after = learner.network(**inputs).scalars
    assert torch.equal(after[:, :2], before[:, :2])
    torch.testing.assert_close(after[:, 2:], learner.reports[1]["gamma"] * before[:, 2:])
    assert 0.2 < learner.reports[1]["gamma"] < 0.6 and same(state(learner.teacher), state(learner.network))


@pytest.mark.parametrize(("p", "max_gamma"), [(2, 1.0), (1, 1.0), (2, None)])
def test_settings_of_the_alignment_are_those_given(p, max_gamma):
    learner = small_learner(p=p, max_gamma=max_gamma)
    with torch.no_grad():
        for head in learner.heads:
            head.weight[2:4] *= 0.5 if max_gamma is None else 2.0
    rows = torch.cat([head.weight.detach() for head in learner.heads], dim=1)[:4].norm(p=p, dim=1)
    learner.end(1, 2, 4)
    assert learner.reports[1]["gamma"] == pytest.approx(float(rows[:2].mean() / rows[2:].mean()))
    assert (learner.reports[1]["gamma"] > 1) == (max_gamma is None)


def test_outputs_are_linear_in_the_pooled_features():
    learner, inputs = small_learner(), clouds()
    features = pooled_features(learner.network, inputs)
    rows = torch.cat([head.weight for head in learner.heads], dim=1) / len(learner.heads)
    torch.testing.assert_close(features @ rows.T, learner.network(**inputs).scalars)
    assert not learner.network.readouts["0"]._forward_pre_hooks


def test_exemplars_do_not_depend_on_how_images_are_turned():
    learner, inputs = small_learner(), clouds()
    found = []
    for turn in quarter_turns():
        memory = ExemplarMemory(12)
        features = pooled_features(learner.network, {**inputs, "pos": inputs["pos"] @ turn.T})
        memory.update(range(30), features, torch.arange(30) % 2)
        found.append(memory.state_dict())
    assert len(found) == 4 and all(other == found[0] for other in found)
    by_place = ExemplarMemory(12)
    by_place.update(range(30), inputs["pos"].view(30, -1), torch.arange(30) % 2)
    assert by_place.state_dict() != found[0]


def quarter_turns():
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    return [torch.linalg.matrix_power(quarter, k) for k in range(4)]


def test_old_rows_stay_where_they_are_copied():
    learner = small_learner(head_init="copy")
    before = [head.weight.detach().clone() for head in learner.heads]
    learner.begin(4, 6, seed=1)
    for head, old in zip(learner.heads, before, strict=True):
        assert torch.equal(head.weight[:4], old[:4]) and head.weight[4:6].all() and not head.weight[6:].any()
    learner.begin(4, 6, seed=1)
    again = [head.weight.detach().clone() for head in learner.heads]
    learner.begin(4, 6, seed=2)
    assert all(not torch.equal(h.weight[4:6], a[4:6]) for h, a in zip(learner.heads, again, strict=True))


def test_new_rows_leave_the_global_generator_alone():
    learner = small_learner()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    learner.begin(4, 6, seed=1)
    assert torch.equal(torch.rand(1), expected)


def test_classes_that_have_not_come_and_biases_get_no_gradient():
    learner, inputs = small_learner(), clouds()
    y = torch.arange(30) % 4
    learner.loss(inputs, y, 0, 4).backward()
    for head in learner.heads:
        assert head.weight.grad[:4].any() and not head.weight.grad[4:].any()
        assert not head.bias.requires_grad and not head.bias.any()
    assert all(p.grad is None and not p.requires_grad for p in learner.teacher.parameters())


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_is_from_the_teacher_on_old_classes(temperature):
    learner, plain, inputs = small_learner("kd", temperature=temperature), small_learner("finetune"), clouds()
    y = torch.arange(30) % 6
    for each in (learner, plain):
        each.end(0, 0, 4)
        each.begin(4, 6, seed=1)
    ce = plain.loss(inputs, y, 4, 6)
    with torch.no_grad():
        soft = (learner.teacher(**inputs).scalars[:, :4] / temperature).softmax(1)
    kd = -(soft * (learner.network(**inputs).scalars[:, :4] / temperature).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(learner.loss(inputs, y, 4, 6), ce / 3 + kd * 2 / 3)
    torch.testing.assert_close(ce, torch.nn.functional.cross_entropy(plain.network(**inputs).scalars[:, :6], y))


def test_read_outs_are_clipped_by_wa_alone_and_where_asked():
    for method, clip, clipped in (("wa", True, True), ("wa", False, False), ("kd", True, False)):
        learner = small_learner(method, clip=clip)
        learner.after_step()
        assert all(bool((head.weight >= 0).all()) == clipped for head in learner.heads)


def test_digits_in_order_are_a_permutation_of_the_stream():
    learner, inputs = small_learner(), clouds()
    learner.begin(0, 10, seed=3)
    before = state(learner.network)
    with torch.no_grad():
        digits, stream = in_digit_order(learner.network, ORDER)(**inputs).scalars, learner.network(**inputs).scalars
    torch.testing.assert_close(digits[:, ORDER], stream)
    assert same(before, state(learner.network)) and not torch.allclose(digits, stream)


def record():
    """Two stages of two classes by one method: by hand."""
    first, last = torch.zeros(10, 10, dtype=torch.long), torch.zeros(10, 10, dtype=torch.long)
    first[0, 0], first[0, 1], first[1, 1] = 3, 1, 4
    last[0, 0], last[0, 3], last[1, 1], last[1, 2], last[2, 2], last[3, 3], last[3, 0] = 1, 3, 2, 2, 4, 3, 1
    turned = torch.diag(torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 0, 0]))
    counts = {0: {"kd": {AS_GIVEN: first, ROTATED: turned}}, 1: {"kd": {AS_GIVEN: last, ROTATED: turned}}}
    return Record(ORDER, 2, counts, 12.34)


def test_numbers_are_those_counted_by_hand():
    report = {"gamma": 0.5, "norm_old": 1.0, "norm_new": 2.0, "capped": False}
    found = numbers(record(), {"kd": {1: report}})
    kd = found["methods"]["kd"]
    assert kd["accuracy"] == [7 / 8, 10 / 16] and kd["average"] == (7 / 8 + 10 / 16) / 2
    assert kd["old"] == 3 / 8 and kd["new"] == 7 / 8 and kd["accuracy_turned"] == [1, 1]
    assert kd["alignment"] == {"1": report} and kd["confusion"][1][2] == 2
    assert found["classes"] == [2, 4] and found["cpu_seconds"] == 12.3
    text = tables(record(), {"kd": {1: report}}, "a title")
    assert "a title" in text and "0.50" in text
    row = next(line for line in text.splitlines() if line.startswith("kd"))
    assert row.split()[1:] == ["87.5", "62.5", "75.0", "100.0", "37.5", "87.5"]
