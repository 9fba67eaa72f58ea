"""Training of an equivariant diffusion model of molecules (Hoogeboom et al. 2022, Karras et al. 2022)."""

from __future__ import annotations

import copy
import math
import zlib
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch

from ponita.geometry import EdgeSet, rotate
from ponita.models import Ponita
from ponita.tasks.base import Task
from ponita.tasks.diffusion.generate import Generator
from ponita.tasks.diffusion.samples import sample_and_judge
from ponita.tasks.graphs import complete_graph
from ponita.tasks.pictures import format_table
from ponita.training import OptimizerConfig
from ponita.training.diffusion import (
    AtomCode,
    Graphs,
    NoiseLevels,
    Preconditioning,
    Property,
    Recipe,
    SizeHistogram,
    check_network,
    denoise,
    denoising_loss,
    draw_noise,
    mean_free,
    network_inputs,
)
from ponita.training.diffusion.karras import FORMS

#: Key of a checkpoint under which the recipe is.
RECIPE = "diffusion"


class DiffusionTask(Task):
    """Learn to denoise positions and elements of molecules at all noise levels; the loss is a weighted squared error.

    Noise is a function of seed and step in training, and of the seed and the molecule in validation, so that losses of
    two epochs differ by the network alone.

    Args:
        model: network with the inputs and outputs that `check_network` asks for.
        optimizer: learning rate, weight decay and warm-up.
        elements: symbols, in the order of the features.
        charges: diffuse formal charges too; the data must have them.
        type_scale: one-hot elements are divided by it.
        charge_scale: charges are divided by it.
        sigma_data: standard deviation of the data (Å for positions).
        level_mean: mean of the logarithm of the noise level.
        level_std: its standard deviation.
        noise_features: columns that tell the network the noise level, an odd number; 1 as published.
        loss: "x0" or "eps", what the squared error is of (see `Preconditioning.weight`).
        condition_dropout: share of training molecules whose property is hidden, for guidance.
        num_samples: molecules made and judged in a test; none where 0.
        self_loops: give the network the edges i->i.
        augment: rotate every molecule at random in training.
        calibrate_kernels: rescale the convolutions on the first batch before training.
        seed: of rotations and noise.

    Raises:
        ValueError: if the network's inputs or outputs are others, or a number is out of range.
    """

    def __init__(
        self,
        model: Ponita,
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008  (a dataclass default is how the CLI knows the keys)
        elements: list[str] = ["H", "C", "N", "O", "F"],  # noqa: B006  (read only)
        charges: bool = False,
        type_scale: float = 4.0,
        charge_scale: float = 8.0,
        sigma_data: float = 1.0,
        level_mean: float = -1.2,
        level_std: float = 1.2,
        noise_features: int = 1,
        loss: str = "x0",
        condition_dropout: float = 0.1,
        num_samples: int = 100,
        self_loops: bool = True,
        augment: bool = True,
        calibrate_kernels: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(model, optimizer, augment, calibrate_kernels, seed)
        if loss not in FORMS:
            raise ValueError(f"loss={loss!r}; expected one of {list(FORMS)}.")
        if not 0 <= condition_dropout < 1:
            raise ValueError(f"condition_dropout={condition_dropout}; expected a share from 0 to below 1.")
        self.recipe = Recipe(
            AtomCode(tuple(elements), charges, type_scale, charge_scale),
            Preconditioning(sigma_data),
            NoiseLevels(level_mean, level_std),
            noise_features,
        )
        self.form, self.condition_dropout, self.num_samples = loss, condition_dropout, num_samples
        self.self_loops = self_loops
        self.verdict = ""

    def setup(self, stage: str) -> None:
        values = self.trainer.datamodule.sets["train"].values
        check_network(self.model, self.recipe, values is not None)
        super().setup(stage)

    def prepare(self, first_batch: Batch) -> None:
        data = self.trainer.datamodule
        train = data.sets["train"]
        # An element without a column, or charges that are missing, are said before the training.
        self.recipe.code.encode(train.molecules.numbers, train.molecules.charges)
        condition = None if train.values is None else Property.of(data.condition, train.values.numpy())
        self.recipe = replace(self.recipe, sizes=SizeHistogram.of(train.molecules.counts), condition=condition)

    def make_edges(self, batch: Batch) -> EdgeSet | Tensor:
        return complete_graph(self.model, batch.ptr.diff(), self.self_loops)

    def prepare_batch(self, batch: Batch) -> Batch:
        """Rotate, make the edges, and draw the noise, on the CPU."""
        return self.with_noise(super().prepare_batch(batch), self.trainer.training)

    def with_noise(self, batch: Batch, training: bool) -> Batch:
        """A batch with its clean state [N, D], noise levels [G], noise [N, D], and values [G] where conditioned.

        Args:
            batch: on the CPU.
            training: draw noise for the step, or for the molecules.
        """
        key = f"step {self.global_step} {self.global_rank}" if training else f"sample {int(batch.sample[0])}"
        generator = torch.Generator().manual_seed(zlib.crc32(f"noise {self.seed} {key}".encode()))
        batch, num = copy.copy(batch), batch.num_graphs
        charges = batch.charge.numpy() if "charge" in batch else None
        features = self.recipe.code.encode(batch.z.numpy(), charges)
        batch.clean = torch.cat([mean_free(batch.pos, batch.batch, num), features], dim=1)
        batch.sigma = self.recipe.levels.draw(num, generator)
        batch.noise = draw_noise(tuple(batch.clean.shape), batch.batch, num, generator, self.recipe.dim)
        if "y" in batch and training:
            hidden = torch.rand(num, generator=generator) < self.condition_dropout
            batch.y = batch.y.masked_fill(hidden, math.nan)
        return batch

    def model_inputs(self, batch: Batch) -> dict[str, Any]:
        batch = batch if "clean" in batch else self.with_noise(batch, training=False)
        return network_inputs(
            self.model, self.recipe, self._noisy(batch), batch.sigma, self._graphs(batch), self._values(batch)
        )

    def forward(self, batch: Batch) -> Tensor:
        """Denoised states [N, D] of a prepared batch."""
        return denoise(
            self.model, self.recipe, self._noisy(batch), batch.sigma, self._graphs(batch), self._values(batch)
        )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        recipe = self.recipe
        return denoising_loss(
            self(batch), batch.clean, batch.sigma, batch.batch, recipe.precondition, self.form, recipe.dim
        )

    def rotate_batch(self, batch: Batch, rotations: Tensor) -> Batch:
        turned = copy.copy(batch)
        turned.pos = rotate(batch.pos, rotations, batch.batch)
        return turned

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        values = {f"valid/{name}": value for name, value in self.losses(batch).items()}
        self.log_dict(values, batch_size=batch.num_graphs, sync_dist=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        values = {f"test/{name}": value for name, value in self.losses(batch).items()}
        self.log_dict(values, batch_size=batch.num_graphs, sync_dist=True)

    def on_test_end(self) -> None:
        if self.num_samples and self.trainer.is_global_zero:
            self.verdict = sample_and_judge(self)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Denoised states."""
        return self(batch)

    def generator(self) -> Generator:
        """What makes molecules with the present weights."""
        return Generator(self.model, self.recipe, self.self_loops)

    def report(self) -> str:
        metrics = self.trainer.callback_metrics
        rows = [("denoising, test set", f"loss ({self.form})")]
        rows += [(name, f"{float(metrics[f'test/{name}']):.4f}") for name in ("position", "feature", "loss")]
        return "\n\n".join(part for part in (format_table(rows), self.verdict) if part)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[RECIPE] = self.recipe.to_dict() | {"self_loops": self.self_loops}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if RECIPE in checkpoint:
            self.recipe = Recipe.from_dict({k: v for k, v in checkpoint[RECIPE].items() if k != "self_loops"})

    def _noisy(self, batch: Batch) -> Tensor:
        return batch.clean + batch.sigma.index_select(0, batch.batch)[:, None] * batch.noise

    def _graphs(self, batch: Batch) -> Graphs:
        return Graphs(self.edges(batch), batch.batch, batch.num_graphs)

    def _values(self, batch: Batch) -> Tensor | None:
        return batch.y if "y" in batch else None
