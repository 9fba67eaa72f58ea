"""Labels of QM9: which may train, in which units, and what free atoms have."""

from dataclasses import replace

import numpy as np
import pytest
from support.labelled_molecules import ATOMS, ELEMENTS, write_qm9

from ponita.data.molecules import Molecules
from ponita.data.qm9 import QM9, load_qm9
from ponita.data.qm9_labels import LabelSplit, composition, split_labels, target_values
from ponita.data.qm9_targets import TARGETS, find_target, free_atoms
from ponita.data.units import HARTREE


@pytest.fixture
def arrays(tmp_path):
    return write_qm9(tmp_path)


@pytest.fixture
def data(arrays, tmp_path):
    return load_qm9(tmp_path)


def as_sets(parts):
    return {name: set(part.rows.tolist()) for name, part in parts.items()}


def test_labels_that_may_only_test_never_train(data, arrays):
    for targets in (["U0"], ["U0", "gap"], ["gap", "U0", "dipole"]):
        parts = split_labels(data, targets, LabelSplit(num_valid=5))
        rows = as_sets(parts)
        held = set(np.flatnonzero(np.isfinite(arrays["test_U0"])).tolist())
        assert not rows["train"] & held
        assert rows["valid"] | rows["test"] == held and not rows["valid"] & rows["test"] and len(rows["valid"]) == 5
        place = [name for name in targets if name != "dipole"].index("U0")
        train = parts["train"]
        np.testing.assert_allclose(train.scalars[:, place], HARTREE * arrays["train_U0"][train.rows])
        np.testing.assert_allclose(parts["test"].scalars[:, place], HARTREE * arrays["test_U0"][parts["test"].rows])


def test_every_molecule_of_a_part_has_a_label_and_missing_ones_are_nan(data, arrays):
    train = split_labels(data, ["U0", "gap"], LabelSplit())["train"]
    known = np.isfinite(train.scalars)
    assert known.any(1).all() and not known.all(0).any()
    np.testing.assert_allclose(train.scalars[:, 1], HARTREE * arrays["gap"][train.rows])


def test_labels_without_a_prefix_are_split_by_the_seed(data, arrays):
    split = LabelSplit(num_valid=4, num_test=7)
    first, again = (as_sets(split_labels(data, ["gap"], split)) for _ in range(2))
    other = as_sets(split_labels(data, ["gap"], replace(split, seed=1)))
    assert first == again and all(first[name] != other[name] for name in first)
    assert [len(first[name]) for name in ("train", "valid", "test")] == [29, 4, 7]
    assert set.union(*first.values()) == set(np.flatnonzero(np.isfinite(arrays["gap"])).tolist())
    tenth = split_labels(data, ["gap"], LabelSplit())
    assert [len(tenth[name].rows) for name in ("valid", "test")] == [4, 4]
    fewer = split_labels(data, ["gap"], replace(split, num_train=3))
    assert len(fewer["train"].rows) == 3 and as_sets(fewer)["test"] == first["test"]


def test_dipoles_are_vectors_in_debye(data, arrays):
    test = split_labels(data, ["dipole"], LabelSplit())["test"]
    assert test.scalars.shape == (3, 0) and test.vectors.shape == (3, 1, 3)
    np.testing.assert_allclose(test.vectors[:, 0], 2.541746473 * arrays["mp2_dipole_au"][test.rows])


def test_energies_of_pytorch_geometric_are_atomisation_energies_and_free_atoms():
    molecules = Molecules.from_list([[6, 1, 1, 1, 1], [8, 1, 1]], [np.zeros((5, 3)), np.zeros((3, 3))])
    # Methane and water, the published file: total energies in hartree, atomisation energies in kcal/mol.
    labels = {"U0": np.array([-40.0, -76.0]), "u0_atom": np.array([-395.999594594, -213.087624414])}
    data = QM9(molecules, np.array([1, 3]), labels, "processed/data_v3.pt")
    np.testing.assert_allclose(target_values(data, "U0") / HARTREE, [-40.47893, -76.404702], atol=1e-6)


