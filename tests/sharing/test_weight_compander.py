"""Companded weights: the formula, what goes in and comes out, and the two traps of parametrisations."""

import copy
import math

import pytest
import torch
from torch import nn

from ponita import Ponita
from ponita.models import Potential, save
from ponita.nn import calibrate
from ponita.sharing.regularization import FUNCTIONS, Compander, compand, uncompand
from ponita.training import parameter_groups

POS = torch.tensor([[0.0, 0, 0], [0.9, 0.1, 0.2], [-0.2, 1.1, 0.1], [0.3, -0.4, 1.2]], dtype=torch.float64)
NUMBERS = torch.tensor([8, 1, 1, 6])


def potential(kernel: str = "spline") -> Potential:
    torch.manual_seed(3)
    sizes = {"hidden_channels": 8, "basis_channels": 12, "num_layers": 2, "num_orientations": 12, "cutoff": 3.0}
    return Potential(Ponita(3, widening=2, kernel=kernel, **sizes), [1, 6, 8]).double().eval()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_weights_go_to_latents_and_back(function):
    compander = Compander(0.7, 0.4, function).double()
    w = torch.linspace(-0.99, 0.99, 41, dtype=torch.float64) * 0.7 * FUNCTIONS[function].limit
    torch.testing.assert_close(compander(compander.right_inverse(w)), w, rtol=1e-12, atol=1e-14)
    v = torch.linspace(-1e6, 1e6, 101, dtype=torch.float64)
    assert compander(v).detach().abs().max() <= 0.7 * FUNCTIONS[function].limit + 1e-7  # the scale is stored in float32


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_slope_at_zero_is_the_ratio_of_the_scales(function):
    compander, v = Compander(0.8, 0.4, function).double(), torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(compander(v).sum(), v)
    assert slope.item() == pytest.approx(2.0)


def test_a_small_step_of_the_latent_moves_the_weight_as_derived():
    """dw = -lr (a/b)² cos⁴(w/a) dL/dw for arctan."""
    a, b, lr = 0.8, 0.4, 1e-6
    compander = Compander(a, b, learn=False).double()
    for w in (0.0, 0.3, 0.9):
        v = compander.right_inverse(torch.tensor(w, dtype=torch.float64)).requires_grad_()
        (gradient,) = torch.autograd.grad(compander(v), v)
        moved = compander(v - lr * gradient) - compander(v)
        assert moved.item() == pytest.approx(-lr * (a / b) ** 2 * math.cos(w / a) ** 4, rel=1e-4)


