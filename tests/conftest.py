"""Fixtures of the whole suite."""

from __future__ import annotations

import os

import pytest
import torch
from support.graphs import random_graph

# Lightning calls parts of jsonargparse that jsonargparse has deprecated.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"


@pytest.fixture(autouse=True)
def _poison_uninitialised_memory(monkeypatch):
    """Fill what torch.empty and its kin return with NaN, so that an element nobody wrote shows."""

    def poisoned(create):
        def wrapper(*args, **kwargs):
            tensor = create(*args, **kwargs)
            is_fake = type(tensor) is not torch.Tensor
            return tensor if is_fake or not tensor.is_floating_point() else tensor.fill_(float("nan"))

        return wrapper

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    for name in ("new_empty", "new_empty_strided"):
        monkeypatch.setattr(torch.Tensor, name, poisoned(getattr(torch.Tensor, name)))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def graph():
    """Two molecules of 5 and 4 points in float64, with scalars, vectors and self-loops."""
    return random_graph((5, 4))
