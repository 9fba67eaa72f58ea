"""Parts of a space by cost, and supernets that inherit from a teacher."""

import math

import pytest
import torch
from support.relations import EXACT, FIXED, OPTIONS, batch_of, supernet, teacher

from ponita import Ponita
from ponita.sharing.search import Choice, PonitaSupernet, SearchSpace
from ponita.sharing.search.autodistil import (
    inherit,
)
from ponita.sharing.search.subspaces import check_partition, compact, partition_by_cost, translate

# sub-spaces


def cost_of_values(space: SearchSpace):
    return lambda architecture: float(math.prod(space.decode(architecture).values()))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 18])
def test_parts_by_cost_hold_every_architecture_once_the_cheapest_first(k):
    space = SearchSpace(*OPTIONS.values(), allowed={"num_orientations": [1]}) if k == 5 else OPTIONS
    k = min(k, space.cardinality)
    cost = cost_of_values(space)
    parts = partition_by_cost(space, k, cost)
    listed = [architecture for part in parts for architecture in part.enumerate()]
    assert len(parts) == k and sorted(listed) == sorted(space.enumerate())
    assert check_partition(space, parts) is parts
    means = [sum(math.log(cost(a)) for a in part.enumerate()) / part.cardinality for part in parts]
    assert means == sorted(means)


def test_parts_by_cost_are_cut_where_costs_are_apart():
    space = SearchSpace(Choice("a", (1, 2, 3)), Choice("b", (1, 2, 3, 4)), Choice("c", ("x", "y", "z"), ordered=False))
    jump = [0, 0, 3]
    of_kind = [0.0, 9.0, 0.1]
    parts = partition_by_cost(space, 3, lambda p: math.exp(jump[p[0]] + 0.01 * p[1] + of_kind[p[2]]))
    assert [part.allowed for part in parts] == [
        {"a": (0, 1), "b": (0, 1, 2, 3), "c": (0, 2)},
        {"a": (2,), "b": (0, 1, 2, 3), "c": (0, 2)},
        {"a": (0, 1, 2), "b": (0, 1, 2, 3), "c": (1,)},
    ]


def test_the_logarithm_of_the_cost_is_what_is_alike_in_a_part():
    space = SearchSpace(Choice("a", (1, 2, 3, 4)))
    cheap, dear = partition_by_cost(space, 2, lambda p: (1.0, 100.0, 130.0, 200.0)[p[0]])
    assert cheap.allowed == {"a": (0,)} and dear.allowed == {"a": (1, 2, 3)}


def test_a_cut_lowers_the_sum_of_squares_not_the_mean_square():
    space = SearchSpace(Choice("a", tuple(range(10))))
    logs = [0.0, 0.3, 2.0, 2.3, 2.6, 2.9, 3.2, 3.5, 3.8, 4.1]

    def spread(rows):
        return sum((x - sum(rows) / len(rows)) ** 2 for x in rows)

    best = min(range(1, 10), key=lambda i: spread(logs[:i]) + spread(logs[i:]))
    parts = partition_by_cost(space, 2, lambda p: math.exp(logs[p[0]]))
    assert parts[0].cardinality == best


def test_parts_that_overlap_miss_some_or_hold_others_are_refused():
    first, second = OPTIONS.partition("hidden_channels", [[0], [1, 2]])
    assert check_partition(OPTIONS, [first, second]) == [first, second]
    with pytest.raises(ValueError, match="share architectures"):
        check_partition(OPTIONS, [first, second, first.restrict(num_layers=[0])])
    with pytest.raises(ValueError, match="hold 8 architectures; expected the 12"):
        check_partition(OPTIONS, [second])
    inside = OPTIONS.restrict(num_layers=[0])
    with pytest.raises(ValueError, match="no others"):
        check_partition(inside, [OPTIONS.restrict(num_layers=[1])])
    for k in (0, 13):
        with pytest.raises(ValueError, match="expected 1 to 12"):
            partition_by_cost(OPTIONS, k, lambda _: 1.0)
    with pytest.raises(ValueError, match="expected positive"):
        partition_by_cost(OPTIONS, 2, lambda architecture: float(sum(architecture)))