@pytest.mark.parametrize("kernel", ["spline", "mlp", "fused"])
def test_a_companded_potential_is_the_same_function_and_trains(kernel):
    plain, model = potential(kernel), potential(kernel)
    names = compand(model)
    assert len(names) == 8 and all("readout" not in name for name in names)
    before, after = plain.energy_forces(POS, NUMBERS), model.energy_forces(POS, NUMBERS)
    torch.testing.assert_close(after.energy, before.energy, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(after.forces, before.forces, rtol=0, atol=1e-10)
    with torch.no_grad():
        model(POS, NUMBERS)
        for name, parameter in model.named_parameters():
            if name.endswith("weight.original"):
                parameter *= 1.1
        assert (model(POS, NUMBERS) - before.energy).abs() > 1e-3


def test_forces_are_the_gradient_of_a_companded_energy():
    model, step = potential(), 1e-5
    compand(model, ratio=2.0, function="tanh")
    direction = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    slope = (model(POS + step * direction, NUMBERS) - model(POS - step * direction, NUMBERS)) / (2 * step)
    exact = -(model.energy_forces(POS, NUMBERS).forces * direction).sum()
    torch.testing.assert_close(slope[0], exact, rtol=1e-6, atol=1e-8)


def test_taking_it_out_bakes_the_weights_in_and_leaves_no_trace():
    model, keys = potential(), list(potential().state_dict())
    compand(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05
    before = model(POS, NUMBERS)
    uncompand(model)
    assert list(model.state_dict()) == keys
    assert all(type(module) is not nn.Linear or isinstance(module.weight, nn.Parameter) for module in model.modules())
    torch.testing.assert_close(model(POS, NUMBERS), before, rtol=0, atol=1e-12)


def test_taking_it_out_of_a_copy_leaves_the_original_as_it_is():
    model = potential()
    compand(model)
    before = model(POS, NUMBERS)
    twin = copy.deepcopy(model)
    uncompand(twin)
    torch.testing.assert_close(twin(POS, NUMBERS), before, rtol=0, atol=1e-12)
    assert torch.equal(model(POS, NUMBERS), before)
    uncompand(model)
    torch.testing.assert_close(model(POS, NUMBERS), before, rtol=0, atol=1e-12)


def test_scales_train_without_decay_and_can_be_kept():
    model = potential()
    compand(model)
    decayed, free = parameter_groups(model, 0.1)
    scales = {id(p) for name, p in model.named_parameters() if "log_" in name}
    assert len(scales) == 16
    assert scales <= {id(p) for p in free["params"]} and not scales & {id(p) for p in decayed["params"]}
    model = potential()
    compand(model, learn=False)
    assert not [name for name, _ in model.named_parameters() if "log_" in name]


def test_no_weight_is_cut_off_at_the_start():
    model = potential()
    weights = [m.weight.detach().clone() for m in model.modules() if type(m) is nn.Linear]
    compand(model, pattern=r".*(kernel|linear_[12]|linear|embedding)")
    found = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    for before, after in zip(weights, found, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-12)


REFUSED = {
    "pattern": (lambda m: compand(m, "nothing"), "matches no module of Potential"),
    "function": (lambda m: compand(m, function="relu"), r"function='relu'; expected one of"),
    "ratio": (lambda m: compand(m, ratio=0), "expected ratio > 0"),
    "bound": (lambda m: compand(m, bound=0.9), "a bound above the largest weight"),
    "kind": (lambda m: compand(m, r".*norm"), "only plain linear layers"),
    "twice": (lambda m: [compand(m), compand(m)], r"already; call uncompand"),
    "nothing to take out": (uncompand, "there is nothing to take out"),
    "calibration": (lambda m: [compand(m), calibrate(m, {"pos": POS, "numbers": NUMBERS})], "Calibrate first"),
    "saving": (lambda m: [compand(m), save(m, "never.pt")], "remove the parametrisation"),
    "zero": (lambda m: [m.network.blocks[0].linear_1.weight.data.zero_(), compand(m)], "above zero"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_requests_are_refused(case):
    ask, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        ask(potential())


def regression(ratio: float | None, seed: int, steps: int = 400) -> tuple[float, float, float]:
    """Test error, largest weight, and share of weights near zero of a network fitted to 60 noisy points."""
    generator = torch.Generator().manual_seed(seed)
    x, held_out = (torch.rand(n, 4, generator=generator) * 2 - 1 for n in (60, 500))

    def truth(x):
        return torch.sin(3 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]

    y = truth(x) + 0.3 * torch.randn(60, 1, generator=generator)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
    if ratio is not None:
        compand(model, r"[02]", ratio=ratio, learn=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    model.requires_grad_(False)
    weights = torch.cat([model[k].weight.detach().flatten() for k in (0, 2)])
    error = nn.functional.mse_loss(model(held_out), truth(held_out)).item()
    return error, float(model[2].weight.abs().max()), float((weights.abs() < 0.01).float().mean())


def test_companding_lowers_the_largest_weight_and_the_share_near_zero():
    plain, companded = (torch.tensor([regression(ratio, seed) for seed in range(4)]).mean(0) for ratio in (None, 2.0))
    assert companded[1] < 0.9 * plain[1]
    assert companded[2] < plain[2]
    assert companded[0] < 1.05 * plain[0]
