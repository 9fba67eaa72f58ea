"""Training of several learners on the same batches, each with an optimiser of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Batch

from ponita.models import Potential
from ponita.models.checkpoint import load_state
from ponita.sharing.continual.supermask import Supermask
from ponita.tasks.continual.learners import Learner
from ponita.tasks.continual.report import MethodErrors
from ponita.tasks.continual.stream import RMD17StreamDataModule
from ponita.tasks.potential.task import PotentialTask
from ponita.training import LossWeights, OptimizerConfig, cosine_factor


class SideBySideTask(PotentialTask):
    """Base of the task that compares methods: what they are trained by, and what a stopped training goes on from.

    Args:
        learners: by method.
        gradient_clip: greatest norm of a gradient.
        loss_weights: of energies and forces.
        augment: rotate every structure at random in training.
        seed: of the rotations.

    Attributes:
        method: whose potential is at hand.
        found: by method.
        normalization: [T, 2] shift (eV) and scale (eV, eV/Å) of each molecule.
    """

    def __init__(
        self, learners: dict[str, Learner], gradient_clip: float, loss_weights: LossWeights, augment: bool, seed: int
    ) -> None:
        self.method = next(iter(learners))
        super().__init__(nn.ModuleDict(learners), loss_weights, OptimizerConfig(), augment, False, 1, seed)
        self.automatic_optimization = False
        self.gradient_clip = gradient_clip
        self.register_buffer("normalization", torch.zeros(0, 2, dtype=torch.float64))
        self.found = {method: MethodErrors() for method in learners}

    @property
    def potential(self) -> Potential:
        """Of the method and the molecule at hand."""
        return self.model[self.method].potential

    @property
    def progress(self) -> float:
        """The part of the molecule's training that is done."""
        training = self._trainer is not None and self.trainer.training
        return self.trainer.datamodule.stages.progress(self.current_epoch) if training else 0.0

    @property
    def data(self) -> RMD17StreamDataModule:
        """Of the trainer."""
        return self.trainer.datamodule

    def place(self) -> tuple[int, int]:
        """The stage at hand, and the epoch in it."""
        stage = self.data.stages.at(self.current_epoch)
        return stage, self.current_epoch - stage * self.data.stages.epochs

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One for each method."""
        return [torch.optim.Adam(learner.parameters()) for learner in self.model.values()]

    def on_train_epoch_start(self) -> None:
        stage, epoch = self.place()
        for learner, optimizer in zip(self.model.values(), self.trainer.optimizers, strict=True):
            learner.start_epoch(stage, epoch, optimizer)
            learner.potential.set_normalization(*self.normalization[stage].tolist())

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for (method, learner), optimizer in zip(self.model.items(), optimizers, strict=True):
            start, self.method = time.process_time(), method
            loss = self.losses(batch)["loss"]
            self._watch.look(loss, self._non_finite(batch, batch_idx))
            optimizer.zero_grad()
            self.manual_backward(loss)
            nn.utils.clip_grad_norm_(learner.parameters(), self.gradient_clip)
            for group in optimizer.param_groups:
                group["lr"] = self._rate(learner, batch_idx)
            optimizer.step()
            self.found[method].seconds += time.process_time() - start
            self.log(
                f"train/{method}", loss.detach().float(), on_step=False, on_epoch=True, batch_size=batch.num_graphs
            )
            self.log(method, loss.detach().float(), prog_bar=True, logger=False, batch_size=batch.num_graphs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._watch.settle()
        checkpoint["continual"] = {
            method: {"found": asdict(self.found[method]), "learner": learner.extra_state()}
            for method, learner in self.model.items()
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        for name, module in self.named_modules():
            if isinstance(module, Supermask) and f"{name}.packed" in state:
                module.make_room(len(state[f"{name}.packed"]))
        load_state(self, state, "what --ckpt_path names")
        for method, learner in self.model.items():
            learner.load_extra_state(checkpoint["continual"][method]["learner"])
            self.found[method] = MethodErrors(**checkpoint["continual"][method]["found"])

    def _rate(self, learner: Learner, batch_idx: int) -> float:
        phase, done = learner.at(self.place()[1])
        steps = int(self.trainer.num_training_batches)
        return phase.lr * cosine_factor(done * steps + batch_idx, phase.epochs * steps)

    def _non_finite(self, batch: Batch, batch_idx: int) -> Callable[[float], str]:
        method, samples = self.method, batch.sample.tolist()
        where = f"epoch {self.current_epoch}, batch {batch_idx} (samples {samples} of the molecule's training set)"
        return lambda loss: (
            f"the loss of {method} is {loss} at {where}. The last good checkpoint is kept; lower lr, score_lr or weight_lr, or gradient_clip."
        )
