"""Few-shot search: a supernet is split where its options disagree, and each part goes on with weights of its own.

Hu et al., Generalizing Few-Shot NAS with Gradient Matching, arXiv:2203.15207.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ponita.sharing.search.gradient_matching import Group, gradient_matching, split_choice
from ponita.sharing.search.searchers import Evaluate, Found, exhaustive_search
from ponita.sharing.search.space import Architecture, SearchSpace
from ponita.sharing.search.supernet import find_supernet
from ponita.sharing.search.training import History, LossFunction, SupernetTrainer


@dataclass
class Leaf:
    """A part of the space with weights of its own.

    Attributes:
        model: a supernet, or a model that holds one.
        optimizer: of its weights.
        split: choices that were split on the way to it.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    split: tuple[str, ...] = ()

    @property
    def space(self) -> SearchSpace:
        """Of its architectures."""
        return find_supernet(self.model).space


class SupernetTree:
    """Supernets of disjoint parts of a space, which together hold all of it.

    Args:
        model: a supernet, or a model that holds one: the first leaf. `restart` returns to the weights that it has now.
        optimizer: of its weights.
        n_groups, min_group, normalize: as for `split_choice`.

    Attributes:
        leaves: that there are now.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        n_groups: int = 2,
        min_group: int = 1,
        normalize: bool = True,
    ) -> None:
        self.leaves = [Leaf(model, optimizer)]
        self.n_groups, self.min_group, self.normalize = n_groups, min_group, normalize
        self._initial = copy.deepcopy((model.state_dict(), optimizer.state_dict()))

    def split(self, loss_fn: LossFunction, batches: Sequence[Any], generator: torch.Generator | None = None) -> None:
        """Split each leaf at the choice whose groups of options disagree most, of those that were not split on its way.

        The parts start with the weights of the leaf and the state of its optimiser. A leaf that has no such choice stays.

        Args:
            loss_fn: the losses of a batch on the path that is active.
            batches: to compare gradients on.
            generator: of the architectures to compare them at.

        Raises:
            ValueError: if no leaf can be split.
        """
        if not any(self._open(leaf) for leaf in self.leaves):
            raise ValueError(
                f"none of the {len(self.leaves)} leaves has a choice left with {self.n_groups * self.min_group} options "
                "that was not split. Split less often, or into fewer groups."
            )
        parts = (self._parts(leaf, loss_fn, batches, generator) for leaf in self.leaves)
        self.leaves = list(itertools.chain.from_iterable(parts))

    def restart(self) -> None:
        """Give every leaf the weights and the state of the optimiser that the tree began with."""
        weights, state = self._initial
        for leaf in self.leaves:
            leaf.model.load_state_dict(weights)
            leaf.optimizer.load_state_dict(copy.deepcopy(state))

    def leaf_of(self, architecture: Architecture) -> Leaf:
        """The leaf whose weights an architecture uses.

        Raises:
            ValueError: if it is in no leaf.
        """
        found = next((leaf for leaf in self.leaves if architecture in leaf.space), None)
        if found is None:
            raise ValueError(
                f"architecture {architecture} is in none of the leaves {[leaf.space for leaf in self.leaves]}."
            )
        return found

    def select(
        self,
        evaluate: Callable[[nn.Module, Architecture], float],
        search: Callable[[SearchSpace, Evaluate], Found] = exhaustive_search,
    ) -> tuple[Leaf, Architecture]:
        """The best architecture of all leaves, each with its own weights.

        Args:
            evaluate: the error of an architecture with the weights of a model; low is good.
            search: of one leaf, such as `functools.partial(random_search, number=200)`.
        """
        errors: dict[Architecture, float] = {}
        for leaf in self.leaves:
            errors |= search(leaf.space, lambda architecture, leaf=leaf: evaluate(leaf.model, architecture)).errors
        best = Found(errors).best
        return self.leaf_of(best), best

    def _open(self, leaf: Leaf) -> list[str]:
        """Choices at which a leaf can be split."""
        fewest = self.n_groups * self.min_group
        return [
            name for name, options in leaf.space.allowed.items() if name not in leaf.split and len(options) >= fewest
        ]

    def _parts(
        self, leaf: Leaf, loss_fn: LossFunction, batches: Sequence[Any], generator: torch.Generator | None
    ) -> list[Leaf]:
        cuts = {}
        for name in self._open(leaf):
            matching = gradient_matching(leaf.model, name, loss_fn, batches, generator)
            cuts[name] = split_choice(matching, self.n_groups, self.min_group, self.normalize)
        if not cuts:
            return [leaf]
        name = max(cuts, key=lambda name: cuts[name][1])
        return [_child(leaf, name, space) for space in leaf.space.partition(name, _options(leaf, name, cuts[name][0]))]


class FewShotTrainer:
    """Trains a tree of supernets, and splits all its leaves after given epochs.

    Args:
        tree: with one leaf, or more.
        make_trainer: the trainer of a leaf, with a sampler of its space: called anew for each leaf after every split.
        split_at: after how many epochs to split, growing.
        n_batches: to compare gradients on.
        restart: "final": leaves begin anew with the initial weights after the last split, as published; None: they go on
            with the weights that they inherited.
        generator: of the architectures whose gradients are compared.

    Raises:
        ValueError: for epochs that do not grow, and another `restart`.
    """

    def __init__(
        self,
        tree: SupernetTree,
        make_trainer: Callable[[Leaf], SupernetTrainer],
        split_at: Sequence[int],
        n_batches: int = 100,
        restart: str | None = "final",
        generator: torch.Generator | None = None,
    ) -> None:
        self.split_at = list(split_at)
        if not self.split_at or self.split_at[0] < 1 or self.split_at != sorted(set(self.split_at)):
            raise ValueError(f"split_at={self.split_at}; expected growing numbers of epochs, from 1.")
        if restart not in ("final", None):
            raise ValueError(f"restart={restart!r}; expected 'final' or None.")
        self.tree, self.make_trainer, self.n_batches = tree, make_trainer, n_batches
        self.restart, self.generator = restart, generator

    def fit(self, loader: Iterable, epochs: int) -> History:
        """Train every leaf for as many epochs as there are between two splits.

        Args:
            loader: batches of an epoch; iterated anew in each.
            epochs: of all phases together, past the last split.

        Returns:
            Mean losses of the leaves, one of each epoch.

        Raises:
            ValueError: if the last split is not before the last epoch.
        """
        if epochs <= self.split_at[-1]:
            raise ValueError(f"epochs={epochs}, but split_at={self.split_at}; expected epochs after the last split.")
        history = History()
        for start, stop in itertools.pairwise([0, *self.split_at, epochs]):
            trainers = [self.make_trainer(leaf) for leaf in self.tree.leaves]
            losses = [trainer.fit(loader, stop - start).loss for trainer in trainers]
            history.loss += [sum(epoch) / len(epoch) for epoch in zip(*losses, strict=True)]
            if stop < epochs:
                batches = list(itertools.islice(loader, self.n_batches))
                self.tree.split(trainers[0].loss_fn, batches, self.generator)
            if stop == self.split_at[-1] and self.restart == "final":
                self.tree.restart()
        return history


def _options(leaf: Leaf, name: str, groups: Sequence[Group]) -> list[Group]:
    """Groups of options in place of their positions among the allowed ones."""
    allowed = leaf.space.allowed[name]
    return [tuple(allowed[position] for position in group) for group in groups]


def _child(leaf: Leaf, name: str, space: SearchSpace) -> Leaf:
    # Together, so that the copied optimiser has the copied weights.
    model, optimizer = copy.deepcopy((leaf.model, leaf.optimizer))
    find_supernet(model).restrict(space)
    return Leaf(model, optimizer, (*leaf.split, name))
