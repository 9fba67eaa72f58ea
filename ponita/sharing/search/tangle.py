"""Relaxations whose weights on the options are learned: one forward with mixed weights, and the options of most weight win.

Source: weight-entangled gradient-based search, TangleNAS (arXiv:2312.10440, algorithms 1 and 2); the relaxations are those of
DARTS (arXiv:1806.09055), DrNAS (arXiv:2006.10355) and GDAS (arXiv:1910.04465).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ponita.sharing.search.complexity import gumbel_softmax
from ponita.sharing.search.sampling import Draw, PathSampler
from ponita.sharing.search.space import Architecture, Relaxation, SearchSpace

KINDS = ("drnas", "darts", "gdas")
ACTIVATIONS = ("softmax", "sparsemax")
#: The choice whose options give features of different shapes: one is drawn, and nothing is mixed.
SAMPLED = "num_orientations"
BASELINE_DECAY = 0.9


class RelaxationSampler(PathSampler):
    """Learned weights of the options of every choice.

    Options that the space does not allow have weight zero. Of `num_orientations` one option is drawn, and its logits learn
    by the score function (`score_loss`), since features of different grids cannot be mixed.

    Args:
        space: of the paths.
        kind: "drnas": weights w ~ Dirichlet(elu(a) + 1) with logits a, reparameterised. "darts": the weights are
            `activation`(a). "gdas": one-hot by Gumbel-softmax, with the gradient of the soft weights (straight-through).
        activation: of "darts": "softmax", as the paper says, or "sparsemax", as its code does.
        tau: temperature of "gdas" in the first and in the last epoch; linear between.
        init_std: standard deviation of the logits at first.
        seed: of the draws.

    Raises:
        ValueError: for another kind or activation, sparsemax without "darts", or temperatures that are not positive.
    """

    def __init__(
        self,
        space: SearchSpace,
        kind: str = "drnas",
        activation: str = "softmax",
        tau: tuple[float, float] = (10.0, 0.1),
        init_std: float = 1e-3,
        seed: int = 0,
    ) -> None:
        super().__init__(space, seed)
        if kind not in KINDS or activation not in ACTIVATIONS:
            raise ValueError(f"kind={kind!r}, activation={activation!r}; expected one of {KINDS} and of {ACTIVATIONS}.")
        if activation == "sparsemax" and kind != "darts":
            raise ValueError(f"activation='sparsemax' with kind={kind!r}; only kind='darts' has an activation.")
        if min(tau) <= 0:
            raise ValueError(f"tau={tau}; expected two positive temperatures.")
        self.kind, self.activation, self.tau = kind, activation, tau
        self.logits = nn.ParameterDict(
            {name: init_std * torch.randn(len(choice), generator=self.generator) for name, choice in space.items()}
        )
        self.register_buffer("temperature", torch.tensor(float(tau[0])))
        self._baseline: float | None = None

    def draw(self, step: int) -> list[Draw]:
        """One fresh relaxation, without a gradient: for a step of the weights."""
        with torch.no_grad():
            return [Draw(self.relaxation())]

    def relaxation(self) -> Relaxation:
        """A fresh relaxation, with its gradient by the logits."""
        return self.sample().path

    def sample(self) -> Draw:
        """A fresh relaxation, with the log-probability of what was drawn, if anything was."""
        path, log_prob = {}, None
        for name, indices in self.space.allowed.items():
            logits = self._allowed(name)
            if name == SAMPLED:
                weights, log_prob = self._one(logits)
            else:
                weights = self._mixed(logits)
            rows = torch.tensor(indices, device=logits.device)
            path[name] = logits.new_zeros(len(self.space[name])).index_copy(0, rows, weights)
        return Draw(path, log_prob=log_prob)

    def probabilities(self) -> Relaxation:
        """The mean weights of "drnas" and "gdas"; softmax of the logits of "darts". Zero where not allowed."""
        found = {}
        for name, indices in self.space.allowed.items():
            found[name] = torch.zeros_like(self.logits[name].detach())
            found[name][list(indices)] = self._mean(self._allowed(name)).detach()
        return found

    def argmax(self) -> Architecture:
        """The allowed option of the largest logit of every choice."""
        return tuple(self._ranked(name)[0] for name in self.space)

    def score_loss(self, draw: Draw, loss: Tensor) -> Tensor | float:
        """(L - b) log p, whose mean gradient is that of the mean loss by the logits of what was drawn (REINFORCE).

        The baseline b is a running mean of the losses before this one; the first one only sets it.

        Args:
            draw: of `sample`.
            loss: of its path.
        """
        if draw.log_prob is None:
            return 0.0
        value = float(loss.detach())
        before = value if self._baseline is None else self._baseline
        self._baseline = BASELINE_DECAY * before + (1 - BASELINE_DECAY) * value
        return (value - before) * draw.log_prob

    def regularizer(self) -> Tensor:
        """KL(Dir(elu(a) + 1) || Dir(1)), summed over the choices (DrNAS). The other regulariser, l2, is weight decay.

        Raises:
            ValueError: for relaxations that are not drawn from a Dirichlet distribution.
        """
        if self.kind != "drnas":
            raise ValueError(
                f"kind={self.kind!r} has no Dirichlet distribution; only kind='drnas' is regularised by one."
            )
        total = 0.0
        for name in self.space:
            concentration = _concentration(self._allowed(name))
            prior = torch.distributions.Dirichlet(torch.ones_like(concentration))
            total = total + torch.distributions.kl_divergence(torch.distributions.Dirichlet(concentration), prior)
        return total

    def epoch_end(self, epoch: int, num_epochs: int) -> None:
        """Anneal the temperature."""
        share = min((epoch + 1) / max(num_epochs - 1, 1), 1.0)
        self.temperature.fill_(self.tau[0] + share * (self.tau[1] - self.tau[0]))

    def _allowed(self, name: str) -> Tensor:
        return self.logits[name][list(self.space.allowed[name])]

    def _ranked(self, name: str) -> list[int]:
        """Allowed options, that of the largest logit first."""
        return sorted(self.space.allowed[name], key=self.logits[name].tolist().__getitem__, reverse=True)

    def _mean(self, logits: Tensor) -> Tensor:
        if self.kind != "drnas":
            return logits.softmax(0)
        concentration = _concentration(logits)
        return concentration / concentration.sum()

    def _one(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """A one-hot draw, and its log-probability."""
        probs = self._mean(logits)
        option = int(torch.multinomial(probs.detach().cpu(), 1, generator=self.generator))
        return _one_hot(option, logits), probs[option].log()

    def _mixed(self, logits: Tensor) -> Tensor:
        if len(logits) == 1:
            return torch.ones_like(logits)
        if self.kind == "darts":
            return logits.softmax(0) if self.activation == "softmax" else sparsemax(logits)
        return self._dirichlet(logits) if self.kind == "drnas" else self._gumbel(logits)

    def _dirichlet(self, logits: Tensor) -> Tensor:
        """torch draws from Dirichlet distributions with its global generator only, which is put back after."""
        seed = int(torch.randint(2**62, (), generator=self.generator))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return torch.distributions.Dirichlet(_concentration(logits.cpu().double())).rsample().to(logits)

    def _gumbel(self, logits: Tensor) -> Tensor:
        return gumbel_softmax(logits, float(self.temperature), True, self.generator)


def sparsemax(logits: Tensor) -> Tensor:
    """The point of the simplex that is nearest to the logits (Martins and Astudillo, arXiv:1602.02068, algorithm 1).

    Shape:
        [n] -> [n]
    """
    ordered = logits.sort(descending=True).values
    excess = ordered.cumsum(0) - 1
    rank = torch.arange(1, len(logits) + 1, device=logits.device)
    support = int((rank * ordered > excess).sum())
    return (logits - excess[support - 1] / support).clamp(min=0)


def prune(space: SearchSpace, sampler: RelaxationSampler, keep: Mapping[str, int]) -> SearchSpace:
    """The space with fewer options, those of the largest weight: a stage of a progressive search (DrNAS).

    Give it to `Supernet.restrict`, and to `sampler.space` to go on with the same logits or to a new sampler.

    Args:
        space: to prune.
        sampler: that learned the weights.
        keep: how many of the allowed options to keep, by the name of a choice; all where it is not named.

    Raises:
        ValueError: for a name that is no choice, or fewer than one option.
    """
    unknown = [name for name in keep if name not in space]
    if unknown or min(keep.values(), default=1) < 1:
        raise ValueError(f"keep={dict(keep)}; expected a number of options, at least 1, of some of {list(space)}.")
    ranked = {name: [i for i in sampler._ranked(name) if i in space.allowed[name]] for name in keep}
    return space.restrict(**{name: ranked[name][:number] for name, number in keep.items()})


def _concentration(logits: Tensor) -> Tensor:
    """elu(a) + 1, without its cancellation at very negative a."""
    return logits.clamp(max=0).exp() + logits.relu()


def _one_hot(option: int, like: Tensor) -> Tensor:
    weights = torch.zeros_like(like.detach())
    weights[option] = 1
    return weights
