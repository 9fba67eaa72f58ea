"""Efficient neural architecture search: a controller learns, by REINFORCE, which shared-weight networks do well.

Random search with weight sharing, the baseline to compare with (Li and Talwalkar, arXiv:1902.07638), needs nothing of this
module: train with `UniformSampler` in place of `ControllerSampler`, and select with `searchers.random_search` in place of
`derive`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ponita.sharing.search.controller import Controller, ControllerSample
from ponita.sharing.search.memory import MemoryRegularizer
from ponita.sharing.search.sampling import Draw, PathSampler
from ponita.sharing.search.searchers import Evaluate, Found
from ponita.sharing.search.space import Architecture
from ponita.sharing.search.training import Callback, SupernetTrainer

#: Reward of an architecture with the shared weights, such as exp(-error) on a batch of validation data; high is good.
Reward = Callable[[Architecture], float]


class ControllerSampler(PathSampler):
    """One fresh architecture of the policy in every step of the weights; the policy is not trained by that.

    `UniformSampler` in its place is random search with weight sharing.

    Args:
        controller: the policy.
        seed: of the draws.
    """

    def __init__(self, controller: Controller, seed: int = 0) -> None:
        super().__init__(controller.space, seed)
        self.controller = controller

    @torch.no_grad()
    def draw(self, step: int) -> list[Draw]:
        return [Draw(self.controller.sample(1, self.generator).architectures[0])]


class ReinforceTrainer(Callback):
    """Trains a controller by the policy gradient; as a callback of a `SupernetTrainer`, after each epoch of the weights.

    The gradient of a step is an unbiased one of E[R] + entropy_weight * H, H the entropy of the policy over architectures:

        L = -log p(a) (R + entropy_weight * H(a) - b) - entropy_weight * H(a),

    where the advantage in brackets is a constant, H(a) the sum of the entropies of the decisions, and b a moving average of
    R + entropy_weight * H(a) over earlier steps. (Published programs have an entropy in the reward alone. That is blind to the
    last decision, whose entropy does not depend on what it decides.)

    Args:
        controller: to train.
        reward_fn: called without gradients; not necessarily the same each time for the same architecture.
        baseline_decay: of the moving average, which starts at the mean of the first rewards.
        entropy_weight: of H.
        lr: of Adam.
        samples: architectures in a step.
        steps: in an epoch.
        regularizer: whose loss is added, if any; its heads are trained along.
        seed: of the draws.

    Attributes:
        baseline: b, None before the first step.

    Raises:
        ValueError: for a decay outside [0, 1), a negative weight of the entropy, or less than one sample or step.

    Source: Pham et al., arXiv:1802.03268, section 2.2; Williams (1992).
    """

    def __init__(
        self,
        controller: Controller,
        reward_fn: Reward,
        baseline_decay: float = 0.95,
        entropy_weight: float = 1e-4,
        lr: float = 3.5e-4,
        samples: int = 1,
        steps: int = 100,
        regularizer: MemoryRegularizer | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 <= baseline_decay < 1 or entropy_weight < 0:
            raise ValueError(
                f"baseline_decay={baseline_decay}, entropy_weight={entropy_weight}; expected a decay in [0, 1) and a weight of at "
                "least 0."
            )
        if samples < 1 or steps < 1:
            raise ValueError(f"samples={samples}, steps={steps}; expected at least 1 of both.")
        self.controller, self.reward_fn, self.regularizer = controller, reward_fn, regularizer
        self.baseline_decay, self.entropy_weight = baseline_decay, entropy_weight
        self.samples, self.steps = samples, steps
        self.baseline: float | None = None
        heads = [] if regularizer is None else list(regularizer.parameters())
        self.optimizer = torch.optim.Adam([*controller.parameters(), *heads], lr=lr)
        self.generator = torch.Generator(controller.start.device).manual_seed(seed)

    def surrogate(self, sample: ControllerSample, rewards: Tensor) -> Tensor:
        """[n] losses whose gradient is the policy gradient, by the baseline as it is."""
        baseline = 0.0 if self.baseline is None else self.baseline
        advantage = self._returns(sample, rewards) - baseline
        return -sample.log_prob * advantage - self.entropy_weight * sample.entropy

    def step(self, epoch: int = 0) -> float:
        """One step of the controller; the mean reward of what it drew.

        Args:
            epoch: says whether the regulariser counts.
        """
        sample = self.controller.sample(self.samples, self.generator)
        rewards = self._rewards(sample.architectures).to(sample.log_prob)
        mean = float(self._returns(sample, rewards).mean())
        if self.baseline is None:
            self.baseline = mean
        loss = self.surrogate(sample, rewards).mean()
        # After the surrogate: a baseline that knows this step's rewards would bias the gradient.
        self.baseline = self.baseline_decay * self.baseline + (1 - self.baseline_decay) * mean
        if self.regularizer is not None:
            loss = loss + self.regularizer.loss(self.controller, epoch, self.generator)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(rewards.mean())

    def train_epoch(self, epoch: int) -> list[float]:
        """The steps of an epoch, after the memory stored what the policy draws; the mean reward of each."""
        if self.regularizer is not None:
            self.regularizer.epoch_start(self.controller, epoch, self.generator)
        return [self.step(epoch) for _ in range(self.steps)]

    def on_epoch_end(self, trainer: SupernetTrainer, epoch: int) -> None:
        """Train the controller while the weights rest."""
        trainer.model.eval()
        self.train_epoch(epoch)
        trainer.model.train()

    def _returns(self, sample: ControllerSample, rewards: Tensor) -> Tensor:
        return rewards + self.entropy_weight * sample.entropy.detach()

    @torch.no_grad()
    def _rewards(self, architectures: Sequence[Architecture]) -> Tensor:
        rewards = [float(self.reward_fn(architecture)) for architecture in architectures]
        for architecture, reward in zip(architectures, rewards, strict=True):
            if not math.isfinite(reward):
                raise ValueError(
                    f"the reward of {architecture} is {reward}; expected a finite number. Bound it, as exp(-error) does."
                )
        return torch.tensor(rewards, dtype=torch.float64)


def derive(controller: Controller, evaluate: Evaluate, n: int = 100, generator: torch.Generator | None = None) -> Found:
    """Draw architectures from the trained policy, and evaluate each that is new with the shared weights.

    Args:
        controller: the policy.
        evaluate: error with the shared weights; low is good.
        n: draws; a policy that is nearly certain has few different ones.
        generator: of the draws.

    Returns:
        what was found; the architecture to train from scratch is its `best`.

    Raises:
        ValueError: for less than one draw.
    """
    with torch.no_grad():
        drawn = controller.sample(n, generator).architectures
    return Found({architecture: evaluate(architecture) for architecture in dict.fromkeys(drawn)})
