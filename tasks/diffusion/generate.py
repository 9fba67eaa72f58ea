"""Molecules made by a trained network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ponita.data.molecules import Molecules, make_molecules
from ponita.models import Ponita
from ponita.tasks.graphs import complete_graph, place
from ponita.training.diffusion import (
    Churn,
    Fragment,
    Graphs,
    Recipe,
    denoise,
    dpm,
    draw_noise,
    guided,
    heun,
    heun_churn,
    karras_schedule,
    project_positions,
)

SAMPLERS = ("heun", "heun_churn", "dpm")
MEMORY = 1e9  # bytes that a batch takes, about


@dataclass(frozen=True)
class Sampling:
    """How to sample.

    Attributes:
        sampler: "heun": second order without noise, two evaluations a step; "heun_churn": with noise added before each
            step; "dpm": one evaluation a step, for few of them.
        steps: noise levels.
        sigma_min: lowest level above zero.
        sigma_max: level of the start, in Å for positions.
        rho: how much steps shorten towards low noise.
        churn: noise of "heun_churn".
        guidance: 1 for the condition as it was trained, more to follow it more closely.

    Raises:
        ValueError: for a sampler that does not exist.
    """

    sampler: str = "heun_churn"
    steps: int = 100
    sigma_min: float = 0.002
    sigma_max: float = 5.0
    rho: float = 7.0
    churn: Churn = field(default_factory=Churn)
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler={self.sampler!r}; expected one of {list(SAMPLERS)}.")
        self.schedule()

    def schedule(self) -> Tensor:
        """[steps + 1] noise levels."""
        return karras_schedule(self.steps, self.sigma_min, self.sigma_max, self.rho)


class Generator:
    """A network with its recipe, frozen: makes molecules.

    Args:
        network: the trained network.
        recipe: it was trained with.
        self_loops: whether its graphs have the edges i->i.
    """

    def __init__(self, network: Ponita, recipe: Recipe, self_loops: bool = True) -> None:
        self.network, self.recipe, self.self_loops = network, recipe, self_loops

    @torch.no_grad()
    def sample(
        self,
        sizes: Tensor,
        sampling: Sampling,
        generator: torch.Generator,
        value: float | None = None,
        fragment: Molecules | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Molecules:
        """Make a batch of molecules.

        Args:
            sizes: [G] atoms of each.
            sampling: how.
            generator: source of randomness, on the CPU.
            value: of the property; None for no condition.
            fragment: one molecule whose atoms come first in all that are made.
            progress: called after each step.

        Raises:
            ValueError: for a condition that the network was not trained with, a fragment with more atoms than a molecule,
                or results that are not finite.
        """
        graphs = self._graphs(sizes)
        state = self.run(graphs, sampling, generator, self._values(value, len(sizes)), fragment, progress)
        if not state.isfinite().all():
            raise ValueError(
                "the samples are not finite; the network diverges from these noise levels: lower sigma_max."
            )
        numbers, charges = self.recipe.code.decode(state[:, self.recipe.dim :])
        positions = state[:, : self.recipe.dim].cpu().numpy()
        return make_molecules(numbers, positions, sizes.numpy(), charges)

    def run(
        self,
        graphs: Graphs,
        sampling: Sampling,
        generator: torch.Generator,
        values: Tensor | None = None,
        fragment: Molecules | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """States [N, D] at the end; arguments as those of `sample`, `values` [G]."""
        shape = (graphs.batch.shape[0], self.recipe.width)
        noise = partial(draw_noise, shape, graphs.batch, graphs.num_graphs, generator, self.recipe.dim)
        keep = self._keep(graphs, generator, fragment)
        sigmas, function = sampling.schedule(), self._denoiser(graphs, values, sampling.guidance)
        start = noise() * float(sigmas[0])
        if sampling.sampler == "heun_churn":
            return heun_churn(function, start, sigmas, noise, sampling.churn, keep, progress)
        return {"heun": heun, "dpm": dpm}[sampling.sampler](function, start, sigmas, keep, progress)

    def _denoiser(self, graphs: Graphs, values: Tensor | None, scale: float) -> Callable[[Tensor, float], Tensor]:
        def at(given: Tensor | None) -> Callable[[Tensor, float], Tensor]:
            def function(state: Tensor, sigma: float) -> Tensor:
                level = state.new_full((graphs.num_graphs,), sigma)
                return denoise(self.network, self.recipe, state, level, graphs, given)

            return function

        return at(None) if values is None else guided(at(values), at(None), scale)

    def _keep(
        self, graphs: Graphs, generator: torch.Generator, fragment: Molecules | None
    ) -> Callable[[Tensor, float], Tensor]:
        def centred(state: Tensor, sigma: float) -> Tensor:
            return project_positions(state, graphs.batch, graphs.num_graphs, self.recipe.dim)

        if fragment is None:
            return centred
        positions = torch.from_numpy(fragment.positions).float()
        known = torch.cat([positions, self.recipe.code.encode(fragment.numbers, fragment.charges)], dim=1)
        put = Fragment(known.to(graphs.batch.device), graphs, generator, self.recipe.dim)
        return lambda state, sigma: centred(put(state, sigma), sigma)

    def _values(self, value: float | None, count: int) -> Tensor | None:
        if value is None:
            return None
        if self.recipe.condition is None:
            raise ValueError("a condition is given, but the network was trained without; train it with data condition.")
        return torch.full((count,), value, dtype=torch.float64, device=self.network.grid.device)

    def _graphs(self, sizes: Tensor) -> Graphs:
        device = self.network.grid.device
        edges = complete_graph(self.network, sizes, self.self_loops)
        return Graphs(place(edges, device), torch.repeat_interleave(sizes).to(device), len(sizes))


def batches(sizes: Tensor, batch_size: int, max_edges: int | None = None) -> Iterator[Tensor]:
    """Sizes in runs of at most so many molecules, and so many pairs of atoms.

    Args:
        sizes: [M] atoms of each molecule.
        batch_size: molecules in a batch.
        max_edges: ordered pairs of atoms in a batch, which memory goes with; one molecule is always taken.
    """
    first, limit = 0, math.inf if max_edges is None else max_edges
    while first < len(sizes):
        total = (sizes[first : first + batch_size] ** 2).cumsum(0)
        count = max(1, int((total <= limit).sum()))
        yield sizes[first : first + count]
        first += count


def largest_batch(network: Ponita, memory: float = MEMORY) -> int:
    """Ordered pairs of atoms that can be denoised at once.

    Args:
        network: that denoises.
        memory: bytes that may be used, about.
    """
    config, orientations = network.config, network.grid.shape[0]
    spline = config["kernel"] == "spline"
    numbers = 20 if spline else 2 * config["basis_channels"] + 2 * config["hidden_channels"]
    return max(1, int(memory / (4 * orientations * numbers)))
