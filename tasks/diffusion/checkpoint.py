"""Generators from checkpoints of training."""

from __future__ import annotations

from pathlib import Path

import torch

from ponita.models import Ponita, load
from ponita.models.checkpoint import read_checkpoint
from ponita.tasks.diffusion.generate import Generator
from ponita.tasks.diffusion.task import RECIPE
from ponita.training.diffusion import Recipe


def load_generator(path: Path | str, device: str | torch.device = "cpu") -> Generator:
    """The generator of a checkpoint, with averaged weights where training averaged them.

    Args:
        path: of the checkpoint.
        device: to sample on.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or a checkpoint of another task.
    """
    stored = read_checkpoint(path).get(RECIPE)
    if stored is None:
        raise ValueError(
            f"{path} is not a checkpoint of the diffusion task; train a generator with ponita fit --config diffusion/quick."
        )
    network = load(path, device)
    if not isinstance(network, Ponita):
        raise ValueError(f"{path} holds a {type(network).__name__}; expected a Ponita.")
    recipe = Recipe.from_dict({name: value for name, value in stored.items() if name != "self_loops"})
    return Generator(network.requires_grad_(False).eval(), recipe, stored["self_loops"])
