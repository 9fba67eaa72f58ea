"""Sampling commutes with the symmetries of the grid, given the same noise."""

from __future__ import annotations

import pytest
import torch
from support.graphs import small_ponita

from ponita.geometry import fully_connected, grid_symmetry, random_rotations
from ponita.training.diffusion import (
    AtomCode,
    Churn,
    Graphs,
    Preconditioning,
    Recipe,
    denoise,
    dpm,
    heun,
    heun_churn,
    karras_schedule,
    project_positions,
)

BATCH = torch.tensor([0, 0, 0, 0, 1, 1, 1])
RECIPE = Recipe(AtomCode(("H", "C")), Preconditioning(1.2), noise_features=3)
SIGMAS = karras_schedule(6, 0.02, 4.0)


def sample(sampler, network, noise, turn):
    """States at the end, from noise whose positions are turned."""
    graphs = Graphs(fully_connected(BATCH, loops=True), BATCH, 2)
    drawn = iter([torch.cat([part[:, :3] @ turn.T, part[:, 3:]], 1) for part in noise])

    def function(state, sigma):
        return denoise(network, RECIPE, state, state.new_full((2,), sigma), graphs)

    def keep(state, sigma):
        return project_positions(state, BATCH, 2)

    start = 4 * next(drawn)
    with torch.no_grad():
        if sampler == "churn":
            return heun_churn(function, start, SIGMAS, lambda: next(drawn), Churn(3.0), keep)
        return {"heun": heun, "dpm": dpm}[sampler](function, start, SIGMAS, keep)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("heun", {"kernel": "spline", "cutoff": 12.0}),
        ("churn", {"conditioning_channels": 1}),
        ("dpm", {"kernel": "spline", "cutoff": 12.0}),
    ],
)
def test_sampling_commutes_with_the_symmetries_of_the_grid(sampler, options):
    network = small_ponita(
        in_channels=RECIPE.in_channels(False), in_vector_channels=1, out_vector_channels=1, pooling=None, **options
    )
    noise = torch.randn(8, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = sample(sampler, network, noise, torch.eye(3, dtype=torch.float64))
    rotations = grid_symmetry(12)[[1, 7, 30]]
    for turn in torch.cat([rotations, -rotations[:1]]):
        turned = sample(sampler, network, noise, turn)
        assert torch.allclose(turned[:, :3], plain[:, :3] @ turn.T, rtol=0, atol=1e-9)
        assert torch.allclose(turned[:, 3:], plain[:, 3:], rtol=0, atol=1e-9)
    # Any other rotation is not a symmetry of the grid, or the test above would show nothing.
    other = sample(sampler, network, noise, random_rotations(1, dtype=torch.float64)[0])
    assert (other[:, 3:] - plain[:, 3:]).abs().max() > 1e-6
