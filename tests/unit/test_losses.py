"""Losses of potentials: weighted means over the labels that are known."""

import pytest
import torch

from ponita.models import EnergyForces, EnergyForcesStress
from ponita.training import LossWeights, energy_force_loss

GENERATOR = torch.Generator().manual_seed(0)
SIZES = torch.tensor([2, 3])
NAN = float("nan")


def random(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def labels():
    return EnergyForcesStress(random(2), random(5, 3), random(2, 3, 3))


def test_terms_are_mean_squares_in_units_of_the_scale():
    predicted, target, scale = labels(), labels(), torch.tensor(2.0)
    weights = LossWeights(energy=0.3, forces=0.5, stress=7.0, energy_per_atom=True)
    losses = energy_force_loss(predicted, target, scale, weights, SIZES)
    error = [(p - t) / 2 for p, t in zip(predicted, target, strict=True)]
    expected = {
        "energy": (error[0] / SIZES).square().mean(),
        "forces": error[1].square().mean(),
        "stress": error[2].square().mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    torch.testing.assert_close(
        losses["loss"], 0.3 * expected["energy"] + 0.5 * expected["forces"] + 7 * expected["stress"]
    )
    whole = energy_force_loss(EnergyForces(*predicted[:2]), target, scale, LossWeights(energy=1.0))
    assert "stress" not in whole
    torch.testing.assert_close(whole["energy"], error[0].square().mean())


def test_missing_labels_change_neither_the_loss_nor_its_gradient():
    predicted = EnergyForcesStress(*(value.requires_grad_() for value in labels()))
    known, target = labels(), labels()
    target = EnergyForcesStress(*(value.clone() for value in known))
    target.energy[1], target.forces[2:], target.stress[0] = NAN, NAN, NAN
    weights, scale = LossWeights(1.0, 1.0, 1.0), torch.tensor(1.0)
    losses = energy_force_loss(predicted, target, scale, weights)
    torch.testing.assert_close(losses["energy"], (predicted.energy[0] - known.energy[0]).square())
    torch.testing.assert_close(losses["forces"], (predicted.forces[:2] - known.forces[:2]).square().mean())
    torch.testing.assert_close(losses["stress"], (predicted.stress[1] - known.stress[1]).square().mean())
    gradients = torch.autograd.grad(losses["loss"], predicted)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert not gradients[0][1] and not gradients[1][2:].any() and not gradients[2][0].any()
    none = EnergyForces(torch.full((2,), NAN), torch.full((5, 3), NAN))
    assert float(energy_force_loss(predicted, none, scale, weights)["loss"].detach()) == 0


def test_a_nan_that_is_predicted_is_not_hidden():
    predicted, target = labels(), labels()
    predicted.forces[0, 0] = NAN
    assert energy_force_loss(predicted, target, torch.tensor(1.0), LossWeights())["loss"].isnan()


def test_energies_per_atom_need_numbers_of_atoms():
    with pytest.raises(ValueError, match=r"energy_per_atom=True needs num_atoms \[G\]"):
        energy_force_loss(labels(), labels(), torch.tensor(1.0), LossWeights(energy_per_atom=True))


def test_the_weight_of_energies_grows_evenly_in_its_logarithm():
    weights = LossWeights(energy=0.5, forces=2.0, stress=3.0, energy_growth=16.0)
    assert [weights.at(part).energy for part in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.5, 1.0, 2.0, 8.0])
    assert weights.at(0.5).at(0.5) == weights.at(0.5)
    assert (weights.at(1.0).forces, weights.at(1.0).stress) == (2.0, 3.0)
    assert LossWeights().at(0.7) == LossWeights()
    with pytest.raises(ValueError, match=r"energy_growth=0\.0; expected a positive factor"):
        LossWeights(energy_growth=0.0)
