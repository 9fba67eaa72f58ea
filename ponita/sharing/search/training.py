"""The loop that trains a supernet; methods are samplers and callbacks of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ponita.sharing.search.sampling import Draw, PathSampler, StepFeedback
from ponita.sharing.search.supernet import Supernet, find_supernet


@dataclass
class Losses:
    """What a loss function says of a batch.

    Attributes:
        samples: [G] of each graph or sample.
        output: of the supernet.
        target: what it was compared with.
        index: [G] rows of the training set, where the batch knows them.
        weights: [G] factor of each sample's loss, where the data were not drawn alike; their mean counts.
    """

    samples: Tensor
    output: Any = None
    target: Any = None
    index: Tensor | None = None
    weights: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """The loss of the batch."""
        return (self.samples if self.weights is None else self.samples * self.weights).mean()


#: The losses of a batch, by the model that holds the supernet, on the path that is active.
LossFunction = Callable[[nn.Module, Any], Losses]


@dataclass
class History:
    """Mean losses of training, one of each epoch."""

    loss: list[float] = field(default_factory=list)


class Callback:
    """What may be done between the parts of a training."""

    def on_fit_start(self, trainer: SupernetTrainer) -> None:
        """Before the first step."""

    def on_epoch_start(self, trainer: SupernetTrainer, epoch: int) -> None:
        """Before an epoch."""

    def on_backward_end(self, trainer: SupernetTrainer, draw: Draw, feedback: StepFeedback) -> None:
        """After the gradient of one path was added, before it is clipped."""

    def on_step_end(self, trainer: SupernetTrainer, step: int) -> None:
        """After a step of the optimiser."""

    def on_epoch_end(self, trainer: SupernetTrainer, epoch: int) -> None:
        """After an epoch."""


class SupernetTrainer:
    """Trains the weights that the paths of a sampler use.

    Args:
        model: a `Supernet`, or a model that holds one, such as a `Potential`.
        loss_fn: the losses of a batch on the path that is active.
        optimizer: of the weights.
        sampler: of the paths.
        callbacks: called between the parts.
        grad_clip: largest norm of the gradient of a step; none where None.
        scheduler: of the learning rate, stepped after every step.
        progress: show a progress bar.

    Raises:
        ValueError: if the supernet has kernels that were not calibrated: every path would rescale those of all others, or be
            trained with signals that vanish.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        optimizer: torch.optim.Optimizer,
        sampler: PathSampler,
        callbacks: Sequence[Callback] = (),
        grad_clip: float | None = 5.0,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        progress: bool = False,
    ) -> None:
        self.model, self.supernet = model, find_supernet(model)
        self.loss_fn, self.optimizer, self.sampler = loss_fn, optimizer, sampler
        self.callbacks, self.grad_clip, self.scheduler, self.progress = list(callbacks), grad_clip, scheduler, progress
        self.step = self.epoch = self.num_epochs = 0
        check_calibrated(self.supernet)

    def fit(self, loader: Iterable, epochs: int) -> History:
        """Train.

        Args:
            loader: batches of an epoch; iterated anew in each.
            epochs: how often.
        """
        history = History()
        self.num_epochs = epochs
        self.model.train()
        self._tell("on_fit_start")
        for epoch in tqdm(range(epochs), desc="supernet", unit="epoch", disable=not self.progress):
            self.epoch = epoch
            self._tell("on_epoch_start", epoch)
            losses = [self.train_step(batch) for batch in loader]
            history.loss.append(sum(losses) / max(len(losses), 1))
            self.sampler.epoch_end(epoch, epochs)
            self._tell("on_epoch_end", epoch)
        return history

    def train_step(self, batch: Any) -> float:
        """One step of the optimiser, of all paths that the sampler draws; the mean of their losses."""
        self.optimizer.zero_grad()
        draws = self.sampler.draw(self.step)
        total = sum(self.backward(draw, batch) for draw in draws)
        if self.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.grad_clip)
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.step += 1
        self._tell("on_step_end", self.step)
        return total / len(draws)

    def backward(self, draw: Draw, batch: Any) -> float:
        """Add the gradient of a path, and tell the sampler."""
        before = [None if p.grad is None else p.grad.clone() for p in self.supernet.parameters()]
        with self.supernet.activate(draw.path):
            losses = self.loss_fn(self.model, batch)
        loss = losses.mean
        (draw.weight * loss + self.sampler.extra_loss(draw, self.supernet)).backward()
        feedback = StepFeedback(loss.detach(), losses.samples.detach(), losses.output, losses.target, losses.index)
        feedback.grad_norm = _norm_of_change(before, list(self.supernet.parameters()))
        self.sampler.observe(draw, feedback)
        self._tell("on_backward_end", draw, feedback)
        return float(loss.detach())

    def _tell(self, what: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, what)(self, *arguments)


def _norm_of_change(before: Sequence[Tensor | None], parameters: Sequence[nn.Parameter]) -> float:
    """The norm of the gradient that was added."""
    pairs = ((old, p.grad) for old, p in zip(before, parameters, strict=True) if p.grad is not None)
    squares = [(new if old is None else new - old).square().sum() for old, new in pairs]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def check_calibrated(supernet: Supernet) -> None:
    """Raise ValueError for a supernet whose kernels were not calibrated; those without kernels need not be."""
    calibrated = getattr(supernet, "calibrated", None)
    if calibrated is not None and not bool(calibrated):
        raise ValueError(
            "the supernet was not calibrated. Call ponita.sharing.search.calibrate_supernet(model, batch) once, before training; it "
            "rescales the kernels of the largest network, which all paths share."
        )


def endless(loader: Iterable, what: str) -> Iterator[Any]:
    """Batches without end, each round iterated anew.

    Raises:
        ValueError: for a loader without batches.
    """
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise ValueError(f"{what} has no batches; expected at least one.")
