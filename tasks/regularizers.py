"""Regularisers of `ponita.sharing` for any training: list them under `trainer.callbacks`."""

from __future__ import annotations

import zlib
from typing import Any

import lightning as L
import torch

from ponita.sharing.regularization import ReadoutSampler, compand, uncompand
from ponita.sharing.regularization.weight_compander import PATTERN
from ponita.tasks.callbacks import ModelCallback


class Compand(ModelCallback):
    """Train companded weights (`ponita.sharing.regularization.compand`) from after the calibration to the end.

    Checkpoints hold ordinary weights, and beside them, to go on from, what they are made of.

    Args:
        pattern: regular expression of the whole names of the layers; kernels and linear layers of the blocks.
        ratio: slope at zero.
        bound: largest possible weight of a layer, in multiples of its largest at the start.
        function: "arctan", "tanh" or "softsign".
        learn: whether the scales train too.
    """

    def __init__(
        self,
        pattern: str = PATTERN,
        ratio: float = 1.0,
        bound: float = 1.1,
        function: str = "arctan",
        learn: bool = True,
    ) -> None:
        self.options = {"pattern": pattern, "ratio": ratio, "bound": bound, "function": function, "learn": learn}

    def on_model_ready(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        compand(pl_module.model, **self.options)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        uncompand(pl_module.model)


class MultiSampleDropout(ModelCallback):
    """Average the loss over several dropout masks of what the read-outs get (`ReadoutSampler`).

    Args:
        samples: masks in a step.
        p: probability that a channel is dropped.
    """

    def __init__(self, samples: int = 8, p: float = 0.5) -> None:
        self.samples, self.p = samples, p

    def on_model_ready(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not pl_module.averages_samples:
            raise ValueError(
                f"{type(pl_module).__name__} does not average its loss over samples; multi-sample dropout is for potentials and "
                "properties. Remove the callback."
            )
        pl_module.sampler = ReadoutSampler(pl_module.network, self.samples, self.p)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        key = f"dropout {pl_module.seed} {pl_module.global_step} {pl_module.global_rank}".encode()
        pl_module.sampler.begin(batch.batch, batch.num_graphs, torch.Generator().manual_seed(zlib.crc32(key)))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.sampler.remove()
        pl_module.sampler = None
