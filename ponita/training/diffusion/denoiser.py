"""From a network of points to a denoiser of molecules."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ponita.geometry import EdgeSet
from ponita.models import Ponita
from ponita.training.diffusion.karras import Preconditioning
from ponita.training.diffusion.mean_free import graph_mean, mean_free
from ponita.training.diffusion.recipe import Recipe
from ponita.training.diffusion.samplers import Denoise


class Graphs(NamedTuple):
    """The graphs of a batch of molecules.

    Attributes:
        edges: all pairs of atoms of each molecule, in the form the network reads.
        batch: [N] molecule of each atom.
        num_graphs: G.
    """

    edges: EdgeSet | Tensor
    batch: Tensor
    num_graphs: int


def denoise(
    network: Ponita, recipe: Recipe, state: Tensor, sigma: Tensor, graphs: Graphs, values: Tensor | None = None
) -> Tensor:
    """Expected clean data of noisy data: equation 7 of Karras et al. 2022 around a network.

    The network sees c_in times positions and features, and functions of c_noise beside the features; where it has
    conditioning channels its kernels see c_noise too, and where it has an input vector that is c_in times the position.
    Its vector is made mean-free.

    Args:
        network: with the channels that `check_network` asks for.
        recipe: of the generator.
        state: [N, D] noisy positions (mean-free) and features.
        sigma: [G] noise levels.
        graphs: the molecules.
        values: [G] of the property, NaN where there is none to ask for; None without a condition.

    Shape:
        [N, D]
    """
    at = sigma.index_select(0, graphs.batch)[:, None]
    out = network(**network_inputs(network, recipe, state, sigma, graphs, values))
    moved = mean_free(out.vectors[:, 0], graphs.batch, graphs.num_graphs)
    raw = torch.cat([moved, out.scalars], dim=1)
    return recipe.precondition.c_skip(at) * state + recipe.precondition.c_out(at) * raw


def network_inputs(
    network: Ponita, recipe: Recipe, state: Tensor, sigma: Tensor, graphs: Graphs, values: Tensor | None = None
) -> dict[str, Any]:
    """Arguments of the network by name; arguments as those of `denoise`."""
    dim, config = recipe.dim, network.config
    scaled = recipe.precondition.c_in(sigma).index_select(0, graphs.batch)[:, None] * state
    level = recipe.precondition.c_noise(sigma)
    per_graph = [noise_inputs(level, recipe.noise_features)]
    if recipe.condition is not None:
        unknown = torch.full_like(sigma, math.nan)
        per_graph.append(recipe.condition.inputs(unknown if values is None else values).to(state))
    beside = torch.cat(per_graph, dim=1).index_select(0, graphs.batch)
    return {
        "pos": scaled[:, :dim],
        "edge_index": graphs.edges,
        "x": torch.cat([scaled[:, dim:], beside], dim=1),
        "vec": scaled[:, None, :dim] if config["in_vector_channels"] else None,
        "batch": graphs.batch,
        "num_graphs": graphs.num_graphs,
        "condition": level[:, None] if config["conditioning_channels"] else None,
    }


def noise_inputs(level: Tensor, width: int) -> Tensor:
    """c_noise, and sines and cosines of its multiples.

    Args:
        level: [G] c_noise.
        width: odd number of columns.

    Shape:
        [G, width]
    """
    multiples = torch.arange(1, width // 2 + 1, device=level.device, dtype=level.dtype)
    angles = level[:, None] * multiples * (math.pi / 2)
    return torch.cat([level[:, None], angles.sin(), angles.cos()], dim=1)


def denoising_loss(
    denoised: Tensor, clean: Tensor, sigma: Tensor, batch: Tensor, precondition: Preconditioning, form: str, dim: int
) -> dict[str, Tensor]:
    """Weighted squared error of positions and features, each a mean over its numbers (Karras et al. 2022, equation 8).

    Args:
        denoised: [N, D].
        clean: [N, D].
        sigma: [G] noise levels.
        batch: [N] graph of each point.
        precondition: gives the weights.
        form: "x0" or "eps" (see `Preconditioning.weight`).
        dim: number of coordinates.

    Returns:
        "position", "feature", and their sum "loss".
    """
    weight = precondition.weight(sigma, form).index_select(0, batch)[:, None]
    error = weight * (denoised - clean).square()
    position, feature = error[:, :dim].mean(), error[:, dim:].mean()
    return {"loss": position + feature, "position": position, "feature": feature}


def guided(with_condition: Denoise, without: Denoise, scale: float) -> Denoise:
    """Classifier-free guidance (Ho and Salimans 2022, equation 6): D_u + scale (D_c - D_u).

    Args:
        with_condition: D_c.
        without: D_u.
        scale: 0: no condition; 1: the conditional denoiser itself; above, more of what the condition changes.
    """
    if scale == 1:
        return with_condition

    def both(state: Tensor, sigma: float) -> Tensor:
        unconditional = without(state, sigma)
        return unconditional + scale * (with_condition(state, sigma) - unconditional)

    return without if scale == 0 else both


class Fragment:
    """Atoms that are known, the first ones of every molecule: the hook that samplers call puts them back, with noise.

    The known part of a state is replaced by the known atoms with fresh noise of the level (Lugmayr et al. 2022), moved
    so that the mean of these atoms stays where it is: the whole molecule stays mean-free, and the fragment is free to
    be anywhere in it.

    Args:
        known: [K, D] positions and features of the atoms.
        graphs: the molecules, each with at least K atoms.
        generator: of the noise, on the CPU.
        dim: number of coordinates.
    """

    def __init__(self, known: Tensor, graphs: Graphs, generator: torch.Generator, dim: int = 3) -> None:
        counts = torch.bincount(graphs.batch, minlength=graphs.num_graphs)
        if int(counts.min()) < len(known):
            raise ValueError(f"a molecule of {int(counts.min())} atoms cannot hold a fragment of {len(known)}.")
        first = counts.cumsum(0) - counts
        self.rows = (first[:, None] + torch.arange(len(known), device=first.device)).flatten()
        self.known = known.repeat(graphs.num_graphs, 1)
        self.graph = torch.arange(graphs.num_graphs, device=first.device).repeat_interleave(len(known))
        self.num_graphs, self.generator, self.dim = graphs.num_graphs, generator, dim

    def __call__(self, state: Tensor, sigma: float) -> Tensor:
        noise = torch.randn(self.known.shape, generator=self.generator).to(state)
        put = self.known.to(state) + sigma * noise
        here, there = (graph_mean(part[:, : self.dim], self.graph, self.num_graphs) for part in (state[self.rows], put))
        moved = torch.cat([put[:, : self.dim] + (here - there).index_select(0, self.graph), put[:, self.dim :]], dim=1)
        return state.index_copy(0, self.rows, moved)


def check_network(network: Ponita, recipe: Recipe, conditional: bool) -> None:
    """Raise ValueError unless a network has the inputs and outputs of a denoiser."""
    config = network.config
    expected = {
        "in_channels": (recipe.in_channels(conditional),),
        "in_vector_channels": (0, 1),
        "out_channels": (recipe.code.width,),
        "out_vector_channels": (1,),
        "pooling": (None,),
        "conditioning_channels": (0, 1),
    }
    for name, allowed in expected.items():
        if config[name] not in allowed:
            words = " or ".join(map(str, allowed))
            raise ValueError(f"a denoiser of these atoms needs a network with {name}={words}, not {config[name]}.")
    if network.space.dim != recipe.dim:
        raise ValueError(
            f"a denoiser of molecules needs a network in {recipe.dim} dimensions, not {network.space.name}."
        )
