"""The interface of torch-sim: the numbers of the calculator, for many structures at once.

Where torch-sim is installed its own check is run too; elsewhere its base class is replaced by one with the same name.
"""

import importlib
import sys
import warnings
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from support.potentials import oxide, oxide_potential

from ponita.interfaces.ase import PonitaCalculator
from ponita.models.element_index import ElementIndex

HAS_TORCH_SIM = find_spec("torch_sim") is not None
if HAS_TORCH_SIM:  # before a fixture replaces torch.empty, which its scripts cannot be compiled with
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("torch_sim")


@pytest.fixture
def torchsim(monkeypatch):
    """The module, imported for one test."""
    if not HAS_TORCH_SIM:
        for name in ("torch_sim", "torch_sim.models", "torch_sim.models.interface"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        sys.modules["torch_sim.models.interface"].ModelInterface = type("ModelInterface", (torch.nn.Module,), {})
    monkeypatch.delitem(sys.modules, "ponita.interfaces.torchsim", raising=False)
    module = importlib.import_module("ponita.interfaces.torchsim")
    yield module
    sys.modules.pop("ponita.interfaces.torchsim", None)


def state_of(structures, pbc=True, dtype=torch.float64):
    """A state as torch-sim makes it: cell vectors are columns."""
    sizes = torch.tensor([len(a) for a in structures])
    return SimpleNamespace(
        positions=torch.tensor(np.concatenate([a.positions for a in structures]), dtype=dtype),
        cell=torch.tensor(np.stack([a.cell.array.T for a in structures]), dtype=dtype),
        atomic_numbers=torch.tensor(np.concatenate([a.numbers for a in structures])),
        system_idx=torch.repeat_interleave(torch.arange(len(structures)), sizes),
        pbc=pbc,
    )


def assert_same(output, structures, potential):
    start = 0
    for number, atoms in enumerate(structures):
        atoms.calc = PonitaCalculator(potential)
        assert abs(float(output["energy"][number]) - atoms.get_potential_energy()) < 1e-9
        forces = output["forces"][start : start + len(atoms)]
        np.testing.assert_allclose(forces, atoms.get_forces(), rtol=0, atol=1e-9)
        if atoms.pbc.any():
            np.testing.assert_allclose(output["stress"][number], atoms.get_stress(voigt=False), rtol=0, atol=1e-9)
        start += len(atoms)


@pytest.mark.parametrize("pbc", [True, torch.tensor([True, True, False]), False], ids=["crystal", "slab", "molecule"])
def test_numbers_are_those_of_the_calculator(torchsim, pbc):
    periodic = torch.as_tensor(pbc).expand(3).tolist()
    structures = [oxide(pbc=periodic), oxide(pbc=periodic, repeat=2)]
    potential = oxide_potential()
    model = torchsim.PonitaTorchSim(potential)
    state = state_of(structures, pbc)
    output = model(state)
    assert output["energy"].shape == (2,) and output["stress"].shape == (2, 3, 3)
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float64) if HAS_TORCH_SIM else True
    assert_same(output, structures, potential)
    assert bool(output["stress"].abs().max() > 0) is any(periodic)
    assert_same(model(vars(state)), structures, potential)


def test_slabs_without_a_third_cell_vector_have_forces_and_no_stress(torchsim):
    slab = oxide(pbc=(True, True, False))
    state = state_of([slab], slab.pbc.tolist())
    expected = torchsim.PonitaTorchSim(oxide_potential())(state)["forces"]
    state.cell[:, :, 2] = 0
    output = torchsim.PonitaTorchSim(oxide_potential())(state)
    torch.testing.assert_close(output["forces"], expected, rtol=0, atol=1e-9)
    assert float(output["stress"].abs().max()) == 0


def test_what_is_not_wanted_is_not_computed(torchsim):
    model = torchsim.PonitaTorchSim(oxide_potential(), compute_stress=False, dtype=torch.float32)
    state = state_of([oxide()], dtype=torch.float32)
    assert model(state).keys() == {"energy", "forces"} and model(state)["energy"].dtype == torch.float32
    model.compute_forces = False
    assert model(state).keys() == {"energy"}
    model.compute_stress = True
    assert model(state).keys() == {"energy", "stress"} and model.compute_stress and not model.compute_forces


def test_unknown_elements_and_missing_packages_are_named(torchsim, monkeypatch):
    state = state_of([oxide()])
    state.atomic_numbers[1] = 26
    with pytest.raises(ValueError, match=r"atomic numbers \[26\] are unknown"):
        torchsim.PonitaTorchSim(oxide_potential())(state)
    monkeypatch.setitem(sys.modules, "torch_sim.models.interface", None)
    monkeypatch.delitem(sys.modules, "ponita.interfaces.torchsim")
    with pytest.raises(ImportError, match="pip install torch-sim-atomistic"):
        importlib.import_module("ponita.interfaces.torchsim")


@pytest.mark.skipif(not HAS_TORCH_SIM, reason="torch-sim is not installed")
def test_torch_sim_accepts_the_model(torchsim):
    from torch_sim.models.interface import validate_model_outputs

    potential = oxide_potential()
    potential.element_of = ElementIndex((14, 26), "potential")
    potential.elements = potential.element_of.elements
    model = torchsim.PonitaTorchSim(potential)
    validate_model_outputs(model, model.device, model.dtype)  # raises where something is wrong
    assert model.compute_forces and model.compute_stress
