"""A memory of architectures that a controller drew, and losses on it that keep the controller's state informative.

Trained by rewards alone, a controller's state forgets what was decided; training it on earlier samples brings that back
(Adam and Lorraine, "Understanding Neural Architecture Search Techniques", arXiv:1904.00438).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ponita.sharing.search.controller import Controller, DecisionHeads, Unrolled
from ponita.sharing.search.space import Architecture

MODES = ("next", "prev", "recon")


class ArchitectureMemory:
    """Architectures that a policy drew.

    New ones are appended while there is room. Once the memory is full, some of the new ones replace the last entries, so that
    most of it stays what the policy drew early, when it was still diverse.

    Args:
        capacity: most entries.
        n_store: architectures drawn each time.
        n_replace: how many of those replace entries of a full memory.

    Raises:
        ValueError: for a number below one, or more replacements than draws or entries.
    """

    def __init__(self, capacity: int = 10_000, n_store: int = 1000, n_replace: int = 100) -> None:
        if min(capacity, n_store, n_replace) < 1 or n_replace > min(n_store, capacity):
            raise ValueError(
                f"capacity={capacity}, n_store={n_store}, n_replace={n_replace}; expected at least 1 of each, and n_replace "
                "neither above n_store nor above capacity."
            )
        self.capacity, self.n_store, self.n_replace = capacity, n_store, n_replace
        self.architectures: list[Architecture] = []

    def __len__(self) -> int:
        return len(self.architectures)

    def store(self, controller: Controller, generator: torch.Generator | None = None) -> None:
        """Draw from the policy, and keep what there is room for."""
        with torch.no_grad():
            new = controller.sample(self.n_store, generator).architectures
        room = self.capacity - len(self)
        if room:
            self.architectures += new[:room]
            return
        rows = torch.randperm(len(new), generator=generator)[: self.n_replace].tolist()
        self.architectures[-self.n_replace :] = [new[row] for row in rows]

    def draw(self, n: int, generator: torch.Generator | None = None) -> list[Architecture]:
        """Uniform entries, with replacement.

        Raises:
            ValueError: if nothing was stored.
        """
        if not self.architectures:
            raise ValueError("the memory is empty; call store(controller) first.")
        return [self.architectures[row] for row in torch.randint(len(self), (n,), generator=generator).tolist()]


class MemoryRegularizer(nn.Module):
    """A loss of a controller on architectures of its memory, read from the zero state after the start vector.

    With h_t the state that has read the first t of T decisions a, and means over architectures and decisions:

    - "next": -log p(a_{t+1} | h_t), t = 1 ... T - 1. This is what the authors' program does; it also imitates old
      samples, which costs reward.
    - "prev": -log q_t(a_t | h_t), t = 1 ... T: a head tells the decision just read; a state that forgets all others
      can do so.
    - "recon": -log q_t(a_t | h_T), t = 1 ... T: heads tell all decisions from the last state.

    Their program applies the cross-entropy to probabilities in place of logits, embeds options without their choice, and
    feeds the first decision in place of the start vector; none of that is done here.

    Args:
        controller: that is trained; it is not a part of this module.
        memory: to draw from.
        mode: "next", "prev" or "recon".
        weight: factor of the loss.
        batch: architectures in a loss.
        store_from: epoch, from 0, of the first storing.
        train_from: epoch of the first loss.

    Raises:
        ValueError: for an unknown mode, "next" with a single decision, a negative weight, an empty batch, or training that
            starts before storing.
    """

    def __init__(
        self,
        controller: Controller,
        memory: ArchitectureMemory,
        mode: str = "recon",
        weight: float = 1.0,
        batch: int = 100,
        store_from: int = 5,
        train_from: int = 10,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode={mode!r}; expected one of {MODES}.")
        if mode == "next" and len(controller.space) < 2:
            raise ValueError("mode='next' predicts decisions from those before; the space has a single choice.")
        if weight < 0 or batch < 1:
            raise ValueError(f"weight={weight}, batch={batch}; expected at least 0 and at least 1.")
        if not 0 <= store_from <= train_from:
            raise ValueError(
                f"store_from={store_from}, train_from={train_from}; expected 0 <= store_from <= train_from."
            )
        self.memory, self.mode, self.weight, self.batch = memory, mode, weight, batch
        self.store_from, self.train_from = store_from, train_from
        self.heads = None if mode == "next" else DecisionHeads(controller.space, controller.hidden)

    def epoch_start(self, controller: Controller, epoch: int, generator: torch.Generator | None = None) -> None:
        """Store what the policy draws, before it is trained in an epoch."""
        if epoch >= self.store_from:
            self.memory.store(controller, generator)

    def loss(self, controller: Controller, epoch: int, generator: torch.Generator | None = None) -> Tensor | float:
        """The weighted loss of a step; 0 in epochs before `train_from`.

        Raises:
            ValueError: if nothing was stored by then.
        """
        if epoch < self.train_from:
            return 0.0
        return self.weight * self.cross_entropy(controller.unroll(self.memory.draw(self.batch, generator)))

    def cross_entropy(self, seen: Unrolled) -> Tensor:
        """The loss of the mode on architectures that were read, before its weight."""
        if self.mode == "next":
            return -seen.chosen[:, 1:].mean()
        states = seen.states[:, 1:]
        if self.mode == "recon":
            states = states[:, -1:].expand_as(states)
        return -self.heads(states).gather(2, seen.decisions[..., None]).mean()
