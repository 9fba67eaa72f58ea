"""What learns one molecule after another: a network for each, or one that forgets."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ponita.models import Potential
from ponita.sharing.continual import check_optimizer
from ponita.tasks.continual.stages import Stages


@dataclass(frozen=True)
class Recipe:
    """What the methods differ in, beside themselves.

    Attributes:
        density: share of each weight that a mask keeps.
        score_share: part of a stage in which scores are trained, of methods that then train weights.
        lr: of whole networks.
        score_lr: of scores.
        weight_lr: of weights below a mask.
        seed: of the first scores.
    """

    density: float
    score_share: float
    lr: float
    score_lr: float
    weight_lr: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.score_share < 1 or min(self.lr, self.score_lr, self.weight_lr) <= 0:
            raise ValueError(
                f"score_share={self.score_share}, lr={self.lr}, score_lr={self.score_lr}, weight_lr={self.weight_lr}; expected a share "
                "between 0 and 1, and positive rates."
            )


@dataclass(frozen=True)
class Phase:
    """A part of a stage: what trains, for how many epochs, and its highest learning rate."""

    name: str
    epochs: int
    lr: float


class Learner(nn.Module):
    """A method, and what it has learned. The optimiser of a learner holds all of its parameters: those without gradient rest.

    Args:
        recipe: of the study.

    Attributes:
        stage: of the molecule that is computed.
        phases: of each stage.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe, self.stage = recipe, 0
        self.phases: tuple[Phase, ...] = ()

    @property
    @abstractmethod
    def potential(self) -> Potential:
        """Of the molecule that is computed."""

    def open(self, stages: Stages) -> None:
        """Make what the stages need; once they are known, and before anything is trained or loaded."""
        self.phases = (Phase("all", stages.epochs, self.recipe.lr),)

    def calibrated_on(self, stages: Stages) -> Iterable[int]:
        """Stages on whose first batch the kernels of `show(stage)` are calibrated before training."""
        return ()

    def show(self, stage: int) -> Potential:
        """Compute a molecule that was learned."""
        self.stage = stage
        return self.potential

    def at(self, epoch: int) -> tuple[Phase, int]:
        """The phase of an epoch of a stage, and how many of its epochs are done."""
        for phase in self.phases:
            if epoch < phase.epochs:
                return phase, epoch
            epoch -= phase.epochs
        raise IndexError(epoch)

    def start_epoch(self, stage: int, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        """Begin the phase that begins with an epoch of a stage, with an optimiser that remembers nothing."""
        self.stage = stage
        phase, done = self.at(epoch)
        if done == 0:
            self.begin(phase.name)
            optimizer.state.clear()
            check_optimizer(optimizer)

    def begin(self, phase: str) -> None:
        """Hook at the start of a phase."""

    def finish(self) -> None:
        """Hook at the end of a stage."""

    @abstractmethod
    def stored_bytes(self) -> tuple[int, int]:
        """What each molecule adds to storage, and what is stored once."""

    def extra_state(self) -> dict[str, Any]:
        """What the state dict does not hold."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from `extra_state`, after the state dict was loaded."""


class Separate(Learner):
    """A network for each molecule, all of the same first weights."""

    def __init__(self, potential: Potential, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.potentials = nn.ModuleList([potential])

    @property
    def potential(self) -> Potential:
        return self.potentials[self.stage]

    def open(self, stages: Stages) -> None:
        super().open(stages)
        while len(self.potentials) < stages.number:
            self.potentials.append(copy.deepcopy(self.potentials[0]))

    def calibrated_on(self, stages: Stages) -> Iterable[int]:
        return range(stages.number)

    def stored_bytes(self) -> tuple[int, int]:
        return size_of(self.potentials[0].parameters()), 0


class Sequential(Learner):
    """One network, trained on each molecule in turn; what it computes for earlier ones is what is left."""

    def __init__(self, potential: Potential, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.only = potential

    @property
    def potential(self) -> Potential:
        return self.only

    def calibrated_on(self, stages: Stages) -> Iterable[int]:
        return (0,)

    def stored_bytes(self) -> tuple[int, int]:
        return 0, size_of(self.only.parameters())


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
