"""A network that learns classes as they come, by one of the methods that are compared."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ponita.models import Ponita
from ponita.nn import pool
from ponita.sharing.continual import AlignConfig, ExemplarMemory, align_weights, clip_heads, grow_head, incremental_loss


@dataclass(frozen=True)
class Method:
    """What a method does beside minimising the cross-entropy.

    Attributes:
        distils: from the network of the stage before.
        aligns: its read-outs after each stage.
        keeps_all: learns from all images of the classes seen; no method that has to do with exemplars can be expected to do better.
    """

    distils: bool = False
    aligns: bool = False
    keeps_all: bool = False


METHODS = {
    "joint": Method(keeps_all=True),
    "finetune": Method(),
    "kd": Method(distils=True),
    "wa": Method(distils=True, aligns=True),
}


class Learner(nn.Module):
    """A network, and what its method keeps: exemplars, and the network of the stage before as the teacher.

    Read-outs have the rows of all ten classes from the start, and a bias of zero that is not trained, so that the network is an
    ordinary `Ponita` and the optimiser and the checkpoint have the same tensors in all stages. Outputs for classes that have
    not come are cut off, and their rows are zero. When classes come, rows are made as `grow_head` makes them, which is the same as
    read-outs that grow.

    Args:
        method: a name in `METHODS`.
        network: with ten outputs; it is changed.
        align: settings of the alignment, of the distillation, and of new rows.

    Attributes:
        memory: rows of the training set; its budget is set in the setup of the task.
        reports: by stage, what `align_weights` did, or would have done.
    """

    def __init__(self, method: str, network: Ponita, align: AlignConfig) -> None:
        super().__init__()
        self.method, self.align, self.network = METHODS[method], align, network
        for head in self.heads:
            nn.init.zeros_(head.bias).requires_grad_(False)
        self.teacher = copy.deepcopy(network).requires_grad_(False) if self.method.distils else None
        self.memory = ExemplarMemory(budget=1)
        self.reports: dict[int, dict[str, Any]] = {}

    @property
    def heads(self) -> list[nn.Linear]:
        """Of all read-outs."""
        return [readout.linear for readout in self.network.readouts.values()]

    @torch.no_grad()
    def begin(self, num_old: int, num_seen: int, seed: int) -> None:
        """Make the rows of the classes seen, at the start of a stage.

        Args:
            num_old: classes of the stages before.
            num_seen: and those of this one.
            seed: of new rows.
        """
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(seed)
            for head in self.heads:
                before = nn.Linear(head.in_features, num_old or num_seen, bias=False)
                if num_old:
                    before.weight.copy_(head.weight[:num_old])
                head.weight.zero_()
                head.weight[:num_seen] = grow_head(before, num_seen, self.align.head_init).weight

    def loss(self, inputs: dict[str, Any], y: Tensor, num_old: int, num_seen: int) -> Tensor:
        """Of a batch.

        Args:
            inputs: of the network.
            y: [G] classes, as places in the stream.
            num_old: classes of the stages before.
            num_seen: and those of this one.
        """
        logits, teacher = self.network(**inputs).scalars[:, :num_seen], None
        if self.teacher is not None and num_old:
            with torch.no_grad():
                teacher = self.teacher(**inputs).scalars[:, :num_old]
        return incremental_loss(logits, y, teacher, self.align.temperature)

    def after_step(self) -> None:
        """Clip read-outs, where the settings say so."""
        if self.method.aligns and self.align.clip:
            clip_heads(self.heads)

    def end(self, stage: int, num_old: int, num_seen: int) -> None:
        """Align the read-outs, and then make the network the teacher of the next stage.

        Args:
            stage: that ends.
            num_old: classes of the stages before.
            num_seen: and those of this one.
        """
        if num_old:
            heads = self.heads if self.method.aligns else copy.deepcopy(self.heads)
            options = {"p": self.align.p, "max_gamma": self.align.max_gamma}
            self.reports[stage] = asdict(align_weights(heads, num_old, num_seen - num_old, **options))
        if self.teacher is not None:
            self.teacher.load_state_dict(self.network.state_dict())

    def state(self) -> dict[str, Any]:
        """What is not among the tensors."""
        return {"memory": self.memory.state_dict(), "reports": dict(self.reports)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with this."""
        self.memory.load_state_dict(state["memory"])
        self.reports = dict(state["reports"])


@torch.no_grad()
def pooled_features(network: Ponita, inputs: dict[str, Any]) -> Tensor:
    """[G, L C]: what the outputs are linear in, the features at every read-out, averaged over orientations and pooled.

    Args:
        network: with a pooling.
        inputs: of it.
    """
    taken: list[Tensor] = []
    handles = [
        readout.register_forward_pre_hook(lambda _, arguments: taken.append(arguments[0].mean(1)))
        for readout in network.readouts.values()
    ]
    try:
        network(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return pool(torch.cat(taken, dim=1), inputs["batch"], inputs["num_graphs"], network.pooling)


@torch.no_grad()
def in_digit_order(network: Ponita, order: Sequence[int]) -> Ponita:
    """A copy whose outputs are the digits 0 to 9, not the places in the stream.

    Args:
        network: whose outputs are places.
        order: the digit at each place.
    """
    places, made = torch.tensor(order).argsort(), copy.deepcopy(network)
    for readout in made.readouts.values():
        readout.linear.weight.copy_(readout.linear.weight[places])
    return made
