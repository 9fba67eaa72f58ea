"""The examples run and show what they say, and so does the README's section on PyTorch Geometric."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import units
from ase.calculators.emt import EMT
from support.potentials import oxide_potential

from ponita.geometry import rotate, rotation_group
from ponita.interfaces.ase import PonitaCalculator
from ponita.models import save

ROOT = Path(__file__).resolve().parents[2]
#: eV of a mode whose dynamical matrix is 1 eV/Å²/u.
ASE_ENERGY = units._hbar * 1e10 / (units._e * units._amu) ** 0.5


def load(name, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # PyG reads the source of the classes of a module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pyg_schnet(monkeypatch):
    return load("pyg_schnet", monkeypatch)


@pytest.fixture
def phonons(monkeypatch):
    return load("phonons", monkeypatch)


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


def test_phonons_of_a_checkpoint(phonons, tmp_path, capsys):
    """Acoustic modes are zero at gamma before the sum rule is imposed, since forces add up to zero."""
    save(oxide_potential(dtype=torch.float32), tmp_path / "tiny.ckpt")
    words = ["--ckpt_path", str(tmp_path / "tiny.ckpt"), "--element", "Mg", "--supercell", "2", "--no-relax"]
    found = phonons.main([*words, "--out", str(tmp_path / "phonons.png")])
    assert np.abs(found.acoustic).max() < 1e-3
    bands = 1e3 * found.bands.energies[0]
    assert bands.shape[1] == 6 and np.abs(bands).max() > 1  # two atoms in the cell of magnesium
    gamma = np.linalg.norm(found.bands.path.kpts, axis=1) < 1e-9
    assert gamma.any() and (np.sort(np.abs(bands[gamma]))[:, :3] < 0.1).all()
    assert np.trapezoid(found.density, found.energies) == pytest.approx(6, rel=0.05)
    assert (tmp_path / "phonons.png").read_bytes()[:4] == b"\x89PNG"
    assert "zero by the sum rule" in capsys.readouterr().out


def test_phonons_are_those_of_the_second_derivatives(phonons):
    """At gamma of a cell of its own, the modes are those of the Hessian that autograd finds."""
    potential = oxide_potential()
    atoms = phonons.bulk("MgO", "rocksalt", 4.2)
    found = phonons.spectrum(atoms, PonitaCalculator(potential), (1, 1, 1), points=10)
    pos, numbers = torch.tensor(atoms.positions), torch.tensor(atoms.numbers)
    cell = torch.tensor(atoms.cell.array)[None]
    edge_index, offsets = potential.neighbors(pos, None, cell)
    hessian = torch.autograd.functional.hessian(
        lambda p: potential(p, numbers, edge_index, cell=cell, offsets=offsets).sum(), pos
    )
    mass = np.repeat(atoms.get_masses() ** -0.5, 3)
    squares = np.linalg.eigvalsh(hessian.reshape(6, 6).numpy() * np.outer(mass, mass))
    expected = phonons.MILLI * np.sign(squares) * np.sqrt(np.abs(squares)) * ASE_ENERGY
    optical = phonons.MILLI * found.bands.energies[0, 0]
    np.testing.assert_allclose(np.sort(optical), np.sort(expected), rtol=1e-3, atol=1e-2)


def test_a_crystal_is_relaxed_before(phonons):
    atoms = phonons.bulk("Cu", a=3.7)
    atoms.calc = EMT()
    phonons.relax(atoms)
    assert np.abs(atoms.get_stress()).max() < 1e-4 and atoms.cell.lengths()[0] == pytest.approx(2.54, abs=0.01)
    atoms.set_cell(atoms.cell * 1.05, scale_atoms=True)
    with pytest.raises(ValueError, match="not relaxed after 1 steps"):
        phonons.relax(atoms, steps=1)


def test_readme_section_on_pytorch_geometric():
    section = (ROOT / "README.md").read_text().split("### In a PyTorch Geometric model")[1]
    (block,) = re.findall(r"```python\n(.*?)```", section.split("\n#")[0], re.DOTALL)
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["scalars"].shape == (14, 1) and names["vectors"].shape == (14, 1, 3)
