"""Averaging when clients come and go: estimates of participation, fixed points of the averages, patterns of participation."""

import json
import math
from statistics import mean

import pytest
import torch

from ponita.sharing.federated import (
    AverageAll,
    AverageParticipating,
    Bernoulli,
    Cyclic,
    FedAU,
    FedVarp,
    KnownRates,
    Markov,
    Mifa,
    ParticipationWeights,
)

TRACE = [0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("cutoff", "used", "final"),
    [
        (4, [1, 1, 1, 3, 2, 2, 2, 2, 2, 2, 2.5, 2.5, 2.5], 2.6),
        (None, [1, 1, 1, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2], 3.25),
    ],
)
def test_weights_follow_a_trace_by_hand(cutoff, used, final):
    weights = ParticipationWeights(["a", "b"], cutoff)
    found = []
    for present in TRACE:
        found.append(weights.weight("a"))
        weights.update({"a"} if present else set())
    assert found == used and weights.weight("a") == pytest.approx(final, abs=1e-15)


@pytest.mark.parametrize(("p", "cutoff"), [(0.1, 50), (0.1, 5), (0.5, 50), (0.02, 50), (0.3, None)])
def test_weights_have_the_mean_of_a_truncated_geometric_gap(p, cutoff):
    rounds, names = 4000, [str(i) for i in range(20)]
    weights, pattern = ParticipationWeights(names, cutoff), Bernoulli(dict.fromkeys(names, p), seed=1)
    for _ in range(rounds):
        weights.update(pattern.round())
    expected = (1 - (1 - p) ** cutoff) / p if cutoff else 1 / p
    deviation = 1 / p  # of a gap, at most
    error = deviation / math.sqrt(rounds * p * len(names))
    assert mean(weights.weight(name) for name in names) == pytest.approx(expected, abs=4 * error)
    if cutoff == 5:
        assert abs(expected - 1 / p) > 20 * error  # the cut-off is seen


def test_a_stopped_server_goes_on_where_it_was():
    first, second = (FedAU(["a", "b", "c"], cutoff=4) for _ in range(2))
    rounds = [{"a"}, set(), {"a", "b"}, {"c"}, set(), {"b"}]
    state = {"w": torch.zeros(2)}
    for present in rounds[:3]:
        first.step(state, {c: {"w": torch.ones(2)} for c in present})
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for present in rounds[3:]:
        updates = {c: {"w": torch.ones(2)} for c in present}
        assert torch.equal(first.step(state, updates)["w"], second.step(state, updates)["w"])
    with pytest.raises(ValueError, match="the state is of clients"):
        FedAU(["a", "b"]).load_state_dict(first.state_dict())


CLIENTS = [f"{i:02d}" for i in range(50)]
OPTIMA = {c: -1 + 2 * i / 49 for i, c in enumerate(CLIENTS)}  # their mean is the optimum, 0
RATES = {c: 0.02 + 0.48 * i / 49 for i, c in enumerate(CLIENTS)}  # who is there often wants a large value


def settled(server, pattern, rounds=2000, contraction=0.1):
    """Mean of the second half of the rounds, of clients that each pull towards an optimum of their own."""
    state, seen = {"x": torch.zeros(1, dtype=torch.float64)}, []
    for number in range(rounds):
        x = float(state["x"])
        updates = {
            c: {"x": torch.tensor([contraction * (OPTIMA[c] - x)], dtype=torch.float64)} for c in pattern.round()
        }
        state = server.step(state, updates)
        if number >= rounds // 2:
            seen.append(float(state["x"]))
    return mean(seen)


PATTERNS = {"bernoulli": (Bernoulli, 0.1), "markov": (Markov, 0.1), "cyclic": (Cyclic, 0.15)}


@pytest.mark.parametrize("name", PATTERNS)
def test_the_learned_average_finds_the_optimum_that_the_plain_one_misses(name):
    pattern, share = PATTERNS[name]
    plain = abs(settled(AverageParticipating(CLIENTS), pattern(RATES, 0)))
    learned = abs(mean(settled(FedAU(CLIENTS, cutoff=None), pattern(RATES, seed)) for seed in range(2)))
    assert plain > 0.2 and learned <= share * plain


