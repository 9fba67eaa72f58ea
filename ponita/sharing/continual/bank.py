"""The masks of all layers of a network, the phases in which a task is learned, and which weights each may change."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ponita.sharing.continual.supermask import Supermask
from ponita.sharing.ready import assert_ready

PHASES = ("score", "weight", "eval")
#: Share of a mask that may still be trained, below which a warning is given.
LEAST_FREE = 0.01


class SupermaskBank:
    """The masks of all layers of a model, and the phases of learning a task.

    A task: `begin_task`, train the scores in the phase "score", `finish_scores`, train the weights in the phase "weight"; then
    `set_task` says which task the model computes. The weights that earlier masks select are never changed, so what the model computes for
    an earlier task stays the same, bit for bit (ExSSNeT, arXiv:2210.10209).

    Args:
        model: with the masks in it.
        masks: by the name of the layer.
        exclusive: earlier tasks keep their weights. False is the ablation SSNeT, which forgets.
        per_task: parameters of which each task has values of its own.
    """

    def __init__(
        self, model: nn.Module, masks: dict[str, Supermask], exclusive: bool = True, per_task: Sequence[str] = ()
    ) -> None:
        self.model, self.masks, self.exclusive = model, masks, exclusive
        self.per_task = {name: model.get_parameter(name) for name in per_task}
        self._own: list[dict[str, Tensor]] = []
        self._first = {name: value.detach().clone() for name, value in self.per_task.items()}
        self.task: int | None = None

    @property
    def num_tasks(self) -> int:
        """Tasks whose masks are fixed."""
        return len(next(iter(self.masks.values())).packed)

    def begin_task(self, task: int, generator: torch.Generator | None = None) -> None:
        """New scores for the next task.

        Raises:
            ValueError: unless it is the next one.
        """
        if task != self.num_tasks:
            raise ValueError(
                f"task {task} cannot begin: {self.num_tasks} are finished, so the next is {self.num_tasks}."
            )
        self._keep_own()
        for mask in self.masks.values():
            mask.begin(generator)
        with torch.no_grad():
            for name, value in self.per_task.items():
                value.copy_(self._first[name])
        self.task = task

    def phase(self, name: str) -> None:
        """What may train: "score", "weight" or, nothing, "eval".

        Raises:
            ValueError: for another name, or weights before the scores are finished.
        """
        if name not in PHASES:
            raise ValueError(f"phase {name!r}; expected one of {PHASES}.")
        if name == "weight" and self.task != self.num_tasks - 1:
            raise ValueError(
                f"the scores of task {self.task} are not finished; call finish_scores() before its weights."
            )
        self.model.requires_grad_(False)
        for layer, mask in zip(self.layers(), self.masks.values(), strict=True):
            mask.phase = name
            mask.scores.requires_grad_(name == "score")
            layer.parametrizations.weight.original.requires_grad_(name == "weight")
        for value in self.per_task.values():
            value.requires_grad_(name != "eval")

    def finish_scores(self) -> None:
        """Fix the mask of the task, and with it what the weights may change."""
        for mask in self.masks.values():
            mask.finish()
        self._show(self.task)
        free = self.free_fraction(self.task)
        if self.exclusive and free < LEAST_FREE:
            warnings.warn(
                f"only {free:.2%} of the mask of task {self.task} may be trained, the rest belongs to earlier tasks. Lower the density, "
                "or use a larger network.",
                stacklevel=2,
            )

    def set_task(self, task: int) -> None:
        """Compute a task that was learned.

        Raises:
            ValueError: for one that was not.
        """
        if not 0 <= task < self.num_tasks:
            raise ValueError(f"task {task} was not learned; there are {self.num_tasks}, from 0.")
        self._keep_own()
        self.task = task
        self._show(task)
        self.phase("eval")

    def free_fraction(self, task: int) -> float:
        """Share of the mask of a task that no earlier mask selects; about (1 - density)^task."""
        pairs = [(mask.of_task(task), mask.claimed(task)) for mask in self.masks.values()]
        return sum(int((own & ~claimed).sum()) for own, claimed in pairs) / sum(int(own.sum()) for own, _ in pairs)

    def parameters_for_phase(self) -> list[nn.Parameter]:
        """Those that train now."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def snapshot_protected(self) -> dict[str, Tensor]:
        """The weights that earlier tasks own; 0 elsewhere."""
        pairs = zip(self.masks.items(), self.layers(), strict=True)
        return {n: layer.parametrizations.weight.original.detach() * m.claimed(self.task) for (n, m), layer in pairs}

    def verify_protected(self, snapshot: dict[str, Tensor]) -> None:
        """Raise RuntimeError if a weight of an earlier task is not what it was, to the last bit."""
        changed = [name for name, value in self.snapshot_protected().items() if not torch.equal(value, snapshot[name])]
        if changed and self.exclusive:
            raise RuntimeError(
                f"weights of earlier tasks changed in {changed[:3]}. Train with an optimiser that is new for each phase and has no weight decay: "
                "momentum and decay move weights without a gradient."
            )

    def task_bytes(self) -> int:
        """What a task adds to storage: packed masks, and parameters of its own."""
        bits = sum(mask.packed.shape[1] for mask in self.masks.values())
        return bits + sum(value.numel() * value.element_size() for value in self.per_task.values())

    def state_dict(self) -> dict[str, Any]:
        """What the state of the model does not hold: parameters of finished tasks."""
        self._keep_own()
        return {"own": self._own, "first": self._first, "task": self.task}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on; load the state of the model first."""
        self._own, self._first, task = list(state["own"]), dict(state["first"]), state["task"]
        self.task = None
        if task is not None and task < self.num_tasks:
            self.set_task(task)
        else:
            self.task = task  # its scores were not finished

    def layers(self) -> Iterator[nn.Module]:
        """The masked layers."""
        return (self.model.get_submodule(name) for name in self.masks)

    def _show(self, task: int) -> None:
        for mask in self.masks.values():
            mask.mask = mask.of_task(task).to(mask.scores.dtype)
            claimed = mask.claimed(task) if self.exclusive else torch.zeros_like(mask.mask, dtype=torch.bool)
            mask.edit = mask.mask.bool() & ~claimed
        if task < len(self._own):
            with torch.no_grad():
                for name, value in self.per_task.items():
                    value.copy_(self._own[task][name])

    def _keep_own(self) -> None:
        """Remember the parameters of the task that was at hand."""
        if self.task is None or self.task >= self.num_tasks:
            return
        own = {name: value.detach().clone() for name, value in self.per_task.items()}
        self._own[self.task : self.task + 1] = [own]


def attach_supermasks(
    model: nn.Module,
    density: float = 0.1,
    exclude: Sequence[str] = (),
    per_task: Sequence[str] = (),
    exclusive: bool = True,
    scale_fan: bool = False,
) -> SupermaskBank:
    """Mask the weights of all linear layers of a model, and set them to a constant size with the signs that they have.

    Weights become sign(w) sqrt(2 / fan-in). Other parameters are frozen at what they are, unless they are named. Calibrate before:
    what is computed with constant weights is on another scale, which layer norms absorb.

    Args:
        model: its parameters must have values.
        density: share of each weight that a mask keeps.
        exclude: names of layers to leave as they are.
        per_task: names of parameters of which each task is to have its own, such as biases.
        exclusive: as for `SupermaskBank`.
        scale_fan: divide fan-in by the density too, so that masked sums keep their size. Not published; it helped a plain
            network without training of weights, and hurt an equivariant one.

    Raises:
        ValueError: for a density outside of (0, 1], a model without linear layers, or one that is masked already.
    """
    if not 0 < density <= 1:
        raise ValueError(f"density={density}; expected a share above 0, at most 1.")
    assert_ready(model)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n not in exclude}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear layers to mask.")
    masked = [name for name, layer in layers.items() if parametrize.is_parametrized(layer)]
    if masked:
        raise ValueError(f"{masked[:3]} are parametrised already; attach masks once, to plain layers.")
    masks = {}
    for name, layer in layers.items():
        fan = layer.in_features * (density if scale_fan else 1.0)
        with torch.no_grad():
            layer.weight.copy_(torch.where(layer.weight < 0, -1.0, 1.0) * math.sqrt(2 / fan))
        masks[name] = Supermask(layer.weight, density)
        parametrize.register_parametrization(layer, "weight", masks[name])
    return SupermaskBank(model, masks, exclusive, per_task)
