"""What may be chosen: ordered or unordered choices, the architectures they span, and distributions over them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Index of an option for each choice of a space, in its order: the identity of a network.
Architecture = tuple[int, ...]
#: Weights [n] on the simplex over the options of each choice, by its name; they may carry gradients.
Relaxation = dict[str, Tensor]
Path = Architecture | Relaxation


@dataclass(frozen=True)
class Choice:
    """One decision.

    Args:
        name: such as "hidden_channels".
        values: its options; ordered ones grow, so that each owns a prefix of the weights of the next.
        ordered: False for options without an order, such as kinds of activation.

    Raises:
        ValueError: without options, with equal ones, or with ordered ones that do not grow.
    """

    name: str
    values: tuple
    ordered: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values or len(set(self.values)) != len(self.values):
            raise ValueError(f"{self.name}={list(self.values)}; expected different options, at least one.")
        if self.ordered and list(self.values) != sorted(self.values):
            raise ValueError(
                f"{self.name}={list(self.values)}; ordered options must grow, so that each holds those before it. Sort them, or "
                "say ordered=False."
            )

    def __len__(self) -> int:
        return len(self.values)


class SearchSpace(Mapping[str, Choice]):
    """All combinations of options, or of those that are allowed.

    Args:
        *choices: in the order of an `Architecture`.
        allowed: indices of the options that may be taken, by the name of a choice; all where it is not named.

    Raises:
        ValueError: for two choices of one name, an unknown name, an index that is no option, or a space that is empty.
    """

    def __init__(self, *choices: Choice, allowed: Mapping[str, Sequence[int]] | None = None) -> None:
        self._choices = {choice.name: choice for choice in choices}
        if not choices or len(self._choices) != len(choices):
            raise ValueError(f"choices {[choice.name for choice in choices]}; expected different names, at least one.")
        given = dict(allowed or {})
        self._expect_names(given)
        self.allowed = {
            name: tuple(sorted(set(given.get(name, range(len(choice)))))) for name, choice in self._choices.items()
        }
        for name, indices in self.allowed.items():
            if not indices:
                raise ValueError(f"the space is empty: no option of {name} is allowed.")
            if indices[0] < 0 or indices[-1] >= len(self[name]):
                raise ValueError(f"allowed {name}: {list(indices)}; its options are 0 to {len(self[name]) - 1}.")

    def __getitem__(self, name: str) -> Choice:
        return self._choices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def __repr__(self) -> str:
        parts = (f"{name}={[self[name].values[i] for i in indices]}" for name, indices in self.allowed.items())
        return f"SearchSpace({', '.join(parts)})"

    @property
    def cardinality(self) -> int:
        """How many architectures there are."""
        number = 1
        for indices in self.allowed.values():
            number *= len(indices)
        return number

    def __contains__(self, item: object) -> bool:
        """Of a name; or of an architecture."""
        if isinstance(item, tuple):
            return len(item) == len(self) and all(
                option in indices for option, indices in zip(item, self.allowed.values(), strict=True)
            )
        return item in self._choices

    def check(self, architecture: Architecture) -> Architecture:
        """The architecture itself.

        Raises:
            ValueError: if it is not in the space.
        """
        if architecture not in self:
            raise ValueError(
                f"architecture {architecture} is not in the space; expected one index of each of {self.allowed}."
            )
        return architecture

    def check_path(self, path: Path) -> Path:
        """The path itself.

        Raises:
            ValueError: for an architecture that is not in the space, or a relaxation without weights of every option.
        """
        if isinstance(path, tuple):
            return self.check(path)
        expected = {name: len(choice) for name, choice in self.items()}
        seen = {name: len(weights) for name, weights in path.items()}
        if seen != expected:
            raise ValueError(f"a relaxation has weights of {seen} options; expected {expected}.")
        return path

    def sample(self, generator: torch.Generator | None = None, probs: Relaxation | None = None) -> Architecture:
        """Independent options, uniform or by `probs` (restricted to what is allowed)."""
        drawn = []
        for name, indices in self.allowed.items():
            weights = torch.ones(len(indices)) if probs is None else probs[name].detach().float()[list(indices)]
            drawn.append(indices[int(torch.multinomial(weights, 1, generator=generator))])
        return tuple(drawn)

    def smallest(self) -> Architecture:
        """The first option of every choice."""
        return tuple(indices[0] for indices in self.allowed.values())

    def largest(self) -> Architecture:
        """The last option of every choice."""
        return tuple(indices[-1] for indices in self.allowed.values())

    def enumerate(self) -> Iterator[Architecture]:
        """Every architecture; the last choice changes first."""
        return itertools.product(*self.allowed.values())

    def decode(self, architecture: Architecture) -> dict[str, Any]:
        """Values of the options, by name."""
        self.check(architecture)
        return {name: self[name].values[option] for name, option in zip(self, architecture, strict=True)}

    def encode(self, values: Mapping[str, Any]) -> Architecture:
        """The architecture of given values.

        Raises:
            ValueError: for a choice that is missing or unknown, or a value that is no option.
        """
        self._expect_names(values)
        missing = [name for name in self if name not in values]
        if missing:
            raise ValueError(f"no value of {missing}; expected one of each choice {list(self)}.")
        wrong = {name: value for name, value in values.items() if value not in self[name].values}
        if wrong:
            raise ValueError(f"{wrong} are no options; expected { ({name: self[name].values for name in wrong}) }.")
        return self.check(tuple(self[name].values.index(values[name]) for name in self))

    def onehot(self, architecture: Architecture, dtype: torch.dtype = torch.float32) -> Relaxation:
        """The relaxation that puts all weight on one architecture."""
        self.check(architecture)
        rows = {name: torch.zeros(len(self[name]), dtype=dtype) for name in self}
        for name, option in zip(self, architecture, strict=True):
            rows[name][option] = 1
        return rows

    def restrict(self, **allowed: Sequence[int]) -> SearchSpace:
        """The same choices with fewer options; an `Architecture` means the same in both.

        Raises:
            ValueError: if nothing that was allowed is left of a choice.
        """
        self._expect_names(allowed)
        kept = {
            name: tuple(i for i in indices if i in set(allowed.get(name, indices)))
            for name, indices in self.allowed.items()
        }
        return SearchSpace(*self._choices.values(), allowed=kept)

    def partition(self, name: str, groups: Sequence[Sequence[int]]) -> list[SearchSpace]:
        """Spaces that share no architecture and hold all: one for each group of options of a choice.

        Raises:
            ValueError: if the groups overlap, or do not hold every allowed option.
        """
        self._expect_names([name])
        listed = sorted(itertools.chain.from_iterable(groups))
        if tuple(listed) != self.allowed[name]:
            raise ValueError(
                f"groups {[list(g) for g in groups]} of {name}; expected each of {self.allowed[name]} once."
            )
        return [self.restrict(**{name: group}) for group in groups]

    def distance(self, a: Architecture, b: Architecture) -> int:
        """In how many choices two architectures differ."""
        return sum(x != y for x, y in zip(a, b, strict=True))

    def mutate(self, architecture: Architecture, p: float, generator: torch.Generator | None = None) -> Architecture:
        """Each option is drawn again with probability p."""
        fresh = self.sample(generator)
        kept = (torch.rand(len(self), generator=generator) >= p).tolist()
        return tuple(old if keep else new for old, new, keep in zip(architecture, fresh, kept, strict=True))

    def crossover(self, a: Architecture, b: Architecture, generator: torch.Generator | None = None) -> Architecture:
        """Each option from one of two parents."""
        first = (torch.rand(len(self), generator=generator) < 0.5).tolist()
        return tuple(x if take else y for x, y, take in zip(a, b, first, strict=True))

    def suggest(self, trial: Any) -> Architecture:
        """The architecture that an Optuna trial proposes."""
        return tuple(trial.suggest_categorical(name, indices) for name, indices in self.allowed.items())

    def _expect_names(self, names: Mapping[str, Any] | Sequence[str]) -> None:
        unknown = [name for name in names if name not in self._choices]
        if unknown:
            raise ValueError(f"no choices {unknown} in the space; expected some of {list(self._choices)}.")
