"""Which options of a choice agree on the weights that they share: gradient matching, and the split that it suggests.

Options whose gradients on common weights point in different directions train against each other. They are compared, and
divided into groups that agree within themselves, so that each group can get weights of its own (`ponita.sharing.search.fewshot`).

Hu et al., Generalizing Few-Shot NAS with Gradient Matching, arXiv:2203.15207.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ponita.sharing.search.space import Architecture, SearchSpace
from ponita.sharing.search.supernet import Supernet, find_supernet
from ponita.sharing.search.training import LossFunction

#: Positions of options that stay together.
Group = tuple[int, ...]
#: With more options there are too many partitions to try them all.
MOST_OPTIONS = 12


def gradient_matching(
    model: nn.Module,
    choice: str,
    loss_fn: LossFunction,
    batches: Iterable[Any],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Cosine of the gradients of every two options of a choice, the mean over batches.

    The other choices are drawn anew for every batch, and are the same for all options of it. Only weights count that all
    options use: a smaller option has no gradient outside its corner of a weight, and would look different from a larger one
    for that reason alone. No weight is changed, and no gradient is left behind.

    Args:
        model: a supernet, or a model that holds one.
        choice: its allowed options are compared, in their order.
        loss_fn: the losses of a batch on the path that is active.
        batches: to average over; the published code takes 100.
        generator: of the other choices.

    Shape:
        [n, n] for n allowed options; symmetric, float64

    Raises:
        ValueError: for a choice that is unknown or has one option, without batches, and where the options have no weight in
            common.

    Source:
        Hu et al., arXiv:2203.15207, gradient matching score.
    """
    supernet = find_supernet(model)
    options = supernet.space.allowed.get(choice, ())
    if len(options) < 2:
        raise ValueError(
            f"{choice} has options {list(options)}; expected a choice of {supernet.space} with at least two."
        )
    training = model.training
    model.train()
    try:
        cosines = [_cosines(model, supernet, _draw(supernet.space, choice, generator), loss_fn, b) for b in batches]
    finally:
        model.train(training)
    if not cosines:
        raise ValueError("no batches; expected at least one to compare gradients on.")
    return torch.stack(cosines).mean(0)


def split_choice(
    matching: Tensor, n_groups: int = 2, min_group: int = 1, normalize: bool = True
) -> tuple[list[Group], float]:
    """The partition into groups that agree least with each other, of all there are.

    Args:
        matching: [n, n] cosines of the gradients of n options.
        n_groups: how many groups.
        min_group: fewest options of a group.
        normalize: compare the mean cosine across the cut. Otherwise its sum, which is the minimum cut: where the cosines are
            positive it separates single options, since they cut the fewest pairs, unless `min_group` prevents it.

    Returns:
        The groups of positions, and the disagreement 1 - cosine across the cut: its mean over the pairs, or their sum.

    Raises:
        ValueError: for a matrix that is not square or not finite, for more than 12 options, and for groups that cannot be.
    """
    number = _number_of_options(matching)
    if n_groups < 2 or min_group < 1 or number < n_groups * min_group:
        raise ValueError(
            f"{number} options in {n_groups} groups of at least {min_group}; expected two groups or more that fit."
        )
    rows = matching.tolist()
    partitions = (p for p in _partitions(number, n_groups) if min(map(len, p)) >= min_group)

    def across(groups: Sequence[Group]) -> float:
        pairs = [rows[i][j] for a, b in itertools.combinations(groups, 2) for i in a for j in b]
        return sum(pairs) / len(pairs) if normalize else sum(pairs)

    best = min(partitions, key=across)
    pairs = sum(len(a) * len(b) for a, b in itertools.combinations(best, 2))
    return best, (1 if normalize else pairs) - across(best)


def _draw(space: SearchSpace, choice: str, generator: torch.Generator | None) -> list[Architecture]:
    """One architecture for each option of a choice, with the other choices drawn."""
    drawn, position = space.sample(generator), list(space).index(choice)
    return [(*drawn[:position], option, *drawn[position + 1 :]) for option in space.allowed[choice]]


def _cosines(
    model: nn.Module, supernet: Supernet, architectures: Sequence[Architecture], loss_fn: LossFunction, batch: Any
) -> Tensor:
    """[n, n] cosines of the gradients of architectures on the weights that all use."""
    corners = common_block(supernet, architectures)
    named = {name: p for name, p in supernet.named_parameters() if name in corners and p.requires_grad}
    rows = []
    for architecture in architectures:
        with supernet.activate(architecture):
            loss = loss_fn(model, batch).mean
        rows.append(torch.autograd.grad(loss, list(named.values()), allow_unused=True))
    # A weight without a gradient is not used: that of another operation, or of a layer that was left out.
    used = [i for i in range(len(named)) if all(row[i] is not None for row in rows)]
    if not used:
        raise ValueError(
            "the options use no weight in common, so their gradients cannot be compared. Leave this choice out."
        )
    keys = list(named)
    flat = torch.stack([torch.cat([row[i][corners[keys[i]]].flatten() for i in used]) for row in rows])
    unit = nn.functional.normalize(flat.double(), dim=1)
    return unit @ unit.T


def common_block(supernet: Supernet, architectures: Sequence[Architecture]) -> dict[str, tuple[slice, ...]]:
    """The corner of each parameter that lies in the blocks of all architectures; parameters that one does not use are left out."""
    blocks = [supernet.block(architecture) for architecture in architectures]
    names = [name for name in blocks[0] if all(name in block for block in blocks)]
    return {
        name: tuple(slice(min(part.stop for part in parts)) for parts in zip(*(b[name] for b in blocks), strict=True))
        for name in names
    }


def _number_of_options(matching: Tensor) -> int:
    number = len(matching)
    if matching.shape != (number, number) or not bool(matching.isfinite().all()):
        raise ValueError(f"a matching of shape {list(matching.shape)}; expected a square matrix of finite cosines.")
    if number > MOST_OPTIONS:
        raise ValueError(
            f"{number} options; all partitions are tried for up to {MOST_OPTIONS}. Split the choice by hand."
        )
    return number


def _partitions(number: int, n_groups: int) -> Iterator[list[Group]]:
    """Every partition of 0 .. number - 1 into at most n_groups, once: each option joins a group or opens the next."""

    def extend(labels: list[int], opened: int) -> Iterator[list[int]]:
        if len(labels) == number:
            yield labels
            return
        for label in range(min(opened + 1, n_groups)):
            yield from extend([*labels, label], max(opened, label + 1))

    for labels in extend([], 0):
        yield [tuple(i for i, label in enumerate(labels) if label == group) for group in range(n_groups)]
