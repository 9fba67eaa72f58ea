"""Paths and data drawn by the size of their gradients, for gradients of less variance.

With N alternatives of gradients g_i, drawn with p_i, the estimate g_i / (N p_i) has the mean of all gradients as its mean, and
the variance (1/N^2) sum_i |g_i|^2 / p_i - |mean g|^2, which is least for p_i proportional to |g_i|.

Source: PA&DA (arXiv:2302.14772). The published procedure leaves the factor 1 / (N p_i) out, so that its steps favour what is
drawn often (`reweight=False`); it also starts its averages anew in every epoch (`persistent=False`), and measures norms after
clipping, which is not done here. Data with wrong labels have large gradients, and are drawn more often.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ponita.sharing.search.sampling import Draw, PathSampler, StepFeedback
from ponita.sharing.search.space import Architecture, Relaxation, SearchSpace
from ponita.sharing.search.supernet import find_supernet
from ponita.sharing.search.training import Callback, LossFunction, SupernetTrainer


class NormAverage(nn.Module):
    """Running averages of gradient norms, and a distribution between uniform and proportional to them.

    Args:
        number: N, of options or samples.
        ema: weight of a new norm; the first one counts whole.
        lambda_max: share of the averages in the distribution at the end of the training; it grows from 0, linearly.
        persistent: keep averages from epoch to epoch, and take the mean of the others for what was never seen. False:
            forget them at the end of every epoch, and take zero for what was not seen in it, as published.
    """

    def __init__(self, number: int, ema: float, lambda_max: float, persistent: bool) -> None:
        super().__init__()
        if number < 1 or not 0 < ema <= 1 or not 0 <= lambda_max <= 1:
            given = f"number={number}, ema={ema}, lambda_max={lambda_max}"
            raise ValueError(f"{given}; expected number >= 1, 0 < ema <= 1 and 0 <= lambda_max <= 1.")
        self.ema, self.lambda_max, self.persistent = ema, lambda_max, persistent
        self.register_buffer("average", torch.zeros(number, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(number, dtype=torch.bool))
        self.register_buffer("probabilities", torch.full((number,), 1 / number, dtype=torch.float64))

    def observe(self, index: Tensor, norms: Tensor) -> None:
        """Move averages towards norms [G] of the entries index [G]; those of an entry that is there twice are averaged."""
        rows, place, counts = index.unique(return_inverse=True, return_counts=True)
        new = torch.zeros(len(rows), dtype=torch.float64).index_add(0, place, norms.double()) / counts
        old = torch.where(self.seen[rows], self.average[rows], new)
        self.average[rows] = (1 - self.ema) * old + self.ema * new
        self.seen[rows] = True

    def epoch_end(self, epoch: int, num_epochs: int) -> None:
        """Make the distribution of the next epoch: lambda s / sum s + (1 - lambda) / N, with lambda of this one."""
        share = self.lambda_max * epoch / num_epochs
        scores = self.average
        if self.persistent and self.seen.any():
            scores = torch.where(self.seen, scores, scores[self.seen].mean())
        scores = scores if scores.sum() > 0 else torch.ones_like(scores)
        self.probabilities.copy_(share * scores / scores.sum() + (1 - share) / len(scores))
        if not self.persistent:
            self.average.zero_()
            self.seen.zero_()


class ImportanceSampler(PathSampler):
    """One architecture a step, its options drawn by the gradient norms of the paths that held them.

    Args:
        space: of the paths.
        ema, lambda_max, persistent: as those of `NormAverage`; persistent=False as published.
        reweight: weigh the loss of a path of probability p by 1 / (N p), so that the gradient is that of all N paths drawn
            alike, without bias. False: as published.
        num_parameters: of an architecture, such as `Supernet.num_parameters`: norms are divided by its root, so that wide
            networks do not win by their size. As they are where None.
        seed: of the draws.
    """

    def __init__(
        self,
        space: SearchSpace,
        ema: float = 0.5,
        lambda_max: float = 0.9,
        reweight: bool = False,
        persistent: bool = True,
        num_parameters: Callable[[Architecture], float | Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(space, seed)
        self.reweight, self.num_parameters = reweight, num_parameters
        self.options = nn.ModuleDict(
            {name: NormAverage(len(allowed), ema, lambda_max, persistent) for name, allowed in space.allowed.items()}
        )

    def draw(self, step: int) -> list[Draw]:
        path = self.space.sample(self.generator, self.distributions())
        return [Draw(path, weight=self.weight(path) if self.reweight else 1.0)]

    def distributions(self) -> Relaxation:
        """[n] probabilities of the options of each choice; zero where not allowed."""
        found = {}
        for name, allowed in self.space.allowed.items():
            found[name] = torch.zeros(len(self.space[name]), dtype=torch.float64)
            found[name][list(allowed)] = self.options[name].probabilities
        return found

    def probability(self, architecture: Architecture) -> float:
        """The product of those of its options."""
        pairs = zip(self.distributions().values(), self.space.check(architecture), strict=True)
        return math.prod(float(probs[option]) for probs, option in pairs)

    def weight(self, architecture: Architecture) -> float:
        """1 / (N p), whose mean over draws is one."""
        return 1 / (self.space.cardinality * self.probability(architecture))

    def observe(self, draw: Draw, feedback: StepFeedback) -> None:
        """Credit the norm of the path's gradient, without the weight of its loss, to all of its options."""
        norm = feedback.grad_norm / float(draw.weight)
        if self.num_parameters is not None:
            norm /= math.sqrt(self.num_parameters(draw.path))
        for (name, allowed), option in zip(self.space.allowed.items(), draw.path, strict=True):
            self.options[name].observe(torch.tensor([allowed.index(option)]), torch.tensor([norm]))

    def epoch_end(self, epoch: int, num_epochs: int) -> None:
        for average in self.options.children():
            average.epoch_end(epoch, num_epochs)


