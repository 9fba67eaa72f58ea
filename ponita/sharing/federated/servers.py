"""Ways to average what clients send when they come and go: FedAU, and what it is compared with.

All have one interface: `step(state, updates)` takes what those who took part changed, and returns the new global state. The sums
run over clients in the order of their names, so that the same replies give the same bits. Updates that are not finite are treated
as absent; buffers that are not floating-point keep the server's values.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ponita.sharing.federated.participation_weights import ParticipationWeights

State = Mapping[str, Tensor]


class Server:
    """Base of the servers.

    Args:
        clients: names of all there are.
        server_lr: factor of the averaged update.
        shares: of each client in the objective, such as its share of the data; 1/N where None.

    Attributes:
        rejected: names whose last update was not finite.

    Raises:
        ValueError: for shares of other clients, negative ones, or ones whose sum is not 1.
    """

    def __init__(
        self, clients: Sequence[str], server_lr: float = 1.0, shares: Mapping[str, float] | None = None
    ) -> None:
        if not clients or len(set(clients)) != len(clients):
            raise ValueError(f"clients={list(clients)}; expected different names, at least one.")
        self.clients, self.server_lr = sorted(clients), server_lr
        self.shares = dict.fromkeys(self.clients, 1 / len(clients)) if shares is None else dict(shares)
        total = sum(self.shares.values())
        if sorted(self.shares) != self.clients or min(self.shares.values()) < 0 or abs(total - 1) > 1e-6:
            raise ValueError(
                f"shares of {sorted(self.shares)} with sum {total:g}; expected those of {self.clients}, with sum 1."
            )
        self.rejected: list[str] = []

    def step(self, state: State, updates: Mapping[str, State]) -> dict[str, Tensor]:
        """The new global state.

        Args:
            state: that the clients began with.
            updates: by client, its state after local training minus `state`.

        Raises:
            ValueError: for a client that is not on the roster, or tensors of other names or shapes.
        """
        unknown = sorted(set(updates) - set(self.clients))
        if unknown:
            raise ValueError(f"updates of {unknown}, who are not on the roster {self.clients}.")
        for client, update in updates.items():
            _check_update(client, state, update)
        self.rejected = sorted(client for client, update in updates.items() if not _is_finite(update))
        usable = {client: updates[client] for client in sorted(updates) if client not in self.rejected}
        change = self._change(state, usable)
        self._end_round(usable)
        return {k: v + self.server_lr * change[k].to(v) if k in change else v.clone() for k, v in state.items()}

    @abstractmethod
    def _change(self, state: State, updates: Mapping[str, State]) -> State:
        """The averaged update; nothing for a round without replies."""

    def _end_round(self, updates: Mapping[str, State]) -> None:
        """After the average: what the server learns of the round."""

    def stored(self) -> int:
        """Numbers that the server keeps between rounds, beside the model."""
        return 0

    def state_dict(self) -> dict[str, Any]:
        """What a server that is started again needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another stopped."""


class FedAU(Server):
    """x += server_lr * sum_n share_n w_n update_n, with w_n learned from the gaps of participation.

    The sum is over those who took part, and is not divided by the sum of their weights: that would be biased.

    Args:
        clients, server_lr, shares: as for `Server`.
        cutoff: K of `ParticipationWeights`.

    Source: Wang and Ji, ICLR 2024, arXiv:2306.03401.
    """

    def __init__(
        self,
        clients: Sequence[str],
        server_lr: float = 1.0,
        shares: Mapping[str, float] | None = None,
        cutoff: int | None = 50,
    ) -> None:
        super().__init__(clients, server_lr, shares)
        self.weights = ParticipationWeights(clients, cutoff)

    def _change(self, state: State, updates: Mapping[str, State]) -> State:
        return _weighted(updates, {c: self.shares[c] * self.weights.weight(c) for c in updates})

    def _end_round(self, updates: Mapping[str, State]) -> None:
        self.weights.update(set(updates))

    def stored(self) -> int:
        return 3 * len(self.clients)

    def state_dict(self) -> dict[str, Any]:
        return self.weights.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights.load_state_dict(state)


class AverageParticipating(Server):
    """The mean over those who took part, weighted by their shares: what federated averaging does."""

    def _change(self, state: State, updates: Mapping[str, State]) -> State:
        total = sum(self.shares[client] for client in updates)
        return _weighted(updates, {client: self.shares[client] / total for client in updates})


class AverageAll(Server):
    """The mean over all clients, where those who did not take part changed nothing."""

    def _change(self, state: State, updates: Mapping[str, State]) -> State:
        return _weighted(updates, {client: self.shares[client] for client in updates})


class KnownRates(Server):
    """The unbiased mean of known rates of participation: what FedAU estimates.

    Args:
        clients, server_lr, shares: as for `Server`.
        rates: of each client.
    """

    def __init__(
        self,
        clients: Sequence[str],
        rates: Mapping[str, float],
        server_lr: float = 1.0,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(clients, server_lr, shares)
        if sorted(rates) != self.clients or min(rates.values()) <= 0:
            raise ValueError(f"rates of {sorted(rates)}; expected a positive one of each of {self.clients}.")
        self.rates = dict(rates)

    def _change(self, state: State, updates: Mapping[str, State]) -> State:
        return _weighted(updates, {client: self.shares[client] / self.rates[client] for client in updates})


class _Remembers(Server):
    """A server that keeps the last update of every client.

    Args:
        clients, server_lr, shares: as for `Server`.
    """

    def __init__(
        self, clients: Sequence[str], server_lr: float = 1.0, shares: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(clients, server_lr, shares)
        self.last: dict[str, dict[str, Tensor]] = {}

    def _end_round(self, updates: Mapping[str, State]) -> None:
        for client, update in updates.items():
            self.last[client] = {k: v.clone() for k, v in update.items() if v.is_floating_point()}

    def stored(self) -> int:
        each = max((sum(v.numel() for v in update.values()) for update in self.last.values()), default=0)
        return each * len(self.clients)

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last = dict(state["last"])


class Mifa(_Remembers):
    """The mean of the last updates of all clients (Gu et al., arXiv:2106.04159): a model-sized memory for each."""

    def _change(self, state: State, updates: Mapping[str, State]) -> State:
        known = {**self.last, **updates}
        return _weighted({c: known[c] for c in sorted(known)}, {c: self.shares[c] for c in known})


class FedVarp(_Remembers):
    """The mean of what changed since a client's last update, plus the mean of all last updates (Jhunjhunwala et al., arXiv:2207.14130)."""

    def _change(self, state: State, updates: Mapping[str, State]) -> State:
        remembered = _weighted({c: self.last[c] for c in sorted(self.last)}, {c: self.shares[c] for c in self.last})
        if not updates:
            return remembered
        news = {c: _minus(update, self.last.get(c)) for c, update in updates.items()}
        total = sum(self.shares[c] for c in updates)
        change = _weighted(news, {c: self.shares[c] / total for c in updates})
        return {k: v + remembered[k] if k in remembered else v for k, v in change.items()}


def _weighted(updates: Mapping[str, State], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Sum of weighted updates, in the order given; floating-point tensors only."""
    total: dict[str, Tensor] = {}
    for client, update in updates.items():
        for name, value in update.items():
            if value.is_floating_point():
                part = weights[client] * value
                total[name] = total[name] + part if name in total else part
    return total


def _minus(update: State, last: State | None) -> State:
    return update if last is None else {k: v - last[k] for k, v in update.items() if v.is_floating_point()}


def _is_finite(update: State) -> bool:
    return all(bool(torch.isfinite(v).all()) for v in update.values() if v.is_floating_point())


def _check_update(client: str, state: State, update: State) -> None:
    expected = {k: tuple(v.shape) for k, v in state.items() if v.is_floating_point()}
    seen = {k: tuple(v.shape) for k, v in update.items() if v.is_floating_point()}
    if seen != expected:
        differing = sorted(k for k in expected.keys() | seen.keys() if expected.get(k) != seen.get(k))
        raise ValueError(
            f"the update of {client} differs from the global state in {differing[:5]}: it has {[seen.get(k) for k in differing[:5]]}, "
            f"expected {[expected.get(k) for k in differing[:5]]}. Send the same model, of which every floating-point tensor."
        )
