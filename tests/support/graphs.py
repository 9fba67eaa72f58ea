"""Small graphs and networks for tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ponita import Ponita
from ponita.geometry import fully_connected


def random_graph(
    sizes: Sequence[int], *, scalars: int = 3, vectors: int = 2, loops: bool = True, dtype=torch.float64, seed: int = 0
) -> dict:
    """Arguments of a network for fully connected graphs of Gaussian points."""
    generator = torch.Generator().manual_seed(seed)
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    n = batch.numel()
    inputs = {
        "pos": torch.randn(n, 3, generator=generator, dtype=dtype),
        "edge_index": fully_connected(batch, loops=loops),
        "batch": batch,
    }
    if scalars:
        inputs["x"] = torch.randn(n, scalars, generator=generator, dtype=dtype)
    if vectors:
        inputs["vec"] = torch.randn(n, vectors, 3, generator=generator, dtype=dtype)
    return inputs


def small_ponita(dtype=torch.float64, **changes) -> Ponita:
    """A network for `random_graph`, with biases and norms away from their initial values."""
    arguments = {
        "in_channels": 3,
        "in_vector_channels": 2,
        "hidden_channels": 8,
        "out_channels": 2,
        "out_vector_channels": 2,
        "num_layers": 2,
        "num_orientations": 12,
        "basis_channels": 10,
        "widening": 2,
    }
    model = Ponita(**{**arguments, **changes}).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()
