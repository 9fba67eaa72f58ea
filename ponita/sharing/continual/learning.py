"""The order of things when a task is learned with supermasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ponita.sharing.continual.bank import SupermaskBank
from ponita.sharing.continual.knn_transfer import Choice, start_from

MODES = ("exssnet", "ssnet", "supsup")
#: Trains what requires a gradient, in the phase "score" or "weight": with an optimiser of its own and no weight decay.
Fit = Callable[[str], None]


class Learning:
    """Tasks learned one after another, step by step, for loops that cannot be called back; else see `learn_task`.

    Of each task: `begin`, train the scores, `begin_weights` and train the weights (not of "supsup"), `finish`.

    Args:
        bank: of the masks.
        mode: "exssnet", "ssnet" (all weights of the mask may change; forgets) or "supsup" (none do).

    Attributes:
        phase: what trains now: "score", "weight" or, nothing, "eval".

    Raises:
        ValueError: for another mode, or a bank that does not fit it.
    """

    def __init__(self, bank: SupermaskBank, mode: str = "exssnet") -> None:
        if mode not in MODES:
            raise ValueError(f"mode={mode!r}; expected one of {MODES}.")
        if (mode == "ssnet") == bank.exclusive:
            raise ValueError(
                f"mode={mode!r} with exclusive={bank.exclusive}; attach the masks with exclusive={mode != 'ssnet'}."
            )
        self.bank, self.mode = bank, mode
        self.phase = "eval"
        self._protected: dict[str, Tensor] = {}

    def begin(self, donor: Callable[[], Choice] | None = None, generator: torch.Generator | None = None) -> Choice:
        """New scores for the next task, to be trained.

        Args:
            donor: which earlier task to start from, such as `KnnTransfer.choose` of a sample; none where None.
            generator: of the first scores.

        Returns:
            what the donor was.
        """
        bank = self.bank
        choice = Choice(None) if donor is None or bank.num_tasks == 0 else donor()
        bank.begin_task(bank.num_tasks, generator)
        if choice.task is not None:
            start_from(bank, choice.task)
        self._enter("score")
        return choice

    def begin_weights(self) -> None:
        """Fix the mask; from now on the weights of it that may change are trained.

        Raises:
            ValueError: in the mode "supsup", or unless scores are being trained.
        """
        if self.mode == "supsup" or self.phase != "score":
            raise ValueError(
                f"weights are trained after scores, and not in the mode 'supsup'; this is the phase {self.phase!r} of {self.mode!r}."
            )
        self.bank.finish_scores()
        self._protected = self.bank.snapshot_protected()
        self._enter("weight")

    def finish(self) -> None:
        """Check that earlier tasks are as they were, and compute the new one.

        Raises:
            ValueError: if no task was begun.
            RuntimeError: if a weight of an earlier task changed.
        """
        if self.phase == "eval":
            raise ValueError("no task was begun; call begin() first.")
        if self.phase == "weight":
            self.bank.verify_protected(self._protected)
        else:
            self.bank.finish_scores()
        self._protected, self.phase = {}, "eval"
        self.bank.set_task(self.bank.num_tasks - 1)

    def state_dict(self) -> dict[str, Any]:
        """What the state of the model does not hold."""
        return {"phase": self.phase, "protected": self._protected, "bank": self.bank.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on, in the middle of a phase too; load the state of the model first."""
        self.bank.load_state_dict(state["bank"])
        self._protected = dict(state["protected"])
        self._enter(state["phase"])

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self.bank.phase(phase)


def learn_task(
    bank: SupermaskBank,
    fit: Fit,
    mode: str = "exssnet",
    donor: Callable[[], Choice] | None = None,
    generator: torch.Generator | None = None,
) -> Choice:
    """Learn the next task: its mask, then the weights that it may change; earlier tasks are checked to be as they were.

    Args:
        bank: of the masks.
        fit: called in each phase.
        mode: as for `Learning`.
        donor: as for `Learning.begin`.
        generator: of the first scores.

    Returns:
        what the donor was.

    Raises:
        ValueError: for another mode, or a bank that does not fit it.
        RuntimeError: if a weight of an earlier task changed.
    """
    learning = Learning(bank, mode)
    choice = learning.begin(donor, generator)
    fit("score")
    if mode != "supsup":
        learning.begin_weights()
        fit("weight")
    learning.finish()
    return choice


def check_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser itself.

    Raises:
        ValueError: if it decays weights, or has been used: either moves weights that have no gradient.
    """
    if any(group.get("weight_decay", 0) for group in optimizer.param_groups):
        raise ValueError("the optimiser decays weights, also those of earlier tasks; set weight_decay=0.")
    if optimizer.state:
        raise ValueError(
            "the optimiser was used before; its momentum would move weights of earlier tasks. Make a new one."
        )
    return optimizer