def test_the_published_split_is_taken_where_the_labels_allow_it(data, monkeypatch):
    rows = {"train": np.arange(20), "valid": np.arange(20, 30), "test": np.arange(30, 60)}
    monkeypatch.setattr("ponita.data.qm9_labels.split_qm9", lambda data, published, root: dict(rows))
    known = np.isfinite(data.labels["gap"])
    for given, split in ((data, LabelSplit("published")), (replace(data, source="gdb9.sdf"), LabelSplit())):
        parts = as_sets(split_labels(given, ["gap"], split))
        assert parts == {name: set(chosen[known[chosen]].tolist()) for name, chosen in rows.items()}
    with pytest.raises(ValueError, match="may only train"):
        split_labels(data, ["U0"], LabelSplit("published"))


def test_units_go_there_and_back():
    assert TARGETS["gap"].factor == pytest.approx(27.211386, abs=1e-6) and TARGETS["gap"].shown == "meV"
    for name in ("homo", "lumo", "gap", "zpve", "U0", "U", "H", "G"):
        target = find_target(name)
        assert (target.unit, target.shown) == ("eV", "meV")
        assert target.factor * target.per_unit == pytest.approx(27211.386, abs=1e-3)
    assert {name: TARGETS[name].shown for name in ("mu", "alpha", "r2", "Cv")} == {
        **{"mu": "D", "alpha": "a0³", "r2": "a0²", "Cv": "cal/mol/K"}
    }
    assert len(TARGETS) == 13
    np.testing.assert_allclose(free_atoms("U0", [6, 1]), [-1029.8631, -13.6131], atol=1e-4)
    np.testing.assert_allclose(free_atoms("Cv", [1, 9]), 2.981)
    assert not free_atoms("alpha", [1, 6]).any() and not free_atoms("zpve", [1, 6]).any()


def test_compositions_count_atoms(data, arrays):
    counts = composition(data.molecules, (8, 1, 6, 7))
    energies = counts[:, [1, 2, 3, 0]] @ ATOMS
    half = len(data) // 2
    np.testing.assert_allclose(energies[:half], arrays["train_U0"][:half])
    with pytest.raises(ValueError, match=r"atomic numbers \[8\], which are not among the elements \[1, 6, 7\]"):
        composition(data.molecules, ELEMENTS[:3])


@pytest.mark.parametrize(
    ("targets", "split", "message"),
    [
        (["Gap"], {}, "target 'Gap' is unknown.*did you mean 'gap'"),
        (["gap", "gap"], {}, "expected different names"),
        ([], {}, "expected different names, at least one"),
        (["alpha"], {}, "no labels to train and to test 'alpha'.*no column alpha, train_alpha, test_alpha"),
        (["r2"], {}, "no column r2, train_r2[.].*source=pyg"),
        (["gap"], {"num_valid": 20, "num_test": 20}, "leaves no molecules for train"),
        (["U0"], {"num_valid": 20}, "leaves no molecules for test"),
        (["gap"], {"num_train": 0}, "split.num_train=0"),
        (["gap"], {"kind": "scaffold"}, "split.kind='scaffold'"),
    ],
)
def test_mistakes_are_named(data, targets, split, message):
    with pytest.raises(ValueError, match=message):
        split_labels(data, targets, LabelSplit(**split))


def test_the_source_can_be_chosen(tmp_path, data):
    assert len(load_qm9(tmp_path, "npz")) == 60
    with pytest.raises(FileNotFoundError, match=r"and no raw/gdb9\.sdf"):
        load_qm9(tmp_path, "pyg")
    with pytest.raises(FileNotFoundError, match=r"no qm9\.npz in"):
        load_qm9(tmp_path / "elsewhere", "npz")
    with pytest.raises(ValueError, match="source='sdf'"):
        load_qm9(tmp_path, "sdf")
