"""Which structures train, validate and test: every structure once, whole groups on one side."""

import numpy as np
import pytest

from ponita.data import Split

GROUP = np.array(["a", "b", "b", "c", "c", "c", "d", "d", "d", "d"])


def parts(**options):
    rows = Split(**options).rows(GROUP)
    together = np.concatenate(list(rows.values()))
    assert sorted(together) == list(range(10))  # every structure in one part
    return {name: part.tolist() for name, part in rows.items()}


def test_fractions_and_numbers_are_drawn_by_the_seed_alone():
    first = parts(valid=0.2, test=3)
    assert {name: len(part) for name, part in first.items()} == {"train": 5, "valid": 2, "test": 3}
    assert first == parts(valid=0.2, test=3) != parts(valid=0.2, test=3, seed=1)
    assert parts() == {"train": list(range(10)), "valid": [], "test": []}
    assert len(parts(valid=0.01)["valid"]) == 1


def test_whole_groups_are_on_one_side():
    for seed in range(5):
        drawn = parts(valid=0.25, test=1, by="group", seed=seed)
        sides = [{GROUP[row] for row in part} for part in drawn.values()]
        assert [len(side) for side in sides] == [2, 1, 1] and set.union(*sides) == set("abcd")
    named = parts(valid_groups=["d"], test_groups=["[ab]"])
    assert named == {"train": [3, 4, 5], "valid": [6, 7, 8, 9], "test": [0, 1, 2]}
    mixed = parts(valid_groups=["d"], test=0.5, by="group")
    assert mixed["valid"] == [6, 7, 8, 9] and len({GROUP[row] for row in mixed["test"]}) == 2


def test_lists_of_indices_are_given_or_read(tmp_path):
    (tmp_path / "test.txt").write_text("9\n1\n")
    assert parts(valid_indices=[0], test_indices=str(tmp_path / "test.txt")) == {
        "train": [2, 3, 4, 5, 6, 7, 8],
        "valid": [0],
        "test": [1, 9],
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "file"}, "split.by='file'; expected 'structure' or 'group'"),
        ({"valid": -1}, "split.valid=-1; expected a fraction below 1"),
        ({"valid": 10}, "split.valid=10 of 10 structures leaves none to train on"),
        ({"valid": 0.5, "test": 0.5}, "split.test=0.5 of 10 structures leaves none"),
        ({"valid": 4, "by": "group"}, "split.valid=4 of 4 groups leaves none"),
        ({"valid_groups": ["e"]}, "no group is called 'e'; there are 'a', 'b', 'c', 'd'"),
        ({"valid_groups": ["*"]}, "leaves none to train on"),
        ({"valid_indices": [10]}, "index 10 of a split is out of range; expected 0 to 9"),
        ({"valid_indices": [1, 1]}, "names a structure twice"),
        ({"valid_indices": [1], "test_groups": ["b"]}, "structure 1 is both in split.valid and split.test"),
    ],
)
def test_impossible_splits_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        Split(**options).rows(GROUP)


def test_a_split_by_group_needs_groups(tmp_path):
    with pytest.raises(ValueError, match=r"structures have no group; name its key with keys\.group"):
        Split(valid=0.5, by="group").rows(np.array(["", "a"]))
    with pytest.raises(FileNotFoundError, match="no file of indices at"):
        Split(valid_indices=str(tmp_path / "none.txt")).rows(GROUP)
    (tmp_path / "words.txt").write_text("one two")
    with pytest.raises(ValueError, match="expected one whole number a line"):
        Split(valid_indices=str(tmp_path / "words.txt")).rows(GROUP)
