"""One network for molecules that come one after another, of which each has a part; and all methods by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ponita.models import Potential
from ponita.sharing.continual import Learning, attach_supermasks
from ponita.tasks.continual.learners import Learner, Phase, Recipe, Separate, Sequential, size_of
from ponita.tasks.continual.stages import Stages

METHODS = ("separate", "sequential", "supsup", "ssnet", "exssnet")


class Masked(Learner):
    """One network, of which each molecule has a part (`ponita.sharing.continual`).

    Masks are of the weights of all linear layers. Biases and LayerNorms, which one molecule would spoil for another, are each
    molecule's own, and stored with its mask. Weights start as signs times a constant, so calibrated kernels would be the same.

    Args:
        potential: fresh.
        recipe: of the study.
        mode: "supsup", "ssnet" or "exssnet".
    """

    def __init__(self, potential: Potential, recipe: Recipe, mode: str) -> None:
        super().__init__(recipe)
        linear = {f"{n}.weight" for n, m in potential.named_modules() if isinstance(m, nn.Linear)}
        own = [name for name, _ in potential.named_parameters() if name not in linear]
        bank = attach_supermasks(potential, recipe.density, per_task=own, exclusive=mode != "ssnet")
        self.only, self.learning = potential, Learning(bank, mode)

    @property
    def potential(self) -> Potential:
        return self.only

    def open(self, stages: Stages) -> None:
        recipe, epochs = self.recipe, stages.epochs
        if self.learning.mode == "supsup":
            self.phases = (Phase("score", epochs, recipe.score_lr),)
            return
        if epochs < 2:
            raise ValueError(
                f"{epochs} epoch a stage; {self.learning.mode} trains scores and then weights, which takes 2 at least."
            )
        scores = min(max(round(recipe.score_share * epochs), 1), epochs - 1)
        self.phases = (Phase("score", scores, recipe.score_lr), Phase("weight", epochs - scores, recipe.weight_lr))

    def show(self, stage: int) -> Potential:
        self.learning.bank.set_task(stage)
        return super().show(stage)

    def begin(self, phase: str) -> None:
        if phase == "weight":
            self.learning.begin_weights()
        else:
            key = 100_003 * self.recipe.seed + self.stage
            self.learning.begin(generator=torch.Generator().manual_seed(key))

    def finish(self) -> None:
        self.learning.finish()

    def stored_bytes(self) -> tuple[int, int]:
        bank = self.learning.bank
        weights = [layer.parametrizations.weight.original for layer in bank.layers()]
        # Weights that are never trained are signs of one size.
        signs = sum(-(-weight.numel() // 8) for weight in weights)
        return bank.task_bytes(), signs if self.learning.mode == "supsup" else size_of(weights)

    def extra_state(self) -> dict[str, Any]:
        return self.learning.state_dict()

    def load_extra_state(self, state: dict[str, Any]) -> None:
        self.learning.load_state_dict(state)


def make_learner(method: str, potential: Potential, recipe: Recipe) -> Learner:
    """A method by its name.

    Raises:
        ValueError: for an unknown one, or a density outside of (0, 1].
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r}; expected some of {list(METHODS)}.")
    if method == "separate":
        return Separate(potential, recipe)
    return Sequential(potential, recipe) if method == "sequential" else Masked(potential, recipe, method)


def plain_copy(potential: Potential) -> Potential:
    """A potential that computes the same, to the last bit, with ordinary weights in the place of masked ones."""
    plain = Potential.from_config(potential.config)
    with torch.no_grad():
        for name, value in plain.state_dict().items():
            module, _, leaf = name.rpartition(".")
            value.copy_(getattr(potential.get_submodule(module), leaf))
    return plain
