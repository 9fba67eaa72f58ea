"""Small potentials, and equality to the last bit, for tests of continual learning."""

from __future__ import annotations

from typing import Any

import torch

from ponita.models import Ponita, Potential
from ponita.tasks.continual.learners import Recipe

NETWORK = {
    "hidden_channels": 8, "basis_channels": 8, "num_layers": 2, "num_orientations": 6, "widening": 2,
    "kernel": "spline", "cutoff": 5.0, "lattice": [8, 8],
}  # fmt: skip
ELEMENTS = [1, 6, 8]
RECIPE = Recipe(density=0.3, score_share=0.5, lr=5e-3, score_lr=1e-2, weight_lr=2e-3, seed=0)


def fresh() -> Potential:
    """The same every time."""
    torch.manual_seed(0)
    return Potential(Ponita(len(ELEMENTS), **NETWORK), ELEMENTS, self_loops=False)


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Equal in every entry, and tensors in every bit."""
    if isinstance(expected, dict | list | tuple):
        keys = expected.keys() if isinstance(expected, dict) else range(len(expected))
        assert len(found) == len(expected), where
        for key in keys:
            assert_same(found[key], expected[key], f"{where}/{key}")
    else:
        same = torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected
        assert same, where
