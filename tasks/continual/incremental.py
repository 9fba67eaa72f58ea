"""Class-incremental learning of digits: methods side by side, no word at the test of which stage an image is from."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Batch
from torchmetrics.classification import MulticlassConfusionMatrix

from ponita.data import replacing
from ponita.geometry import random_rotations
from ponita.models import Ponita, save
from ponita.sharing.continual import AlignConfig
from ponita.tasks.continual.classes import NUM_CLASSES
from ponita.tasks.continual.incremental_learner import METHODS, in_digit_order
from ponita.tasks.continual.incremental_report import Record, draw_accuracy, draw_last_confusion, numbers, tables
from ponita.tasks.continual.incremental_training import StagedTask
from ponita.tasks.runs import folder_of
from ponita.tasks.superpixel.task import AS_GIVEN, ROTATED
from ponita.training import OptimizerConfig

STATE = "incremental"


class IncrementalTask(StagedTask):
    """Learn classes of digits a few at a time, by several methods at once.

    Every method has a network, and all begin with the same weights, see the same new images in the same order and differ in
    nothing but what `Method` says. No method feels another: one that is trained alone gets the same weights.

    A stage begins with new read-out rows and a cleared optimiser; the learning rate falls to zero over it along half a
    cosine. It ends with alignment, a choice of exemplars, and accuracies on images of all classes seen, as given and each
    turned by an angle that is a function of the seed. The closing test measures the last stage.

    What is read from a checkpoint as the model is the network of the last method.

    Args:
        model: network on a plane with in_channels=1 (grey), out_channels=10, and pooling, which every method gets a copy of.
        methods: some of "joint" (no exemplars: as many steps on images of all classes seen, drawn evenly), "finetune"
            (cross-entropy on new images and exemplars), "kd" (with distillation) and "wa" (with alignment too).
        align: of alignment, distillation and new rows. The authors' settings: p: 1, clip: true.
        optimizer: Adam, of all but the read-outs: learning rate, weight decay (divided by the number of the stage where
            `align.wd_per_stage`; also that of the read-outs), and the epochs of every stage over which rates grow.
        readout_lr: learning rate of the read-outs, by stochastic gradient descent with momentum 0.9, as published.
        gradient_clip: greatest norm of the gradient of a network.
        self_loops: give the network the edges i->i.
        augment: turn every graph at random in training.
        calibrate_kernels: rescale the convolutions on the first batch before training.
        seed: of the rotations, of new rows, and of what "joint" draws.

    Raises:
        ValueError: for an unknown method, or a network that does not fit.

    Source: Zhao et al., CVPR 2020, arXiv:1911.07053.
    """

    def __init__(
        self,
        model: Ponita,
        methods: list[str] = list(METHODS),  # noqa: B006  (is not changed, and is how the CLI knows the default)
        align: AlignConfig = AlignConfig(),  # noqa: B008
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008
        readout_lr: float = 0.1,
        gradient_clip: float = 0.5,
        self_loops: bool = True,
        augment: bool = True,
        calibrate_kernels: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(
            model, methods, align, optimizer, readout_lr, gradient_clip, self_loops, augment, calibrate_kernels, seed
        )
        ways = [f"{name} {title}" for name in methods for title in (AS_GIVEN, ROTATED)]
        self.confusion = nn.ModuleDict({way: MulticlassConfusionMatrix(NUM_CLASSES) for way in ways})
        self.record: Record | None = None

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.record is None:
            self.record = Record(self.data.order, self.data.classes_per_stage)

    def on_train_epoch_start(self) -> None:
        self._since = time.process_time()
        super().on_train_epoch_start()

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        stages = self.data.stages
        if stages.ends(self.current_epoch) and self.stage < stages.number - 1:  # the closing test measures the last one
            for batch in self.data.measured_batches(self.stage):
                self._measure(self._placed(batch))
            self._note("seen")
        self.record.seconds += time.process_time() - self._since

    def on_test_epoch_start(self) -> None:
        """Nothing: the angles are those of all measured images."""

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._measure(batch)

    def on_test_epoch_end(self) -> None:
        self._note("test")

    def on_test_end(self) -> None:
        if self.trainer.is_global_zero:
            folder = folder_of(self.trainer)
            draw_accuracy(folder / "accuracy.png", self.record)
            draw_last_confusion(folder / "confusion.png", self.record)

    def finish(self, folder: Path) -> None:
        """Write results.json, and the network of each method as METHOD.ckpt, with the digits 0 to 9 as its outputs."""
        with replacing(folder / "results.json") as temporary:
            temporary.write_text(json.dumps(numbers(self.record, self._reports()), indent=1) + "\n", encoding="utf-8")
        for name, learner in self.learners.items():
            save(in_digit_order(learner.network, self.record.order), folder / f"{name}.ckpt")

    def report(self) -> str:
        return tables(self.record, self._reports(), self.data.summary())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[STATE] = {
            "stream": self.data.stream(),
            "stage": self.stage,
            "counts": self.record.counts,
            "seconds": self.record.seconds,
            "learners": {name: learner.state() for name, learner in self.learners.items()},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        state, own = checkpoint[STATE], self.data.stream()
        other = [f"{name}={value} (here {own[name]})" for name, value in state["stream"].items() if value != own[name]]
        if other:
            raise ValueError(f"the checkpoint is of another stream: {', '.join(other)}; set data.init_args as it was.")
        self.stage = state["stage"]
        self.record.counts, self.record.seconds = state["counts"], state["seconds"]
        for name, learner in self.learners.items():
            learner.load_state(state["learners"][name])

    @torch.no_grad()
    def _measure(self, batch: Batch) -> None:
        """Count what every method makes of images, as given and turned."""
        images = len(self.data.sets["all measured"])
        angles = random_rotations(
            images, dim=2, generator=torch.Generator().manual_seed(self.seed), dtype=batch.pos.dtype
        )
        turned = self.rotate_batch(batch, angles[batch.sample.cpu()].to(batch.pos.device))
        for title, graphs in ((AS_GIVEN, batch), (ROTATED, turned)):
            inputs = self.model_inputs(graphs)
            for name, learner in self.learners.items():
                found = learner.network(**inputs).scalars[:, : self.num_seen].argmax(1)
                self.confusion[f"{name} {title}"].update(found, batch.y)

    def _note(self, prefix: str) -> None:
        """Take down what was counted."""
        titles = (AS_GIVEN, ROTATED)
        counts = {
            name: {title: self.confusion[f"{name} {title}"].compute().cpu() for title in titles}
            for name in self.learners
        }
        for matrix in self.confusion.values():
            matrix.reset()
        self.record.counts[self.stage] = counts
        for name in self.learners:
            self.log(f"{prefix}/{name}_accuracy", self.record.accuracy(name, self.stage))

    def _reports(self) -> dict[str, dict[int, dict[str, Any]]]:
        return {name: learner.reports for name, learner in self.learners.items()}