class ImportanceDataSampler(torch.utils.data.Sampler[int]):
    """As many rows as there are, with replacement, by the norms of the gradients by the outputs.

    `DataImportance` feeds it. With `reweight` the loss function gives `weights(index)` to `Losses.weights`.

    Args:
        number: N, rows of the training set.
        ema, lambda_max, persistent: as those of `NormAverage`; persistent=False as published.
        reweight: weigh the loss of a row of probability q by 1 / (N q); False: as published.
        seed: of the draws.
    """

    def __init__(
        self,
        number: int,
        ema: float = 0.5,
        lambda_max: float = 0.9,
        reweight: bool = False,
        persistent: bool = True,
        seed: int = 0,
    ) -> None:
        self.rows, self.reweight = NormAverage(number, ema, lambda_max, persistent), reweight
        self.generator = torch.Generator().manual_seed(seed)
        self._drawn_with = self.rows.probabilities.clone()

    def __len__(self) -> int:
        return len(self.rows.probabilities)

    def __iter__(self) -> Iterator[int]:
        self._drawn_with = self.rows.probabilities.clone()
        # Not torch.multinomial, which takes no more than 2^24 rows.
        bounds = self._drawn_with.cumsum(0)
        points = bounds[-1] * torch.rand(len(self), generator=self.generator, dtype=torch.float64)
        return iter(torch.searchsorted(bounds, points, right=True).clamp(max=len(self) - 1).tolist())

    def weights(self, index: Tensor) -> Tensor:
        """[G] factors of the losses of rows: 1 / (N q) of the distribution that the epoch was drawn with; else one."""
        if not self.reweight:
            return torch.ones(len(index), device=index.device)
        return (1 / (len(self) * self._drawn_with[index.cpu()])).to(index.device, torch.get_default_dtype())

    def observe(self, index: Tensor, norms: Tensor) -> None:
        """See norms [G] of rows index [G]."""
        self.rows.observe(index.cpu(), norms.detach().cpu())


class DataImportance(Callback):
    """Tells a data sampler what every batch was like.

    Args:
        sampler: of the rows; the one that the loader draws with.
        norms: [G] of a step, such as `output_gradient_norm` of its output and target.
    """

    def __init__(self, sampler: ImportanceDataSampler, norms: Callable[[StepFeedback], Tensor]) -> None:
        self.sampler, self.norms = sampler, norms

    def on_backward_end(self, trainer: SupernetTrainer, draw: Draw, feedback: StepFeedback) -> None:
        if feedback.index is None:
            raise ValueError("no Losses.index; expected the rows of the training set that the batch holds.")
        self.sampler.observe(feedback.index, self.norms(feedback))

    def on_epoch_end(self, trainer: SupernetTrainer, epoch: int) -> None:
        self.sampler.rows.epoch_end(epoch, trainer.num_epochs)


@torch.enable_grad()
def output_gradient_norm(
    output: Tensor, target: Any, loss: Callable[[Tensor, Any], Tensor], batch: Tensor | None = None
) -> Tensor:
    """|d loss / d output| of each sample: |softmax - one-hot| for cross-entropy, which bounds the gradient by the weights.

    Args:
        output: [G, ...], or [N, ...] with `batch`.
        target: what it is compared with.
        loss: (output, target) -> the losses of the samples, not reduced, such as `partial(cross_entropy, reduction="none")`.
        batch: [N] graph of each row of the output, every graph at least once; a row is a sample where None.

    Shape:
        [G]

    Raises:
        ValueError: for a loss that is one number.
    """
    leaf = output.detach().requires_grad_()
    losses = loss(leaf, target)
    if losses.dim() == 0:
        raise ValueError("the loss is one number; expected those of the samples. Leave its reduction out.")
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    squares = gradient.square().reshape(len(gradient), -1).sum(1)
    if batch is not None:
        squares = squares.new_zeros(int(batch.max()) + 1).index_add(0, batch, squares)
    return squares.sqrt()


def path_gradients(model: nn.Module, loss_fn: LossFunction, batch: Any, paths: Sequence[Architecture]) -> Tensor:
    """[P, D] gradients of the loss of each path by all weights of the supernet that `model` is or holds."""
    supernet, rows = find_supernet(model), []
    weights = list(supernet.parameters())
    for path in paths:
        with supernet.activate(path):
            loss = loss_fn(model, batch).mean
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        parts = (torch.zeros_like(w) if g is None else g for w, g in zip(weights, gradients, strict=True))
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


def sampling_variance(gradients: Tensor, probs: Tensor) -> Tensor:
    """Trace of the covariance of g_i / (N p_i), of gradients [N, D] and probs [N]: (1/N^2) sum_i |g_i|^2 / p_i - |mean g|^2."""
    squares = gradients.square().sum(1)
    return (squares / probs.to(squares)).sum() / len(gradients) ** 2 - gradients.mean(0).square().sum()


def exact_path_variance(
    model: nn.Module, loss_fn: LossFunction, batch: Any, paths: Sequence[Architecture], probs: Tensor
) -> Tensor:
    """Variance of the reweighted gradient of one path, drawn from all of them with probabilities [P]."""
    return sampling_variance(path_gradients(model, loss_fn, batch, paths), probs)
