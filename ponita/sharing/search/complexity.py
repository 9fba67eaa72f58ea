"""Architectures on request of their cost: bins of the cost, and a network that generates architectures.

Zhang et al., ShiftNAS: Improving One-shot NAS via Probability Shift, arXiv:2307.08300.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ponita.sharing.search.costs import Cost, CostTable
from ponita.sharing.search.space import Architecture, Relaxation, SearchSpace

#: Score of options that are not allowed: their probability is zero, and so are its gradients, which -inf would make NaN.
CLOSED = -1e9


class ComplexityBins:
    """Architectures by the logarithm of their cost, in bins of equal width; an empty bin is joined to the next.

    Costs are compared by their logarithm throughout: they span orders of magnitude, and a share of the range would not tell
    the small ones apart.

    Args:
        space: of the architectures.
        cost: of one.
        n_bins: before empty ones are joined.

    Attributes:
        members: architectures of each bin, the cheapest bin first.
        edges: K + 1 costs between which the bins lie, the lower one included.
        cost: of an architecture, or the expected one under a relaxation, with its gradient.
        log_cost: the same of its logarithm.

    Raises:
        ValueError: for costs that are not positive, or all alike, and without bins.
    """

    def __init__(self, space: SearchSpace, cost: Cost, n_bins: int) -> None:
        self.space, self.cost = space, CostTable(space, cost)
        low, high = self.cost.bounds
        if n_bins < 1 or not 0 < low < high:
            raise ValueError(
                f"{n_bins} bins of costs from {low:g} to {high:g}; expected at least one bin, and costs that are positive "
                "and differ."
            )
        self.log_cost = CostTable(space, lambda architecture: math.log(self.cost(architecture)))
        inner = [low * (high / low) ** (k / n_bins) for k in range(1, n_bins)]
        binned: list[list[Architecture]] = [[] for _ in range(n_bins)]
        for architecture in space.enumerate():
            binned[bisect.bisect(inner, float(self.cost(architecture)))].append(architecture)
        self.members = [members for members in binned if members]
        self.edges = [low, *(edge for edge, members in zip(inner, binned, strict=False) if members), high]

    def __len__(self) -> int:
        return len(self.members)

    @property
    def span(self) -> float:
        """The difference of the logarithms of the greatest and the least cost."""
        return math.log(self.edges[-1] / self.edges[0])

    def bin_of(self, cost: float) -> int:
        """Which bin a cost is in."""
        return bisect.bisect(self.edges[1:-1], cost)

    def position(self, cost: float) -> float:
        """Where a cost lies between the least (0) and the greatest (1), by its logarithm."""
        return math.log(cost / self.edges[0]) / self.span

    def request(self, k: int, generator: torch.Generator | None = None) -> float:
        """The cost of a random architecture of a bin."""
        drawn = self.members[k][int(torch.randint(len(self.members[k]), (), generator=generator))]
        return float(self.cost(drawn))


def resource_loss(cost: Tensor, target: Tensor | float, span: float) -> Tensor:
    """((cost - target) / span)^2: how far the cost lies from the one that was asked for.

    Args:
        cost: expected one of a relaxation.
        target: that was asked for.
        span: the range of the costs, so that the loss does not depend on their unit.

    Shape:
        that of `cost`

    Source:
        Zhang et al., arXiv:2307.08300, resource constraint; there it is not divided by the range.
    """
    return ((cost - target) / span).square()


class ArchitectureGenerator(nn.Module):
    """Makes an architecture of a cost that is asked for: a recurrent network that draws one option after another.

    Each option is a one-hot vector by the Gumbel-max trick, with the gradient of the softmax at temperature tau
    (straight-through), and is what the network reads next.

    Args:
        space: of the architectures; options that it does not allow are never drawn.
        hidden: channels of the recurrent state.

    Source:
        Zhang et al., arXiv:2307.08300, architecture generator.
    """

    def __init__(self, space: SearchSpace, hidden: int = 64) -> None:
        super().__init__()
        self.space = space
        self.request = nn.Sequential(nn.Linear(1, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.cell = nn.LSTMCell(hidden, hidden)
        sizes = [len(choice) for choice in space.values()]
        self.previous = nn.ModuleList(nn.Linear(size, hidden, bias=False) for size in sizes[:-1])
        self.heads = nn.ModuleList(nn.Linear(hidden, size) for size in sizes)

    def forward(
        self, request: Tensor | float, tau: float = 1.0, hard: bool = True, generator: torch.Generator | None = None
    ) -> Relaxation:
        """Draw.

        Args:
            request: [R] or one, positions of the costs from 0, the least, to 1, the greatest (`ComplexityBins.position`).
            tau: temperature of the gradient.
            hard: draw one option; otherwise give weights of all.
            generator: of the draws.

        Shape:
            request [R] -> [R, n] for each choice of n options; [n] for one request
        """
        return self.draw(request, tau, hard, generator)[0]

    def draw(
        self, request: Tensor | float, tau: float = 1.0, hard: bool = True, generator: torch.Generator | None = None
    ) -> tuple[Relaxation, Tensor]:
        """As `forward`, and the entropy [R] of all decisions, each given those before it."""
        return self._decide(request, lambda logits: gumbel_softmax(logits, tau, hard, generator))

    @torch.no_grad()
    def greedy(self, request: float) -> Architecture:
        """The likeliest option of every choice, given those before it."""
        drawn, _ = self._decide(request, _one_hot)
        return architecture_of(drawn)

    def _decide(self, request: Tensor | float, pick: Callable[[Tensor], Tensor]) -> tuple[Relaxation, Tensor]:
        asked = torch.as_tensor(request).to(self.heads[0].weight)
        condition = self.request(asked.reshape(-1, 1))
        relaxation, entropy, picked, state = {}, 0, None, None
        choices = zip(self.space.allowed.items(), self.heads, [None, *self.previous], strict=True)
        for (name, allowed), head, previous in choices:
            state = self.cell(condition if previous is None else previous(picked), state)
            logits = head(state[0])
            closed = [option for option in range(logits.shape[-1]) if option not in allowed]
            logits[:, closed] = CLOSED
            entropy = entropy - (logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
            relaxation[name] = picked = pick(logits)
        shaped = {name: weights.reshape(*asked.shape, -1) for name, weights in relaxation.items()}
        return shaped, entropy.reshape(asked.shape)


def architecture_of(relaxation: Relaxation) -> Architecture:
    """The option of the greatest weight of each choice."""
    return tuple(int(weights.argmax()) for weights in relaxation.values())


def gumbel_softmax(logits: Tensor, tau: float, hard: bool, generator: torch.Generator | None) -> Tensor:
    """A draw by the Gumbel-max trick: one-hot, with the gradient of the softmax at tau, or that softmax itself.

    Shape:
        [..., n] -> [..., n]

    Source:
        Jang et al., Categorical Reparameterization with Gumbel-Softmax, arXiv:1611.01144.
    """
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    tiny = torch.finfo(torch.float64).tiny
    gumbel = -(-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()
    soft = ((logits + gumbel.to(logits)) / tau).softmax(-1)
    # The difference is exactly zero, so that the weights are exactly zero and one.
    return _one_hot(soft) + (soft - soft.detach()) if hard else soft


def _one_hot(scores: Tensor) -> Tensor:
    return torch.zeros_like(scores).scatter(-1, scores.argmax(-1, keepdim=True), 1.0)
