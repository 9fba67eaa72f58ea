"""Parts of a space: divided by cost, checked to be disjoint and complete, and rebuilt without the options that they leave out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from ponita.sharing.search.costs import Cost, CostTable
from ponita.sharing.search.space import Architecture, Choice, SearchSpace


def partition_by_cost(space: SearchSpace, k: int, cost: Cost) -> list[SearchSpace]:
    """Disjoint parts of a space that hold all of it, of architectures of similar cost, the cheapest first.

    The leaves of a regression tree of the logarithm of the cost: the options of one choice of one part are cut in two, where
    the sum of squared deviations from the mean of each part falls the most, until there are k. (The paper sets its three
    by hand; for such, see `SearchSpace.partition` and `check_partition`.)

    Args:
        space: to cut.
        k: number of parts.
        cost: of an architecture, positive.

    Raises:
        ValueError: if there are fewer architectures than parts, or a cost is not positive.
    """
    if not 1 <= k <= space.cardinality:
        raise ValueError(
            f"k={k} parts of a space of {space.cardinality} architectures; expected 1 to {space.cardinality}."
        )
    costs = CostTable(space, cost)
    if not costs.bounds[0] > 0:
        raise ValueError(
            f"the least cost is {costs.bounds[0]:g}; expected positive ones, whose logarithms are compared."
        )
    table, parts = costs.values.log(), [space]
    spread = partial(_deviation, table)
    while len(parts) < k:
        cuts = [(i, halves) for i, part in enumerate(parts) for halves in _cuts(table, part)]
        i, halves = max(cuts, key=lambda cut: spread(parts[cut[0]]) - sum(map(spread, cut[1])))
        parts[i : i + 1] = halves
    return sorted(parts, key=lambda part: float(_part(table, part).mean()))


def check_partition(space: SearchSpace, parts: Sequence[SearchSpace]) -> Sequence[SearchSpace]:
    """The parts themselves.

    Raises:
        ValueError: if they share an architecture, do not hold all of the space, or hold others.
    """
    for a, b in itertools.combinations(parts, 2):
        if all(set(a.allowed[name]) & set(b.allowed[name]) for name in space):
            raise ValueError(f"{a} and {b} share architectures; expected parts that are disjoint.")
    inside = all(set(part.allowed[name]) <= set(space.allowed[name]) for part in parts for name in space)
    held = sum(part.cardinality for part in parts)
    if not inside or held != space.cardinality:
        raise ValueError(
            f"the parts hold {held} architectures; expected the {space.cardinality} of {space}, and no others."
        )
    return parts


def compact(space: SearchSpace) -> SearchSpace:
    """A space with choices of the allowed options alone, so that a supernet of it holds no more than their weights."""
    return SearchSpace(
        *(Choice(c.name, [c.values[i] for i in space.allowed[c.name]], c.ordered) for c in space.values())
    )


def translate(architecture: Architecture, source: SearchSpace, target: SearchSpace) -> Architecture:
    """The architecture of the same values in another space, such as the whole of a compact one.

    Raises:
        ValueError: if it is in one of them only.
    """
    return target.encode(source.decode(architecture))


def _part(table: Tensor, space: SearchSpace) -> Tensor:
    """The entries of a part of the space."""
    for axis, allowed in enumerate(space.allowed.values()):
        table = table.index_select(axis, torch.tensor(allowed))
    return table


def _cuts(table: Tensor, space: SearchSpace) -> Iterator[list[SearchSpace]]:
    """All ways to cut the options of one choice in two; those without an order are sorted by their mean."""
    for axis, (name, allowed) in enumerate(space.allowed.items()):
        order = list(allowed)
        if not space[name].ordered:
            means = _part(table, space).movedim(axis, 0).flatten(1).mean(1).tolist()
            order = [option for _, option in sorted(zip(means, allowed, strict=True))]
        for i in range(1, len(order)):
            yield space.partition(name, [order[:i], order[i:]])


def _deviation(table: Tensor, space: SearchSpace) -> float:
    """The sum of squares from the mean of a part."""
    values = _part(table, space)
    return float((values - values.mean()).square().sum())