def test_biases_are_those_of_the_truncated_gaps():
    def limit(q):
        return sum(q[c] * OPTIMA[c] for c in CLIENTS) / sum(q.values())

    expected = {
        "all": (AverageAll(CLIENTS), limit(RATES)),
        "10": (FedAU(CLIENTS, cutoff=10), limit({c: 1 - (1 - p) ** 10 for c, p in RATES.items()})),
        "known": (KnownRates(CLIENTS, RATES), 0.0),
    }
    for server, value in expected.values():
        found = settled(server, Bernoulli(RATES, 0), rounds=3000)
        assert found == pytest.approx(value, abs=0.03)
    assert expected["all"][1] > 0.3 and 0.1 < expected["10"][1] < 0.15


def test_equal_participation_leaves_nothing_to_correct():
    even = dict.fromkeys(CLIENTS, 0.2)
    for server in (AverageParticipating(CLIENTS), FedAU(CLIENTS)):
        assert abs(settled(server, Bernoulli(even, 3), rounds=1500)) < 0.03


@pytest.mark.parametrize("server", [Mifa, FedVarp])
def test_servers_with_memory_find_the_optimum_too(server):
    assert abs(settled(server(CLIENTS), Bernoulli(RATES, 0), rounds=1500)) < 0.06


def state(*values):
    return {"w": torch.tensor(values), "n": torch.tensor([3])}


def update(*values):
    return {"w": torch.tensor(values), "n": torch.tensor([100])}


def test_averages_by_hand():
    clients, start = ["a", "b", "c", "d"], state(1.0, 2.0)
    updates = {"a": update(4.0, 0.0), "c": update(0.0, 8.0)}
    by_hand = {
        AverageParticipating(clients): (1 + 2, 2 + 4),
        AverageAll(clients, server_lr=2.0): (1 + 2, 2 + 4),
        KnownRates(clients, {"a": 0.5, "b": 1.0, "c": 0.25, "d": 1.0}): (1 + 2, 2 + 8),
        FedAU(clients, shares={"a": 0.7, "b": 0.1, "c": 0.1, "d": 0.1}): (1 + 2.8, 2 + 0.8),
        Mifa(clients): (1 + 1, 2 + 2),
        FedVarp(clients): (1 + 2, 2 + 4),
    }
    for server, expected in by_hand.items():
        found = server.step(start, updates)
        torch.testing.assert_close(found["w"], torch.tensor(expected, dtype=torch.float32))
        assert torch.equal(found["n"], torch.tensor([3])), type(server)
    second = {"b": update(4.0, 4.0)}
    found = {type(server).__name__: server.step(start, second)["w"].tolist() for server in by_hand}
    assert found["Mifa"] == [1 + 2.0, 2 + 3.0]
    assert found["FedVarp"] == pytest.approx([1 + 4 + 1.0, 2 + 4 + 2.0])
    assert found["FedAU"] == pytest.approx([1 + 0.4, 2 + 0.4])
    again = next(server for server in by_hand if isinstance(server, FedVarp))
    assert again.step(start, {"a": update(2.0, 2.0)})["w"].tolist() == pytest.approx([1 - 2 + 2.0, 2 + 2 + 3.0])


def test_a_round_without_replies_changes_nothing_but_the_gaps():
    server = FedAU(["a", "b"], cutoff=None)
    before = state(1.0, 2.0)
    assert torch.equal(server.step(before, {})["w"], before["w"])
    server.step(before, {"a": update(0.0, 0.0)})
    assert server.weights.weight("a") == 2
    assert torch.equal(AverageParticipating(["a"]).step(before, {})["w"], before["w"])


def test_what_is_not_finite_counts_as_absent():
    server, plain = (FedAU(["a", "b"], cutoff=None) for _ in range(2))
    bad = {"a": update(1.0, float("nan")), "b": update(1.0, 1.0)}
    found = server.step(state(0.0, 0.0), bad)
    assert server.rejected == ["a"]
    assert torch.equal(found["w"], plain.step(state(0.0, 0.0), {"b": update(1.0, 1.0)})["w"])
    server.step(state(0.0, 0.0), {"a": update(1.0, 1.0)})
    assert server.weights.weight("a") == 2 and server.rejected == []


