"""Diffusion: preconditioning, noise levels, samplers against the closed form of Gaussian data, guidance, fragments."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from ponita.training.diffusion import (
    AtomCode,
    Churn,
    Fragment,
    Graphs,
    NoiseLevels,
    Preconditioning,
    Property,
    Recipe,
    SizeHistogram,
    denoising_loss,
    dpm,
    draw_noise,
    graph_mean,
    guided,
    heun,
    heun_churn,
    karras_schedule,
    mean_free,
    project_positions,
)

SIGMAS = torch.tensor([0.01, 0.3, 1.0, 4.0, 50.0], dtype=torch.float64)
BATCH = torch.tensor([0, 0, 0, 1, 1])


def gaussian(variance):
    """The ideal denoiser of normal data: E[y | z] = z variance / (variance + sigma²)."""
    return lambda state, sigma: state * variance / (variance + sigma**2)


def exact(start, variance, sigma_max):
    """Where the flow from noise to normal data takes a point: z(0) = z(s) sqrt(variance / (variance + s²))."""
    return start * math.sqrt(variance / (variance + sigma_max**2))


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 1.4])
def test_input_and_target_of_the_network_have_unit_variance(sigma_data):
    p = Preconditioning(sigma_data)
    variance_in = p.c_in(SIGMAS) ** 2 * (sigma_data**2 + SIGMAS**2)
    # The target (y - c_skip (y + s n)) / c_out, of independent y and n.
    variance_out = ((1 - p.c_skip(SIGMAS)) ** 2 * sigma_data**2 + (p.c_skip(SIGMAS) * SIGMAS) ** 2) / p.c_out(
        SIGMAS
    ) ** 2
    assert torch.allclose(variance_in, torch.ones_like(SIGMAS))
    assert torch.allclose(variance_out, torch.ones_like(SIGMAS))
    assert torch.allclose(p.weight(SIGMAS) * p.c_out(SIGMAS) ** 2, torch.ones_like(SIGMAS))
    assert torch.allclose(p.c_noise(SIGMAS), SIGMAS.log() / 4)


def test_the_two_forms_of_the_loss_differ_by_their_weight():
    p, generator = Preconditioning(0.7), torch.Generator().manual_seed(0)
    clean, noise, guess = (torch.randn(5, 6, generator=generator) for _ in range(3))
    sigma = torch.tensor([0.4, 2.0])
    at = sigma[BATCH][:, None]
    noisy = clean + at * noise
    eps_error = ((noisy - guess) / at - noise).square()  # of the noise that a guess of the data means
    losses = denoising_loss(guess, clean, sigma, BATCH, p, "eps", 3)
    assert torch.allclose(losses["position"], eps_error[:, :3].mean())
    assert torch.allclose(losses["loss"], eps_error[:, :3].mean() + eps_error[:, 3:].mean())
    ratio = 0.7**2 / (0.7**2 + SIGMAS**2)
    assert torch.allclose(p.weight(SIGMAS, "eps"), p.weight(SIGMAS, "x0") * ratio)
    with pytest.raises(ValueError, match="x0"):
        p.weight(SIGMAS, "v")


def test_noise_levels_are_log_normal_and_cover_the_distribution_evenly():
    levels, generator = NoiseLevels(-0.5, 0.8), torch.Generator().manual_seed(0)
    drawn = torch.stack([levels.draw(64, generator) for _ in range(50)]).double().log()
    assert abs(float(drawn.mean()) + 0.5) < 0.01
    assert abs(float(drawn.std()) - 0.8) < 0.01
    shares = torch.special.ndtr((drawn + 0.5) / 0.8) * 64
    assert not torch.equal(drawn, drawn.sort().values)
    assert torch.equal(shares.sort().values.floor(), torch.arange(64.0).double().expand(50, -1))


def test_the_schedule_falls_from_the_highest_level_to_zero():
    sigmas = karras_schedule(18, 0.002, 80.0, 7.0)
    assert sigmas.shape == (19,) and (sigmas.diff() < 0).all() and sigmas[-1] == 0
    assert sigmas[0].item() == pytest.approx(80.0) and sigmas[-2].item() == pytest.approx(0.002)
    assert (sigmas[:-1] ** (1 / 7)).diff().std() < 1e-12
    for bad in ((1, 0.1, 1.0), (5, 1.0, 0.1), (5, 0.0, 1.0)):
        with pytest.raises(ValueError):
            karras_schedule(*bad)


@pytest.mark.parametrize("sampler", [heun, dpm])
def test_samplers_are_of_second_order(sampler):
    start = torch.tensor([[3.0]], dtype=torch.float64)
    errors = []
    for n in (64, 128, 256):
        # Evenly spaced in ln s, down to a level from which the last step, of first order, adds nothing.
        sigmas = torch.cat([torch.logspace(math.log10(2.0), -4, n + 1, dtype=torch.float64), torch.zeros(1)])
        got = sampler(gaussian(0.8), start, sigmas.double())
        errors.append(float((got - exact(start, 0.8, 2.0)).abs()))
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert min(orders) > 1.8 and max(orders) < 2.4


@pytest.mark.parametrize("sampler", ["heun", "dpm", "churn"])
def test_samplers_reproduce_the_variance_of_normal_data(sampler):
    generator = torch.Generator().manual_seed(0)
    sigmas = karras_schedule(60, 0.002, 40.0)
    start = 40 * torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    if sampler == "churn":
        noise = lambda: torch.randn(start.shape, generator=generator, dtype=torch.float64)  # noqa: E731
        got = heun_churn(gaussian(0.5), start, sigmas, noise, Churn(20.0))
        assert abs(torch.corrcoef(torch.cat([start, got], 1).T)[0, 1]) < 0.5  # noise that was added counts
    else:
        got = {"heun": heun, "dpm": dpm}[sampler](gaussian(0.5), start, sigmas)
    assert abs(float(got.var()) - 0.5) < 0.02


def test_churn_stops_outside_its_levels():
    churn = Churn(amount=100.0, low=0.1, high=1.0)
    assert churn.raised(2.0, 10) == 2.0 and churn.raised(0.05, 10) == 0.05
    assert churn.raised(0.5, 10) == pytest.approx(0.5 * math.sqrt(2))
    assert Churn(1.0).raised(0.5, 10) == pytest.approx(0.55)


@pytest.mark.parametrize("sampler", ["heun", "dpm", "churn"])
def test_positions_are_mean_free_at_every_step(sampler):
    generator, means = torch.Generator().manual_seed(0), []

    def denoise(state, sigma):
        means.append(float(graph_mean(state[:, :3], BATCH, 2).abs().max()))
        return state / 2 + 0.3  # a denoiser that moves the mean

    def keep(state, sigma):
        return project_positions(state, BATCH, 2)

    def noise():
        return draw_noise((5, 7), BATCH, 2, generator)

    sigmas = karras_schedule(8, 0.01, 5.0)
    if sampler == "churn":
        got = heun_churn(denoise, 5 * noise(), sigmas, noise, Churn(), keep)
    else:
        got = {"heun": heun, "dpm": dpm}[sampler](denoise, 5 * noise(), sigmas, keep)
    assert max(means) < 1e-5 and graph_mean(got[:, :3], BATCH, 2).abs().max() < 1e-6
    assert got[:, 3:].mean().abs() > 1e-3  # features are free


def test_noise_is_standard_normal_in_the_mean_free_space():
    generator = torch.Generator().manual_seed(0)
    noise = torch.stack([draw_noise((5, 4), BATCH, 2, generator) for _ in range(4000)])
    assert graph_mean(noise[0, :, :3], BATCH, 2).abs().max() < 1e-6
    # n points have n - 1 free ones: variances 1 - 1/n.
    assert torch.allclose(noise[:, :3, :3].var(0), torch.full((3, 3), 2 / 3), atol=0.05)
    assert torch.allclose(noise[:, 3:, :3].var(0), torch.full((2, 3), 1 / 2), atol=0.05)
    assert torch.allclose(noise[:, :, 3].var(0), torch.ones(5), atol=0.1)
    values = torch.randn(5, 2)
    assert torch.allclose(mean_free(mean_free(values, BATCH, 2), BATCH, 2), mean_free(values, BATCH, 2), atol=1e-6)


def test_guidance_of_one_is_the_conditional_denoiser():
    yes, no = (lambda z, s: 2 * z), (lambda z, s: z + s)
    z = torch.randn(3, 2)
    assert torch.equal(guided(yes, no, 1.0)(z, 0.5), yes(z, 0.5))
    assert torch.equal(guided(yes, no, 0.0)(z, 0.5), no(z, 0.5))
    assert torch.allclose(guided(yes, no, 3.0)(z, 0.5), no(z, 0.5) + 3 * (yes(z, 0.5) - no(z, 0.5)))


def test_a_fragment_is_left_as_it_is_and_the_molecule_mean_free():
    known = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    graphs = Graphs(None, BATCH, 2)
    put = Fragment(known, graphs, torch.Generator().manual_seed(2))

    def keep(state, sigma):
        return project_positions(put(state, sigma), BATCH, 2)

    start = 3 * draw_noise((5, 5), BATCH, 2, torch.Generator().manual_seed(3))
    got = heun(gaussian(1.0), start, karras_schedule(10, 0.01, 3.0), keep)
    for first in (0, 3):
        assert torch.allclose(got[first, 3:], known[0, 3:]) and torch.allclose(got[first + 1, 3:], known[1, 3:])
        assert torch.allclose(got[first + 1, :3] - got[first, :3], known[1, :3] - known[0, :3], atol=1e-5)
    assert graph_mean(got[:, :3], BATCH, 2).abs().max() < 1e-6
    noisy = put(start, 0.5)
    assert not torch.allclose(noisy[1, :3] - noisy[0, :3], known[1, :3] - known[0, :3], atol=0.05)
    assert torch.equal(noisy[2], start[2])
    assert graph_mean(noisy[:, :3], BATCH, 2).abs().max() < 1e-6  # the fragment is put where it was
    with pytest.raises(ValueError, match="fragment of 3"):
        Fragment(torch.zeros(3, 5), graphs, torch.Generator())


def test_atoms_come_back_from_their_code():
    code = AtomCode(("H", "C", "O"), charges=True)
    numbers, charges = np.array([8, 1, 6]), np.array([-1, 0, 1])
    features = code.encode(numbers, charges)
    assert torch.equal(features, torch.tensor([[0, 0, 0.25, -0.125], [0.25, 0, 0, 0], [0, 0.25, 0, 0.125]]))
    back = code.decode(features + 0.05)
    assert np.array_equal(back[0], numbers) and np.array_equal(back[1], charges)
    with pytest.raises(ValueError, match=r"N among the atoms.*H, C, O"):
        code.encode(np.array([7]), np.array([0]))
    with pytest.raises(ValueError, match="charges"):
        code.encode(numbers)
    with pytest.raises(ValueError, match="different"):
        AtomCode(("H", "H"))


def test_sizes_are_drawn_as_often_as_they_were_counted():
    sizes = SizeHistogram.of([3, 5, 5, 5])
    assert dict(sizes.counts) == {3: 1, 5: 3}
    drawn = sizes.draw(4000, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {3, 5} and abs(float((drawn == 5).float().mean()) - 0.75) < 0.03
    with pytest.raises(ValueError):
        SizeHistogram({})


def test_an_unknown_property_is_said_to_be_unknown():
    label = Property.of("gap", np.array([1.0, 2.0, np.nan, 6.0]))
    assert label.mean == 3.0 and label.scale == 2.0
    assert torch.equal(label.inputs(torch.tensor([5.0, math.nan])), torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="0 training molecules"):
        Property.of("gap", np.array([np.nan]))


def test_a_recipe_comes_back_from_plain_values():
    recipe = Recipe(
        AtomCode(("H", "C"), True),
        Preconditioning(0.5),
        NoiseLevels(-1.0, 1.1),
        5,
        SizeHistogram({4: 2}),
        Property("g", 1, 2),
    )
    back = Recipe.from_dict(recipe.to_dict())
    assert back == recipe and back.width == 6 and back.in_channels(True) == 3 + 5 + 2
    with pytest.raises(ValueError, match="odd"):
        Recipe(noise_features=2)
