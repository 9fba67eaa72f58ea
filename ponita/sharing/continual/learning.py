"""The order of things when a task is learned with supermasks."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ponita.sharing.continual.bank import SupermaskBank
from ponita.sharing.continual.knn_transfer import Choice, start_from

MODES = ("exssnet", "ssnet", "supsup")
#: Trains what requires a gradient, in the phase "score" or "weight": with an optimiser of its own and no weight decay.
Fit = Callable[[str], None]


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
        mode: "exssnet", "ssnet" (all weights of the mask may change; forgets) or "supsup" (none do).
        donor: which earlier task to start from, such as `KnnTransfer.choose` of a sample; none where None.
        generator: of the first scores.

    Returns:
        what the donor was.

    Raises:
        ValueError: for another mode, or a bank that does not fit it.
        RuntimeError: if a weight of an earlier task changed.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}; expected one of {MODES}.")
    if (mode == "ssnet") == bank.exclusive:
        raise ValueError(
            f"mode={mode!r} with exclusive={bank.exclusive}; attach the masks with exclusive={mode != 'ssnet'}."
        )
    choice = Choice(None) if donor is None or bank.num_tasks == 0 else donor()
    bank.begin_task(bank.num_tasks, generator)
    if choice.task is not None:
        start_from(bank, choice.task)
    bank.phase("score")
    fit("score")
    bank.finish_scores()
    if mode != "supsup":
        before = bank.snapshot_protected()
        bank.phase("weight")
        fit("weight")
        bank.verify_protected(before)
    bank.set_task(bank.num_tasks - 1)
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
