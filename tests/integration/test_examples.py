"""The examples run and show what they say, and so does the README's section on PyTorch Geometric."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path

import pytest
import torch

from ponita.geometry import rotate, rotation_group

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pyg_schnet(monkeypatch):
    spec = importlib.util.spec_from_file_location("pyg_schnet", ROOT / "examples" / "pyg_schnet.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pyg_schnet", module)  # PyG reads the source of the classes of a module
    spec.loader.exec_module(module)
    return module


def test_only_the_equivariant_schnet_learns_a_vector(pyg_schnet, capsys):
    losses = pyg_schnet.main(steps=40)
    assert losses["SchNet"] > 0.9 and losses["EquivariantSchNet"] < 0.2
    printed = capsys.readouterr().out
    assert all(f"{loss:.3f}" in printed for loss in losses.values())


def test_the_conversion_is_short_and_turns_with_the_molecule(pyg_schnet):
    assert len(inspect.getsource(pyg_schnet.EquivariantSchNet).splitlines()) == 19  # README counts the transform too
    batch = pyg_schnet.molecules(2, torch.Generator().manual_seed(1))
    turned = batch.clone()
    turn = rotation_group("icosahedral")[7].float()
    turned.pos = rotate(batch.pos, turn)
    transform = pyg_schnet.PositionOrientation(num_orientations=12)
    with torch.no_grad():
        for name, holds in (("EquivariantSchNet", True), ("SchNet", False)):
            model = getattr(pyg_schnet, name)()
            expected = rotate(model(batch), turn)
            assert torch.allclose(model(transform(turned)), expected, atol=1e-5) is holds


def test_readme_section_on_pytorch_geometric():
    section = (ROOT / "README.md").read_text().split("### In a PyTorch Geometric model")[1]
    (block,) = re.findall(r"```python\n(.*?)```", section.split("\n#")[0], re.DOTALL)
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["scalars"].shape == (14, 1) and names["vectors"].shape == (14, 1, 3)
