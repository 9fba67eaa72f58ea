"""A recurrent policy over architectures: one decision for each choice, each conditioned on all before it (ENAS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ponita.sharing.search.space import Architecture, SearchSpace

INITIAL = 0.1


@dataclass
class ControllerSample:
    """Architectures, and what the policy says of them.

    Attributes:
        architectures: n of them.
        log_prob: [n] of the whole architectures: the sum over their decisions.
        entropy: [n] sum of the entropies of the distributions that the decisions were drawn from.
        hidden: [n, H] state after the last decision was read.
    """

    architectures: list[Architecture]
    log_prob: Tensor
    entropy: Tensor
    hidden: Tensor


@dataclass
class Unrolled:
    """The policy along n given architectures.

    Attributes:
        decisions: [n, T] their options.
        log_probs: [n, T, M] of every option of each decision, given the decisions before it; M is the largest number of
            options, and what is no allowed option has -inf.
        states: [n, T + 1, H]; state t has read the first t decisions, and decision t + 1 is drawn from it.
    """

    decisions: Tensor
    log_probs: Tensor
    states: Tensor

    @property
    def chosen(self) -> Tensor:
        """[n, T] logarithm of the probability of each decision."""
        return self.log_probs.gather(2, self.decisions[..., None])[..., 0]

    @property
    def entropies(self) -> Tensor:
        """[n, T] of the distribution of each decision."""
        # 0 log 0 is 0, but 0 * -inf is not.
        return -(self.log_probs.exp() * self.log_probs.masked_fill(self.log_probs.isinf(), 0.0)).sum(2)


class DecisionHeads(nn.Module):
    """A linear layer for each of T decisions, from states to log-probabilities of the options.

    Args:
        space: whose choices are decided on.
        hidden: H.
        tanh_constant: bounds the logits by tanh_constant * tanh(logits / temperature); None leaves them as they are.
        temperature: of that bound.

    Shape:
        states [n, T, H] -> [n, T, M], M the largest number of options; -inf for what is no allowed option
    """

    def __init__(
        self, space: SearchSpace, hidden: int, tanh_constant: float | None = None, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.tanh_constant, self.temperature = tanh_constant, temperature
        most = max(len(choice) for choice in space.values())
        allowed = torch.zeros(len(space), most, dtype=torch.bool)
        for row, options in zip(allowed, space.allowed.values(), strict=True):
            row[list(options)] = True
        self.register_buffer("allowed", allowed, persistent=False)
        self.weight = nn.Parameter(torch.zeros(len(space), most, hidden))
        self.bias = nn.Parameter(torch.zeros(len(space), most))
        initialise(self)

    def forward(self, states: Tensor, decisions: slice = slice(None)) -> Tensor:
        """Of all decisions, or of those that there are states of."""
        logits = torch.einsum("nth,tmh->ntm", states, self.weight[decisions]) + self.bias[decisions]
        if self.tanh_constant is not None:
            logits = self.tanh_constant * torch.tanh(logits / self.temperature)
        return logits.masked_fill(~self.allowed[decisions], float("-inf")).log_softmax(-1)


def initialise(module: nn.Module) -> None:
    """Draw all parameters from [-0.1, 0.1], so that the policy is nearly uniform."""
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -INITIAL, INITIAL)


class Controller(nn.Module):
    """An LSTM that decides on one choice after another, in the order of the space.

    The logits of a decision are tanh_constant * tanh(head(h) / temperature); the decision's embedding is the next input, and
    a learned vector the first. Options that the space does not allow have probability zero.

    Args:
        space: of the architectures.
        hidden: H, width of the state and of the embeddings.
        layers: of the LSTM.
        tanh_constant: bound of the logits; a small one keeps the policy from becoming certain early.
        temperature: divides the logits before the bound.

    Raises:
        ValueError: for a width, depth, bound or temperature that is not positive.

    Source: Pham et al., arXiv:1802.03268, section 2.
    """

    def __init__(
        self,
        space: SearchSpace,
        hidden: int = 64,
        layers: int = 1,
        tanh_constant: float = 2.5,
        temperature: float = 5.0,
    ) -> None:
        super().__init__()
        given = {"hidden": hidden, "layers": layers, "tanh_constant": tanh_constant, "temperature": temperature}
        wrong = {name: value for name, value in given.items() if not value > 0}
        if wrong:
            raise ValueError(f"{wrong}; expected positive numbers.")
        self.space, self.hidden = space, hidden
        sizes = [len(choice) for choice in space.values()]
        self.start = nn.Parameter(torch.zeros(hidden))
        self.embedding = nn.Embedding(sum(sizes), hidden)
        self.lstm = nn.LSTM(hidden, hidden, layers, batch_first=True)
        # Each decision has embeddings of its own: option 0 of one choice has nothing to do with option 0 of another.
        offsets = torch.tensor([sum(sizes[:t]) for t in range(len(sizes))])
        self.register_buffer("offsets", offsets, persistent=False)
        self.heads = DecisionHeads(space, hidden, tanh_constant, temperature)
        initialise(self)

    def sample(self, n: int, generator: torch.Generator | None = None) -> ControllerSample:
        """Draw architectures from the policy; log-probabilities, entropies and states carry gradients.

        Args:
            n: how many.
            generator: on the controller's device.

        Raises:
            ValueError: for fewer than one.
        """
        if n < 1:
            raise ValueError(f"n={n} architectures; expected at least one.")
        return self._score(self._draw(n, generator))

    def score(self, architectures: Sequence[Architecture]) -> ControllerSample:
        """What the policy says of given architectures, as if it had drawn them.

        Raises:
            ValueError: for none, or one that is not in the space.
        """
        return self._score(self._decisions(architectures))

    def log_prob(self, architectures: Sequence[Architecture]) -> Tensor:
        """[n] logarithms of the probabilities of architectures.

        Raises:
            ValueError: for none, or one that is not in the space.
        """
        return self.unroll(architectures).chosen.sum(1)

    def unroll(self, architectures: Sequence[Architecture]) -> Unrolled:
        """Read given architectures, one decision after another, from the zero state.

        Raises:
            ValueError: for none, or one that is not in the space.
        """
        return self._unroll(self._decisions(architectures))

    def _decisions(self, architectures: Sequence[Architecture]) -> Tensor:
        if not architectures:
            raise ValueError("no architectures; expected at least one.")
        return torch.tensor([self.space.check(a) for a in architectures], device=self.start.device)

    def _unroll(self, decisions: Tensor) -> Unrolled:
        first = self.start.expand(len(decisions), 1, -1)
        states, _ = self.lstm(torch.cat([first, self.embedding(decisions + self.offsets)], dim=1))
        return Unrolled(decisions, self.heads(states[:, :-1]), states)

    def _score(self, decisions: Tensor) -> ControllerSample:
        seen = self._unroll(decisions)
        architectures = [tuple(row) for row in decisions.tolist()]
        return ControllerSample(architectures, seen.chosen.sum(1), seen.entropies.sum(1), seen.states[:, -1])

    @torch.no_grad()
    def _draw(self, n: int, generator: torch.Generator | None) -> Tensor:
        step, state, drawn = self.start.expand(n, 1, -1), None, []
        for t in range(len(self.space)):
            out, state = self.lstm(step, state)
            probs = self.heads(out, slice(t, t + 1))[:, 0].exp()
            drawn.append(torch.multinomial(probs, 1, generator=generator))
            step = self.embedding(drawn[t] + self.offsets[t])
        return torch.cat(drawn, dim=1)
