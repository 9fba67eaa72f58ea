"""A few molecules at the end of a training, kept, and judged where RDKit is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ponita.data.chemistry import XyzWriter
from ponita.data.molecules import join
from ponita.tasks.diffusion.generate import Sampling, batches, largest_batch
from ponita.tasks.diffusion.verdict import compare
from ponita.tasks.runs import folder_of

if TYPE_CHECKING:
    from ponita.tasks.diffusion.task import DiffusionTask

SAMPLES, GEOMETRY = "samples.xyz", "geometry.png"
TOGETHER = 100  # molecules made at once, at most


def sample_and_judge(task: DiffusionTask) -> str:
    """Make molecules, keep them in the run folder, and judge them beside molecules of the test set.

    Args:
        task: trained.

    Returns:
        Tables; empty where RDKit is missing.
    """
    folder = folder_of(task.trainer)
    generator = torch.Generator().manual_seed(task.seed)
    sizes = task.recipe.sizes.draw(task.num_samples, generator)
    maker = task.generator()
    parts = batches(sizes, TOGETHER, largest_batch(task.model))
    made = [maker.sample(part, Sampling(), generator) for part in parts]
    molecules = join(made)
    with XyzWriter(folder / SAMPLES) as file:
        file.write(molecules)
    data = task.trainer.datamodule.sets["test"].molecules
    try:
        return compare(molecules, data.take(range(min(len(data), len(molecules)))), folder / GEOMETRY)
    except ImportError:
        return ""
