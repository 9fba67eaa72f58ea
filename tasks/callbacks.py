"""Callbacks and plugins common to all tasks."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch.optim.swa_utils import AveragedModel

from ponita.data import replacing
from ponita.models.checkpoint import read_checkpoint
from ponita.tasks.pictures import draw_learning_curve
from ponita.tasks.runs import folder_of


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole whenever the process is killed: written beside their name, then renamed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return read_checkpoint(path)


class RunLogger(CSVLogger):
    """metrics.csv in the run folder itself; a run that is resumed goes on with the file it has.

    Args:
        run_dir: the run folder.
    """

    def __init__(self, run_dir: str) -> None:
        super().__init__(save_dir=run_dir, name="", version="", flush_logs_every_n_steps=1)

    @property
    @rank_zero_only
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _AppendingWriter(self.log_dir)
        return self._experiment


class _AppendingWriter(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])

    def log_hparams(self, params: dict[str, Any]) -> None:
        """The run folder has the whole configuration in config.yaml already."""


class ModelCallback(Callback):
    """A callback that looks at, or changes, the model once it is calibrated, and before there is an optimiser."""

    def on_model_ready(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Called at the end of the task's setup for a training."""


class WeightAverage(EMAWeightAveraging, ModelCallback):
    """Exponential moving average of the weights, one update a step: it is validated, tested and kept as the model.

    Buffers are copied, not averaged, since some are integers. A checkpoint holds the average as its weights; resuming
    training takes up the raw ones again, while a test leaves the average in place (the parent loads the raw ones).

    Args:
        decay: share of the old average.
    """

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__(decay=decay, use_buffers=False)
        self.decay = decay

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Nothing yet: the model may still be changed."""

    def on_model_ready(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # The parent's would stay on the CPU, where the module still is, and wait for the device in every step.
        self._average_model = _Average(pl_module, self.decay, trainer.strategy.root_device)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


class _Average(AveragedModel):
    """The parent's asks the device in every update whether it is the first."""

    def __init__(self, model: L.LightningModule, decay: float, device: torch.device) -> None:
        super().__init__(model, device, use_buffers=False)
        self.decay = decay
        self.has_started = False

    @torch.no_grad()
    def update_parameters(self, model: torch.nn.Module) -> None:
        self.has_started = self.has_started or bool(self.n_averaged > 0)  # a resumed run has started before
        average, current = list(self.module.parameters()), list(model.parameters())
        if self.has_started:
            torch._foreach_lerp_(average, current, 1 - self.decay)
        else:
            torch._foreach_copy_(average, current)
        for ours, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
            ours.copy_(theirs)
        self.n_averaged += 1
        self.has_started = True


class LearningCurve(Callback):
    """Draw metrics.csv to learning_curve.png when training ends."""

    @rank_zero_only
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not isinstance(trainer.logger, RunLogger):
            return
        trainer.logger.save()
        metrics = folder_of(trainer) / "metrics.csv"
        if metrics.is_file():
            draw_learning_curve(metrics, metrics.with_name("learning_curve.png"), pl_module.metric_units)