def test_the_supernet_of_a_compact_space_holds_no_more_than_its_largest_network():
    part = OPTIONS.restrict(hidden_channels=[0, 1], num_layers=[0])
    small = compact(part)
    assert {name: choice.values for name, choice in small.items()} == {
        "hidden_channels": (4, 6),
        "num_layers": (1,),
        "num_orientations": (6, 12),
    }
    assert PonitaSupernet(part, **FIXED).network.config["hidden_channels"] == 12
    net = PonitaSupernet(small, **FIXED)
    assert net.network.config["hidden_channels"] == 6 and len(net.network.blocks) == 1
    held = sum(p.numel() for p in net.parameters())
    assert held == int(net.num_parameters(small.largest()))
    unordered = compact(SearchSpace(Choice("c", ("y", "x"), ordered=False)))
    assert not unordered["c"].ordered and unordered["c"].values == ("y", "x")


def test_architectures_are_translated_between_a_space_and_its_compact_parts():
    part = OPTIONS.restrict(hidden_channels=[0, 2], num_layers=[1])
    small = compact(part)
    translated = {a: translate(a, small, OPTIONS) for a in small.enumerate()}
    assert sorted(translated.values()) == sorted(part.enumerate())
    assert translated[(1, 0, 1)] == (2, 1, 1)
    assert all(translate(whole, part, small) == a for a, whole in translated.items())
    with pytest.raises(ValueError, match="no options"):
        translate((1, 1, 1), OPTIONS, small)


# inheritance


def test_a_supernet_as_large_as_the_teacher_becomes_it():
    net, original = PonitaSupernet(OPTIONS, **FIXED).double(), teacher()
    assert len(inherit(net, original)) == len(list(original.named_parameters()))
    assert bool(net.calibrated)
    batch = batch_of(1)
    assert torch.equal(net(**batch).scalars, original(**batch).scalars)
    with torch.no_grad():
        next(original.parameters()).add_(1)
    assert not torch.equal(net(**batch).scalars, original(**batch).scalars)


def test_a_compact_supernet_inherits_the_corners_that_the_whole_one_would_use():
    whole, part = supernet(), OPTIONS.restrict(hidden_channels=[0, 1])
    small = PonitaSupernet(compact(part), **FIXED).double()
    inherit(small, whole.network)
    assert not bool(small.calibrated)
    batch = batch_of(1)
    for architecture in small.space.enumerate():
        expected = whole(**batch, path=translate(architecture, small.space, OPTIONS))
        torch.testing.assert_close(small(**batch, path=architecture).scalars, expected.scalars, **EXACT)


def test_only_parameters_that_the_teacher_has_as_large_are_inherited():
    narrow = teacher(hidden_channels=6, num_layers=1, out_channels=2)
    net = PonitaSupernet(compact(OPTIONS.restrict(hidden_channels=[1])), **FIXED).double()
    before = {name: p.clone() for name, p in net.network.named_parameters()}
    names = inherit(net, narrow)
    assert {name for name in before if name not in names} == {
        name for name in before if name.startswith(("blocks.1.", "readouts."))
    }
    changed = {name for name, p in net.network.named_parameters() if not torch.equal(p, before[name])}
    assert changed <= set(names) and "blocks.0.conv.kernel.weight" in changed
    assert not bool(net.calibrated)


def test_kernels_as_wide_as_the_teachers_count_as_calibrated_in_fewer_blocks_too():
    net = PonitaSupernet(compact(OPTIONS.restrict(hidden_channels=[2], num_layers=[0])), **FIXED).double()
    inherit(net, teacher())
    assert bool(net.calibrated)
    for smaller in ({"basis_channels": 4}, {"degree": 1}):
        net = PonitaSupernet(compact(OPTIONS.restrict(hidden_channels=[2])), **{**FIXED, **smaller}).double()
        assert "blocks.0.conv.kernel.weight" in inherit(net, teacher())
        assert not bool(net.calibrated)


def test_keys_of_attention_of_another_width_are_not_inherited():
    given = teacher(attention_channels=4)
    net = PonitaSupernet(compact(OPTIONS.restrict(hidden_channels=[1])), **FIXED, attention_channels=3).double()
    assert not any("attention" in name for name in inherit(net, given))
    net = PonitaSupernet(compact(OPTIONS.restrict(hidden_channels=[1])), **FIXED, attention_channels=4).double()
    assert any("attention" in name for name in inherit(net, given))


def test_teachers_of_other_inputs_or_with_fewer_channels_are_refused():
    net = PonitaSupernet(OPTIONS, **FIXED).double()
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(ValueError, match=r"'in_channels': \(3, 4\)"):
        inherit(net, Ponita(**{**FIXED, "in_channels": 4}, hidden_channels=12).double())
    with pytest.raises(ValueError, match=r"'hidden_channels': \(12, 4\)"):
        inherit(net, Ponita(**FIXED, hidden_channels=4).double())
    assert all(map(torch.equal, before, net.parameters()))