def test_the_order_of_the_replies_does_not_change_a_bit():
    generator = torch.Generator().manual_seed(0)
    clients = [str(i) for i in range(9)]
    updates = {c: {"w": torch.randn(1000, generator=generator)} for c in clients}
    start = {"w": torch.zeros(1000)}
    forward = FedAU(clients).step(start, updates)["w"]
    assert torch.equal(forward, FedAU(clients).step(start, dict(reversed(updates.items())))["w"])


def test_two_numbers_and_a_counter_are_stored_for_each_client():
    clients, start = [str(i) for i in range(7)], {"w": torch.zeros(100)}
    servers = [FedAU(clients), Mifa(clients), AverageAll(clients)]
    for server in servers:
        server.step(start, {"3": {"w": torch.ones(100)}})
    assert [server.stored() for server in servers] == [21, 700, 0]
    assert not any(isinstance(v, torch.Tensor) for row in servers[0].state_dict()["clients"].values() for v in row)


def rounds(pattern, number=20000):
    return torch.tensor([[c in present for c in pattern.rates] for present in (pattern.round() for _ in range(number))])


@pytest.mark.parametrize("p", [0.05, 0.4, 0.97])
def test_patterns_have_their_rates_and_correlations(p):
    names = {str(i): p for i in range(5)}
    for pattern in (Bernoulli(names, 2), Markov(names, 2), Cyclic(names, 2)):
        seen = rounds(pattern).double()
        expected = (
            max(0.01, p)
            if not isinstance(pattern, Cyclic)
            else max(1, round(100 * p)) / (max(1, round(100 * p)) + max(1, 100 - round(100 * p)))
        )
        assert float(seen.mean()) == pytest.approx(expected, abs=0.02)
    markov = rounds(Markov(names, 2)).double()
    come, go = float(Markov(names).come[0]), float(Markov(names).go[0])
    centred = markov - markov.mean(0)
    lag = (centred[1:] * centred[:-1]).mean(0) / centred.square().mean(0)
    assert float(lag.mean()) == pytest.approx(1 - come - go, abs=0.05)
    assert go <= 1 and come / (come + go) == pytest.approx(p)


def test_cycles_repeat_and_begin_apart():
    pattern = Cyclic({str(i): 0.1 for i in range(20)}, 0)
    seen = rounds(pattern, 300)
    assert torch.equal(seen[:100], seen[100:200]) and (seen[:100].sum(0) == 10).all()
    assert len({tuple(column.tolist()) for column in seen[:100].T}) > 10


MISTAKES = {
    "no clients": (lambda: ParticipationWeights([]), "at least one"),
    "twice": (lambda: FedAU(["a", "a"]), "expected different names"),
    "cutoff": (lambda: ParticipationWeights(["a"], 0), "cutoff=0"),
    "roster": (lambda: ParticipationWeights(["a"]).update({"z"}), r"clients \['z'\] are not on the roster of 1"),
    "weight": (lambda: ParticipationWeights(["a"]).weight("z"), "not on the roster"),
    "stranger": (lambda: FedAU(["a"]).step(state(1.0), {"z": update(1.0)}), r"updates of \['z'\]"),
    "shapes": (lambda: FedAU(["a"]).step(state(1.0), {"a": update(1.0, 2.0)}), r"the update of a differs.*\['w'\]"),
    "missing": (lambda: FedAU(["a"]).step(state(1.0), {"a": {}}), "differs from the global state"),
    "shares": (lambda: FedAU(["a", "b"], shares={"a": 0.5, "b": 0.6}), "with sum 1"),
    "rates": (lambda: KnownRates(["a"], {"a": 0.0}), "a positive one of each"),
    "rate": (lambda: Bernoulli({"a": 1.5}), "at most 1"),
    "period": (lambda: Cyclic({"a": 0.5}, period=1), "at least 2 rounds"),
    "a": (lambda: Markov({"a": 0.5}, a=0.0), "above 0"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named(case):
    make, message = MISTAKES[case]
    with pytest.raises(ValueError, match=message):
        make()
