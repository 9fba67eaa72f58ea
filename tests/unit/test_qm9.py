"""Readers of QM9: the flat arrays, the folder of PyTorch Geometric, splits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.molecules import write_original_qm9, write_qm9

from ponita.data.qm9 import NUM_MOLECULES, load_qm9, split_qm9
from ponita.data.qm9_pyg import COLUMNS, HARTREE

HEAD = "a note\n" * 8 + "#  Index   SMILES\n"


def test_flat_arrays_with_all_labels(tmp_path):
    data = load_qm9(write_qm9(tmp_path / "qm9", copies=4))
    assert len(data) == 12 and data.molecules.counts[:3].tolist() == [5, 3, 4]
    assert data.heavy_counts().tolist() == [1] * 12
    assert data.ids.tolist() == list(range(1, 13))
    assert np.isnan(data.labels["gap"][::5]).all() and np.isfinite(data.labels["gap"][1:5]).all()
    small = data.select(max_atoms=4)
    assert set(small.molecules.counts.tolist()) == {3, 4} and small.ids.tolist() == [2, 3, 5, 6, 8, 9, 11, 12]
    assert np.array_equal(small.labels["gap"], data.labels["gap"][small.ids - 1], equal_nan=True)
    assert len(data.select(max_heavy=1)) == 12
    with pytest.raises(ValueError, match="the smallest has 3"):
        data.select(max_atoms=2)


def test_the_original_files_with_charges_and_without_the_uncharacterised(tmp_path):
    data = load_qm9(write_original_qm9(tmp_path, copies=1))
    assert data.ids.tolist() == [2, 3]
    assert data.molecules.numbers.tolist() == [8, 1, 1, 7, 1, 1, 1]
    assert data.molecules.charges.tolist() == [0, 0, 0, 1, -1, 0, 0]
    assert np.allclose(data.molecules.positions[1], [1.96, 1, 1])
    assert data.labels["A"].tolist() == [200, 300] and data.labels["u0_atom"][1] == 300 + COLUMNS.index("u0_atom")
    path = tmp_path / "raw/gdb9.sdf"
    path.write_text(path.read_text()[:-200])
    with pytest.raises(ValueError, match="download QM9 again"):
        load_qm9(tmp_path)


def test_what_pytorch_geometric_made_of_them(tmp_path):
    from torch_geometric.data import Data, InMemoryDataset

    y = torch.arange(38.0).view(2, 19)
    graphs = [
        Data(z=torch.tensor([8, 1]), pos=torch.ones(2, 3), y=y[:1], idx=0, name="gdb_1"),
        Data(z=torch.tensor([6]), pos=torch.zeros(1, 3), y=y[1:], idx=4, name="gdb_5"),
    ]
    (tmp_path / "processed").mkdir()
    InMemoryDataset.save(graphs, str(tmp_path / "processed/data_v3.pt"))
    data = load_qm9(tmp_path)
    assert data.ids.tolist() == [1, 5] and data.molecules.charges is None
    assert data.molecules.numbers.tolist() == [8, 1, 6]
    # Its order is mu, alpha, homo, ..., A, B, C, with energies in eV.
    assert data.labels["mu"].tolist() == [0, 19] and data.labels["C"].tolist() == [18, 37]
    assert np.allclose(data.labels["homo"], np.array([2, 21]) / HARTREE)
    (tmp_path / "processed/data_v3.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="process it again"):
        load_qm9(tmp_path)


def test_a_random_split_is_a_function_of_the_seed(tmp_path):
    data = load_qm9(write_qm9(tmp_path / "qm9", copies=8))
    rows = split_qm9(data, published=False, sizes=(3, 4), seed=1)
    assert [len(rows[name]) for name in ("train", "valid", "test")] == [17, 3, 4]
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(24))
    again = split_qm9(data, published=False, sizes=(3, 4), seed=1)
    assert all(np.array_equal(rows[name], again[name]) for name in rows)
    assert not np.array_equal(rows["test"], split_qm9(data, published=False, sizes=(3, 4), seed=2)["test"])
    with pytest.raises(ValueError, match="none to train on"):
        split_qm9(data, published=False, sizes=(20, 4))


def test_the_published_split_counts_all_characterised_molecules(tmp_path):
    data = load_qm9(write_qm9(tmp_path / "qm9", copies=200))
    with pytest.raises(FileNotFoundError, match=r"uncharacterized\.txt"):
        split_qm9(data, root=tmp_path)
    left_out = np.arange(2, 3 * 3054, 3)
    (tmp_path / "uncharacterized.txt").write_text(HEAD + "".join(f"{i:8d} C\n" for i in left_out))
    rows = split_qm9(data, root=tmp_path)
    order = np.random.RandomState(42).permutation(130_831)
    kept = np.setdiff1d(np.arange(1, NUM_MOLECULES + 1), left_out)
    for name, places in (("train", order[:110_000]), ("valid", order[110_000:120_000]), ("test", order[120_000:])):
        expected = np.intersect1d(kept[places], data.ids)
        assert np.array_equal(data.ids[rows[name]], expected)
    assert not np.isin(data.ids[np.concatenate(list(rows.values()))], left_out).any()


def test_a_folder_without_molecules_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"torch_geometric\.datasets\.QM9"):
        load_qm9(tmp_path)
    (tmp_path / "qm9.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="fetch it again"):
        load_qm9(tmp_path)
    np.savez(tmp_path / "qm9.npz", id=np.arange(3))
    with pytest.raises(ValueError, match="no array n_atoms, numbers, positions"):
        load_qm9(tmp_path)
