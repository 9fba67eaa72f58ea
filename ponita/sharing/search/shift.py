"""Shifting the probability of architectures to the costs that still need training.

Architectures that are drawn uniformly are mostly of middling cost. Here bins of the cost are drawn with probabilities that are
learnt, and a generator makes an architecture of the cost; after training it answers requests, without a search.

Zhang et al., ShiftNAS: Improving One-shot NAS via Probability Shift, arXiv:2307.08300. The paper minimises the expected
gradient of the validation loss over the probabilities. Taken by the letter that moves them away from what is not trained
yet, so the bilevel problem behind it is solved here: with w' = w - xi sum_k p_k grad L_train,k the validation loss falls by
xi <grad L_train,k, grad L_valid> for each p_k, and bins whose steps lower it most gain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ponita.sharing.search.complexity import (
    ArchitectureGenerator,
    ComplexityBins,
    architecture_of,
    resource_loss,
)
from ponita.sharing.search.hypergradient import hypergradient, loss_gradient, norm_of
from ponita.sharing.search.sampling import Draw, PathSampler, StepFeedback
from ponita.sharing.search.space import Architecture
from ponita.sharing.search.training import Callback, LossFunction, SupernetTrainer, endless

#: How much training a bin still needs.
Measure = Literal["hypergradient", "grad_norm"]
#: Bound of the scores of bins, so that none is forgotten.
MOST = 1.5
#: Of each bin and step, from which the generator learns costs; the gradient of a few draws is too noisy.
REQUESTS = 8


class ComplexityShiftSampler(PathSampler):
    """Draws a bin of the cost, and an architecture of it from a generator that is trained along.

    The generator learns from the loss of the supernet on what it drew, and from how far its draws for all bins miss their cost,
    in the backward of the supernet. Its optimiser is here: leave it out of that of the supernet. It must be on the device
    of the supernet (`to`). Probabilities of the bins change only where a `ShiftUpdate` is among the callbacks.

    Args:
        bins: of the cost.
        generator: of architectures of the same space.
        update_every: steps between shifts.
        warmup: steps before the first of them are counted.
        measure: of how much training a bin needs: "hypergradient", by how much a step on it lowers its validation loss, or
            "grad_norm", the norm of the gradient of its validation loss.
        resource_weight: of what the generator learns of costs; with 100, to miss one by a tenth of their range is as bad as a
            loss of 1. Where it is small, the loss of the supernet makes the generator draw a few architectures only.
        entropy_weight: of the entropy of the generator, against the square of the share of the range that it misses.
        tau: temperatures of the generator in the first and in the last epoch.
        lr: of the generator (Adam).
        shift_lr: of the scores of the bins.
        seed: of the draws.

    Attributes:
        theta: [K] scores of the bins, whose probabilities are softmax(theta).

    Raises:
        ValueError: for a generator of another space, an unknown measure, and steps that cannot be.

    Source:
        Zhang et al., arXiv:2307.08300.
    """

    def __init__(
        self,
        bins: ComplexityBins,
        generator: ArchitectureGenerator,
        update_every: int = 100,
        warmup: int = 0,
        measure: Measure = "hypergradient",
        resource_weight: float = 100.0,
        entropy_weight: float = 0.002,
        tau: tuple[float, float] = (1.0, 0.5),
        lr: float = 1e-3,
        shift_lr: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(bins.space, seed)
        if dict(generator.space) != dict(bins.space) or generator.space.allowed != bins.space.allowed:
            raise ValueError(
                f"the generator draws from {generator.space}, the bins hold {bins.space}; expected the same."
            )
        if measure not in get_args(Measure):
            raise ValueError(f"measure={measure!r}; expected one of {get_args(Measure)}.")
        if update_every < 1 or warmup < 0:
            raise ValueError(f"update_every={update_every}, warmup={warmup}; expected at least 1 and 0.")
        self.bins, self.architectures, self.measure = bins, generator, measure
        self.update_every, self.warmup = update_every, warmup
        self.resource_weight, self.entropy_weight, self.shift_lr = resource_weight, entropy_weight, shift_lr
        self.temperatures, self.tau = tau, tau[0]
        self.optimizer = torch.optim.Adam(generator.parameters(), lr)
        self.register_buffer("theta", torch.zeros(len(bins)))

    @property
    def probabilities(self) -> Tensor:
        """[K] of the bins."""
        return self.theta.softmax(0)

    def draw(self, step: int) -> list[Draw]:
        """One path, of the bin that was drawn; all other draws only teach the generator costs."""
        k = int(torch.multinomial(self.probabilities.cpu(), 1, generator=self.generator))
        requests = [self.bins.request(j, self.generator) for j in range(len(self.bins)) for _ in range(REQUESTS)]
        positions = torch.tensor([self.bins.position(cost) for cost in requests])
        drawn, entropy = self.architectures.draw(positions, self.tau, generator=self.generator)
        log_costs = torch.vmap(self.bins.log_cost)(drawn)
        missed = resource_loss(log_costs, torch.tensor(requests).log().to(log_costs), self.bins.span).mean()
        loss = self.resource_weight * (missed - self.entropy_weight * entropy.mean())
        row = k * REQUESTS
        path = {name: weights[row] for name, weights in drawn.items()}
        return [Draw(path, info={"bin": k, "cost": requests[row], "generator_loss": loss})]

    def extra_loss(self, draw: Draw, supernet: nn.Module) -> Tensor:
        return draw.info["generator_loss"]

    def observe(self, draw: Draw, feedback: StepFeedback) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def epoch_end(self, epoch: int, num_epochs: int) -> None:
        first, last = self.temperatures
        self.tau = first + (last - first) * min((epoch + 1) / max(num_epochs - 1, 1), 1.0)

    def due(self, step: int) -> bool:
        """Whether the probabilities change after a step."""
        return step > self.warmup and (step - self.warmup) % self.update_every == 0

    @torch.no_grad()
    def members(self, k: int, number: int) -> list[Architecture]:
        """Architectures that the generator draws for a bin."""
        positions = torch.tensor([self.bins.position(self.bins.request(k, self.generator)) for _ in range(number)])
        drawn = self.architectures(positions, generator=self.generator)
        return [architecture_of({name: weights[i] for name, weights in drawn.items()}) for i in range(number)]

    @torch.no_grad()
    def shift(self, scores: Sequence[float] | Tensor) -> None:
        """One step up the expected score sum_k softmax(theta)_k z_k, z the standard scores; theta stays within its bound.

        Args:
            scores: [K] of the bins; more probability goes to higher ones.

        Raises:
            ValueError: for scores that are not finite, or not of as many bins.
        """
        s = torch.as_tensor(scores).to(self.theta)
        if s.shape != self.theta.shape or not bool(s.isfinite().all()):
            raise ValueError(f"scores {s.tolist()}; expected {len(self.bins)} finite ones, one of each bin.")
        deviation = s - s.mean()
        z = deviation / deviation.square().mean().sqrt().clamp_min(torch.finfo(s.dtype).tiny)
        p = self.probabilities
        self.theta += self.shift_lr * p * (z - (p * z).sum())
        self.theta.clamp_(-MOST, MOST)

    def query(self, cost: float) -> Architecture:
        """The architecture that the generator holds likeliest for a cost.

        Raises:
            ValueError: for a cost that no architecture is near: outside of the range of the space.
        """
        low, high = self.bins.edges[0], self.bins.edges[-1]
        if not low <= cost <= high:
            raise ValueError(f"a network of cost {cost:g} was asked for; the space has costs from {low:g} to {high:g}.")
        return self.architectures.greedy(self.bins.position(cost))


class ShiftUpdate(Callback):
    """Measures, every so many steps, how much training each bin needs, and shifts the probabilities of a sampler.

    Args:
        sampler: of the trainer.
        train_loader: batches of the training set.
        valid_loader: batches of data that the weights are not trained on.
        per_bin: architectures of each bin that are measured.
    """

    def __init__(
        self, sampler: ComplexityShiftSampler, train_loader: Iterable, valid_loader: Iterable, per_bin: int = 4
    ) -> None:
        self.sampler, self.per_bin = sampler, per_bin
        self._train, self._valid = endless(train_loader, "train_loader"), endless(valid_loader, "valid_loader")

    def on_step_end(self, trainer: SupernetTrainer, step: int) -> None:
        if self.sampler.due(step):
            self.sampler.shift(self.scores(trainer.model, trainer.loss_fn))

    def scores(self, model: nn.Module, loss_fn: LossFunction) -> list[float]:
        """[K] by the sampler's measure, all on the same two batches."""
        train, valid = next(self._train), next(self._valid)
        drawn = (self.sampler.members(k, self.per_bin) for k in range(len(self.sampler.bins)))
        if self.sampler.measure == "grad_norm":
            return [float(norm_of(loss_gradient(model, bin_, loss_fn, valid))) for bin_ in drawn]
        return [hypergradient(model, bin_, loss_fn, train, valid) for bin_ in drawn]
