"""What every task does the same way: optimiser, schedule, calibration, checks, checkpoints that stand alone."""

from __future__ import annotations

import copy
import zlib
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor, nn
from torch_geometric.data import Batch

from ponita.geometry import EdgeSet, random_rotations
from ponita.models.checkpoint import check_state, describe
from ponita.nn import calibrate
from ponita.sharing.regularization import ReadoutSampler
from ponita.sharing.regularization.weight_compander import companded, plain_state
from ponita.tasks.callbacks import ModelCallback, WeightAverage
from ponita.tasks.graphs import place
from ponita.training import LossWatch, OptimizerConfig, parameter_groups, warmup_cosine

SHOW_EVERY = 20  # steps between two looks at the loss for the progress bar, where a device is waited for


class Task(L.LightningModule):
    """Base of the tasks.

    A task says what the loss of a batch is, how a batch is rotated, and what to report of a test. Everything random in
    a step is a function of the seed, the step and the rank, so that a run that was killed continues as if it had not
    been.

    Args:
        model: the model to train.
        optimizer: learning rate, weight decay and warm-up.
        augment: rotate every graph at random in training.
        calibrate_kernels: rescale the convolutions on the first training batch before the first step.
        seed: of the rotations.
    """

    #: Prefix of the model's names in the state dict of a checkpoint.
    model_prefix: ClassVar[str] = "model."
    #: Units of logged metrics, for pictures.
    metric_units: ClassVar[dict[str, str]] = {}

    #: Whether `losses` averages over the samples of `sampler`.
    averages_samples: ClassVar[bool] = False

    def __init__(
        self, model: nn.Module, optimizer: OptimizerConfig, augment: bool, calibrate_kernels: bool, seed: int
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer_config = optimizer
        self.augment, self.calibrate_kernels, self.seed = augment, calibrate_kernels, seed
        #: Of multi-sample dropout, in a training with it.
        self.sampler: ReadoutSampler | None = None
        self._watch = LossWatch()
        self._total_steps: int | None = None

    @property
    def progress(self) -> float:
        """The part of a training that is done, from 0 to 1; 0 outside of one."""
        return 0.0 if self._total_steps is None else self.global_step / self._total_steps

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of a batch under "loss", and parts of it to log."""

    @abstractmethod
    def rotate_batch(self, batch: Batch, rotations: Tensor) -> Batch:
        """A batch with graph g turned by rotations[g] ([G, d, d])."""

    @abstractmethod
    def report(self) -> str:
        """A table of what the last test measured."""

    def model_inputs(self, batch: Batch) -> dict[str, Any]:
        """Arguments of the model for a batch, by name."""
        raise NotImplementedError

    def make_edges(self, batch: Batch) -> EdgeSet | Tensor | None:
        """The graph of a batch that is on the CPU, sorted and matched; None where the model is given another thing."""
        return None

    def edges(self, batch: Batch) -> EdgeSet | Tensor | None:
        """The graph of a batch where the batch is: made before it was moved there, or now."""
        if "edges" in batch:
            return batch.edges
        return place(self.make_edges(copy.copy(batch).cpu()), batch.pos.device)

    def prepare_batch(self, batch: Batch) -> Batch:
        """On the CPU, where nothing waits for a device: rotate a training batch, and make the edges."""
        if self.augment and self.trainer.training:
            batch = self.rotate_batch(batch, self._rotations(batch))
        edges = self.make_edges(batch)
        if edges is not None:
            batch.edges = edges
        return batch

    def setup(self, stage: str) -> None:
        """Before training, set what the data decide: statistics and the scale of the kernels."""
        if stage != "fit":
            return
        first_batch = self.trainer.datamodule.first_batch()
        self.prepare(first_batch)
        if self.calibrate_kernels:
            calibrate(self.model, self.model_inputs(first_batch))
        callbacks = [callback for callback in self.trainer.callbacks if isinstance(callback, ModelCallback)]
        for callback in sorted(callbacks, key=lambda callback: isinstance(callback, WeightAverage)):
            callback.on_model_ready(self.trainer, self)  # the average last, of what the others make of the model

    def prepare(self, first_batch: Batch) -> None:
        """Hook for statistics of the training set; must not be random."""

    def finish(self, folder: Path) -> None:
        """Hook at the end of a training and its test, for what a run leaves beside its checkpoints.

        Args:
            folder: of the run.
        """

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.losses(batch)
        self._watch.look(losses["loss"], self._non_finite(batch, batch_idx))
        values = {f"train/{name}": value.detach().float() for name, value in losses.items()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=batch.num_graphs, sync_dist=True)
        self.log("loss", values["train/loss"], prog_bar=True, logger=False, batch_size=batch.num_graphs)
        return losses["loss"]

    def configure_callbacks(self) -> list[L.Callback]:
        """A progress bar that waits for a device every few steps only, in the place of the usual one."""
        waits = self.trainer.strategy.root_device.type != "cpu"
        usual = type(self.trainer.progress_bar_callback) is TQDMProgressBar
        return [TQDMProgressBar(refresh_rate=SHOW_EVERY)] if waits and usual else []

    def configure_optimizers(self) -> dict[str, Any]:
        config, total = self.optimizer_config, self.trainer.estimated_stepping_batches
        if total == float("inf"):
            raise ValueError("the cosine schedule needs an end; set trainer.max_epochs or trainer.max_steps.")
        self._total_steps = int(total)
        optimizer = torch.optim.Adam(parameter_groups(self, config.weight_decay), lr=config.lr)
        warmup = config.warmup_epochs * total / max(self.trainer.max_epochs or 1, 1)
        schedule = {"scheduler": warmup_cosine(optimizer, warmup, self._total_steps), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_train_epoch_end(self) -> None:
        self._watch.settle()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let `ponita.models.load` rebuild the model from the checkpoint alone; keep no weights of a wrong loss."""
        self._watch.settle()
        checkpoint["ponita"] = describe(self.model, prefix=self.model_prefix)
        if companded(self):
            checkpoint["latent"] = states_of(checkpoint)
            checkpoint.update({name: plain_state(state, self) for name, state in states_of(checkpoint).items()})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "latent" in checkpoint and companded(self):
            checkpoint.update(checkpoint["latent"])
        check_state(self, checkpoint["state_dict"], "what --ckpt_path names")

    def _rotations(self, batch: Batch) -> Tensor:
        """[G, d, d], a function of seed, step and rank."""
        key = f"{self.seed} {self.global_step} {self.global_rank}".encode()
        generator = torch.Generator().manual_seed(zlib.crc32(key))
        pos = batch.pos
        return random_rotations(batch.num_graphs, dim=pos.shape[1], generator=generator, dtype=pos.dtype)

    def _non_finite(self, batch: Batch, batch_idx: int) -> Callable[[float], str]:
        """What to say of this step if its loss is not finite."""
        step, epoch, samples = self.global_step, self.current_epoch, batch.sample if "sample" in batch else None

        def message(loss: float) -> str:
            named = "unknown" if samples is None else samples.tolist()
            return (
                f"the loss is {loss} at epoch {epoch}, step {step}, batch {batch_idx} (samples {named} of the training "
                "set). The last good checkpoint is kept; look at these samples, lower optimizer.lr, or set "
                "trainer.gradient_clip_val."
            )

        return message


def states_of(checkpoint: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """State dicts of the task in a checkpoint: its own, and the raw one beside an average."""
    return {name: checkpoint[name] for name in ("state_dict", "current_model_state") if name in checkpoint}
