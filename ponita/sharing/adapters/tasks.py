"""Choosing the task that a batch is of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ponita.sharing.adapters.policies import TaskSource


@contextmanager
def task_scope(model: nn.Module, task: str) -> Iterator[None]:
    """Let the adapters of a model use the weights of a task; batches hold structures of one task.

    Args:
        model: from `get_peft_model`.
        task: one of the `tasks` of its configuration.

    Raises:
        ValueError: if no adapter knows the task.
    """
    sources = [module for module in model.modules() if isinstance(module, TaskSource)]
    knowing = [source for source in sources if task in source.tasks]
    if not knowing:
        known = sorted({name for source in sources for name in source.tasks})
        raise ValueError(f"task {task!r} is unknown to the adapters of this model; they have {known}.")
    before = [source.task for source in knowing]
    for source in knowing:
        source.choose(task)
    try:
        yield
    finally:
        for source, number in zip(knowing, before, strict=True):
            source.task = number
