"""Who takes part in which round: patterns for simulations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

#: Probability per round that a Markov client comes back.
RETURN = 0.05
PERIOD = 100


class Participation:
    """Base of the patterns.

    Args:
        rates: of each client, in (0, 1].
        seed: of the draws.

    Raises:
        ValueError: for no clients, or a rate outside of (0, 1].
    """

    def __init__(self, rates: Mapping[str, float], seed: int = 0) -> None:
        if not rates or not all(0 < rate <= 1 for rate in rates.values()):
            raise ValueError(f"rates={dict(rates)}; expected at least one, each above 0 and at most 1.")
        self.rates = dict(sorted(rates.items()))
        self.generator = torch.Generator().manual_seed(seed)
        self._rates = torch.tensor(list(self.rates.values()), dtype=torch.float64)

    @abstractmethod
    def round(self) -> set[str]:
        """Names of those who take part in the next round."""

    def _chances(self, probabilities: Tensor) -> Tensor:
        """[N] of independent events."""
        return torch.rand(len(probabilities), generator=self.generator, dtype=torch.float64) < probabilities

    def _named(self, present: Tensor) -> set[str]:
        return {client for client, on in zip(self.rates, present.tolist(), strict=True) if on}


class Bernoulli(Participation):
    """Every round is drawn anew."""

    def round(self) -> set[str]:
        return self._named(self._chances(self._rates))


class Markov(Participation):
    """Clients stay away, or stay, for a while: off to on with probability a, on to off with b = a (1/p - 1).

    Args:
        rates: p of each client, in the long run.
        seed: of the draws.
        a: smaller where b would exceed one.
    """

    def __init__(self, rates: Mapping[str, float], seed: int = 0, a: float = RETURN) -> None:
        super().__init__(rates, seed)
        if not 0 < a <= 1:
            raise ValueError(f"a={a}; expected a probability above 0.")
        go = a * (1 / self._rates - 1)
        #: [N] probabilities to come and to go; a client of a small rate would have to go with more than certainty.
        self.come, self.go = torch.where(go > 1, a / go, a), go.clamp(max=1)
        self.on = self._chances(self._rates)

    def round(self) -> set[str]:
        present = self.on
        self.on = torch.where(present, ~self._chances(self.go), self._chances(self.come))
        return self._named(present)


class Cyclic(Participation):
    """On for max(1, p * period) rounds and off for the rest, each client with an offset of its own.

    Args:
        rates: p of each client.
        seed: of the offsets.
        period: rounds.
    """

    def __init__(self, rates: Mapping[str, float], seed: int = 0, period: int = PERIOD) -> None:
        super().__init__(rates, seed)
        if period < 2:
            raise ValueError(f"period={period}; expected at least 2 rounds.")
        self.time = 0
        self.spans = {}
        for client, rate in self.rates.items():
            on = max(1, round(period * rate))
            off = max(1, period - on)
            self.spans[client] = (on, off, int(torch.randint(off, (), generator=self.generator)))

    def round(self) -> set[str]:
        self.time += 1
        return {c for c, (on, off, offset) in self.spans.items() if (self.time - 1 + offset) % (on + off) >= off}
