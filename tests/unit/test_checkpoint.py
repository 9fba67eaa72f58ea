import copy
import pickle
import subprocess
import sys

import pytest
import torch
from support.graphs import random_graph, small_ponita

from ponita.geometry import random_rotations, rotate
from ponita.models import Potential, load, save


def small_potential():
    channels = {"in_channels": 2, "in_vector_channels": 0, "out_channels": 1, "out_vector_channels": 0}
    potential = Potential(small_ponita(torch.float32, **channels), elements=[1, 6], self_loops=False)
    potential.set_normalization(-17617.7290001, 1.3)
    return potential


def test_a_network_comes_back_whole_also_on_another_grid(tmp_path, graph):
    model = small_ponita(cutoff=3.0, layer_scale=0.5, readouts="last")
    model.set_grid(rotate(model.grid, random_rotations(1, dtype=torch.float64)[0])[:9])
    save(model, tmp_path / "model.pt")
    again = load(tmp_path / "model.pt")
    assert again.config == model.config and again.dtype == torch.float64 and not again.stores_pairs
    for a, b in zip(model(**graph), again(**graph), strict=True):
        assert torch.equal(a, b)


def test_a_network_can_be_copied_and_pickled(graph):
    model = small_ponita(kernel="spline", cutoff=3.0, lattice=(8, 6)).requires_grad_(False)
    expected = model(**graph)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(**graph).scalars, expected.scalars)


def test_a_potential_comes_back_in_a_fresh_process(tmp_path):
    potential = small_potential()
    save(potential, tmp_path / "potential.pt")
    pos = torch.randn(4, 3)
    torch.save(pos, tmp_path / "pos.pt")
    code = (
        "import torch, ponita.models as m; p = m.load('potential.pt');"
        "print(repr(p(torch.load('pos.pt'), torch.tensor([1, 6, 1, 6])).item()), p.self_loops, float(p.scale))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    energy, loops, scale = result.stdout.split()
    assert float(energy) == potential(pos, torch.tensor([1, 6, 1, 6])).item()
    assert loops == "False" and float(scale) == 1.3


def test_files_load_with_weights_only_and_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    save(small_ponita(), path)
    assert torch.load(path, weights_only=True)["ponita"]["class"] == "Ponita"
    before = path.read_bytes()

    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        save(small_ponita(), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_bad_files_are_explained(tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load(path)
    save(small_ponita(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated or not a checkpoint"):
        load(path)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="truncated or not a checkpoint"):
        load(path)
    torch.save({"state_dict": {"a": torch.ones(1)}}, path)
    with pytest.raises(ValueError, match=r"no description of the model. For weights of the reference code"):
        load(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="expected a dictionary with a 'state_dict'"):
        load(path)


def test_a_checkpoint_of_another_architecture_is_told_apart(tmp_path):
    save(small_ponita(), tmp_path / "model.pt")
    payload = torch.load(tmp_path / "model.pt", weights_only=True)
    payload["ponita"]["config"]["hidden_channels"] = 16
    torch.save(payload, tmp_path / "model.pt")
    with pytest.raises(
        ValueError, match=r"another architecture: .*\[10, 8\] in the checkpoint, \[10, 16\] in the model"
    ):
        load(tmp_path / "model.pt")
    payload["ponita"]["version"] = 99
    torch.save(payload, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"has format 99.*Update the package"):
        load(tmp_path / "model.pt")


def test_only_models_are_saved(tmp_path):
    with pytest.raises(ValueError, match="cannot save a Linear"):
        save(torch.nn.Linear(1, 1), tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())


def test_grid_stays_float64_when_the_model_is_converted():
    model = small_ponita().float()
    assert model.dtype == torch.float32 and model.grid.dtype == torch.float64
    inputs = random_graph((4,), dtype=torch.float32)
    assert model(**inputs).scalars.dtype == torch.float32
