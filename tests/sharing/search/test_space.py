"""Search spaces: their architectures, what is refused, and how they are divided."""

import itertools

import pytest
import torch

from ponita.sharing.search.space import Choice, SearchSpace

WIDTH, DEPTH, KIND = (
    Choice("width", (4, 8, 16)),
    Choice("depth", (1, 2)),
    Choice("kind", ("gelu", "tanh"), ordered=False),
)
SPACE = SearchSpace(WIDTH, DEPTH, KIND)


def test_all_combinations_are_architectures_once():
    found = list(SPACE.enumerate())
    assert len(found) == len(set(found)) == SPACE.cardinality == 12
    assert found[0] == SPACE.smallest() == (0, 0, 0) and found[-1] == SPACE.largest() == (2, 1, 1)
    assert all(architecture in SPACE for architecture in found)
    assert (3, 0, 0) not in SPACE and (0, 0) not in SPACE and "width" in SPACE and "other" not in SPACE


def test_values_and_architectures_are_translated_both_ways():
    for architecture in SPACE.enumerate():
        assert SPACE.encode(SPACE.decode(architecture)) == architecture
    assert SPACE.decode((1, 0, 1)) == {"width": 8, "depth": 1, "kind": "tanh"}


def test_a_relaxation_of_one_architecture_is_zero_elsewhere():
    found = SPACE.onehot((1, 0, 1), torch.float64)
    assert [row.tolist() for row in found.values()] == [[0, 1, 0], [1, 0], [0, 1]]
    assert found["width"].dtype == torch.float64 and SPACE.check_path(found) is found


def test_restricted_spaces_mean_the_same_by_an_architecture():
    small = SPACE.restrict(width=[0, 1]).restrict(width=[1, 2], depth=[1])
    assert list(small.enumerate()) == [(1, 1, 0), (1, 1, 1)]
    assert small.decode((1, 1, 0)) == SPACE.decode((1, 1, 0)) and small.largest() == (1, 1, 1)
    with pytest.raises(ValueError, match="not in the space"):
        small.decode((0, 1, 0))
    assert all(small.sample(torch.Generator().manual_seed(seed)) in small for seed in range(20))


def test_a_partition_holds_every_architecture_once():
    parts = SPACE.partition("width", [[0, 2], [1]])
    found = [set(part.enumerate()) for part in parts]
    assert not found[0] & found[1] and found[0] | found[1] == set(SPACE.enumerate())
    for groups in ([[0], [1]], [[0, 1], [1, 2]], [[0, 1, 2, 3]]):
        with pytest.raises(ValueError, match="once"):
            SPACE.partition("width", groups)


def test_draws_are_uniform_or_follow_their_probabilities():
    generator = torch.Generator().manual_seed(0)
    drawn = [SPACE.sample(generator) for _ in range(6000)]
    shares = [drawn.count(a) / 6000 for a in SPACE.enumerate()]
    assert max(abs(12 * share - 1) for share in shares) < 0.2
    probs = {
        "width": torch.tensor([0.7, 0.0, 0.3]),
        "depth": torch.tensor([0.0, 1.0]),
        "kind": torch.tensor([0.5, 0.5]),
    }
    drawn = [SPACE.sample(generator, probs) for _ in range(3000)]
    assert {a[1] for a in drawn} == {1} and {a[0] for a in drawn} == {0, 2}
    assert abs(sum(a[0] == 0 for a in drawn) / 3000 - 0.7) < 0.03


def test_children_come_from_their_parents_and_mutants_from_the_space():
    generator = torch.Generator().manual_seed(0)
    a, b = (0, 0, 0), (2, 1, 1)
    children = {SPACE.crossover(a, b, generator) for _ in range(200)}
    assert children == set(itertools.product((0, 2), (0, 1), (0, 1)))
    assert SPACE.mutate(a, 0.0, generator) == a
    mutants = [SPACE.mutate(a, 0.5, generator) for _ in range(2000)]
    assert set(mutants) <= set(SPACE.enumerate())
    assert abs(sum(m[0] != 0 for m in mutants) / 2000 - 0.5 * 2 / 3) < 0.04
    assert SPACE.distance(a, b) == 3 and SPACE.distance(a, (0, 1, 0)) == 1


class Trial:
    """What Optuna asks of a trial."""

    def suggest_categorical(self, name: str, options: tuple[int, ...]) -> int:
        return options[-1]


def test_an_optuna_trial_proposes_what_is_allowed():
    assert SPACE.restrict(width=[0, 1]).suggest(Trial()) == (1, 1, 1)


REFUSED = {
    "falling options": (lambda: Choice("width", (8, 4)), "ordered options must grow"),
    "no options": (lambda: Choice("width", ()), "expected different options, at least one"),
    "equal options": (lambda: Choice("width", (4, 4)), "expected different options"),
    "no choices": (lambda: SearchSpace(), "expected different names, at least one"),
    "equal names": (lambda: SearchSpace(WIDTH, WIDTH), "expected different names"),
    "empty": (lambda: SPACE.restrict(width=[0]).restrict(width=[1]), "the space is empty: no option of width"),
    "no such option": (lambda: SearchSpace(WIDTH, allowed={"width": [7]}), "its options are 0 to 2"),
    "no such choice": (lambda: SPACE.restrict(colour=[0]), r"no choices \['colour'\]"),
    "outside": (lambda: SPACE.check((9, 0, 0)), r"architecture \(9, 0, 0\) is not in the space"),
    "no such value": (lambda: SPACE.encode({"width": 5, "depth": 1, "kind": "tanh"}), "are no options"),
    "missing value": (lambda: SPACE.encode({"width": 4}), r"no value of \['depth', 'kind'\]"),
    "short relaxation": (lambda: SPACE.check_path({"width": torch.ones(2)}), "a relaxation has weights of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_named(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        make()
