"""How often each client takes part, learned while it does or does not: two numbers and a counter for each (FedAU)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any


class ParticipationWeights:
    """Estimates of 1 / (rate of participation), from the gaps between the rounds that a client takes part in.

    The weight of a client is the mean of its finished gaps, each counted up to `cutoff` rounds, and 1 before the first one
    ends. A round changes the weights only after it: the weight that a round uses is independent of who takes part in it,
    which is what makes the average unbiased.

    Args:
        clients: names of all there are, also of those that have not been seen: their absence counts from the first round.
        cutoff: K, rounds after which a gap is counted though it has not ended; no limit where None. A small one has less
            variance and a bias: a client of rate p gets (1 - (1 - p)^K) / p on average in place of 1 / p.

    Raises:
        ValueError: without clients, with one named twice, or a cutoff below 1.

    Source: Wang and Ji, ICLR 2024, arXiv:2306.03401, algorithm 2.
    """

    def __init__(self, clients: Sequence[str], cutoff: int | None = 50) -> None:
        if not clients or len(set(clients)) != len(clients):
            raise ValueError(f"clients={list(clients)}; expected different names, at least one.")
        if cutoff is not None and cutoff < 1:
            raise ValueError(f"cutoff={cutoff}; expected at least 1 round, or None.")
        self.clients, self.cutoff = sorted(clients), cutoff
        self._weight = dict.fromkeys(self.clients, 1.0)
        self._finished = dict.fromkeys(self.clients, 0)
        self._gap = dict.fromkeys(self.clients, 0)

    def weight(self, client: str) -> float:
        """Of the next round.

        Raises:
            ValueError: for a client that is not on the roster.
        """
        self._expect([client])
        return self._weight[client]

    def update(self, participated: Collection[str]) -> None:
        """End a round, also one that nobody took part in.

        Args:
            participated: names of those who did.

        Raises:
            ValueError: for a client that is not on the roster.
        """
        self._expect(participated)
        for client in self.clients:
            self._gap[client] += 1
            if client in participated or self._gap[client] == self.cutoff:
                finished = self._finished[client]
                before = self._weight[client] * finished
                self._weight[client] = (before + self._gap[client]) / (finished + 1)
                self._finished[client], self._gap[client] = finished + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""
        rows = {c: [self._weight[c], self._finished[c], self._gap[c]] for c in self.clients}
        return {"cutoff": self.cutoff, "clients": rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another server stopped.

        Raises:
            ValueError: for another roster or cutoff.
        """
        if sorted(state["clients"]) != self.clients or state["cutoff"] != self.cutoff:
            raise ValueError(
                f"the state is of clients {sorted(state['clients'])} with cutoff {state['cutoff']}; expected {self.clients} and "
                f"{self.cutoff}."
            )
        for client, (weight, finished, gap) in state["clients"].items():
            self._weight[client], self._finished[client], self._gap[client] = float(weight), int(finished), int(gap)

    def _expect(self, names: Collection[str]) -> None:
        unknown = sorted(set(names) - set(self.clients))
        if unknown:
            raise ValueError(
                f"clients {unknown} are not on the roster of {len(self.clients)} ({', '.join(self.clients[:8])}, ...). Name every client "
                "from the first round: one that appears later was absent before, which counts."
            )
