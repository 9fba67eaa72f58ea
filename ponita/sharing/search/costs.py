"""What an architecture costs: parameters, floating-point operations, or milliseconds of its kernels on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ponita.sharing.search.space import Architecture, Relaxation, SearchSpace

#: Cost of one architecture.
Cost = Callable[[Architecture], float]


def message_passing_flops(config: Mapping[str, Any], nodes: int, edges: int) -> float:
    """Multiply-adds of a `Ponita` forward, of what grows with the data: messages, orientations, and the channels' mixing.

    Args:
        config: arguments of the network.
        nodes: N.
        edges: E.
    """
    c, b, o = config["hidden_channels"], config["basis_channels"], config["num_orientations"]
    spatial = edges * o * (b * c + c)
    spherical = nodes * o * o * c + o * o * b * c
    mixing = 2 * nodes * o * config["widening"] * c * c
    basis = edges * o * (c * b + c * config["degree"])
    return float(basis + config["num_layers"] * (spatial + spherical + mixing))


class CostTable:
    """Costs of every architecture of a space, as a tensor with an axis for each choice.

    Under a relaxation the cost is the expected one, which is linear in the weights of each choice and has their
    gradient.

    Args:
        space: of the architectures.
        cost: of one.
        limit: largest number of architectures to tabulate.

    Raises:
        ValueError: for a space that is larger.
    """

    def __init__(self, space: SearchSpace, cost: Cost, limit: int = 100_000) -> None:
        if space.cardinality > limit:
            raise ValueError(
                f"the space has {space.cardinality} architectures; a table is for up to {limit}. Restrict it."
            )
        self.space = space
        self.values = torch.full([len(choice) for choice in space.values()], float("nan"), dtype=torch.float64)
        for architecture in space.enumerate():
            self.values[architecture] = cost(architecture)

    def __call__(self, path: Architecture | Relaxation) -> Tensor:
        """Of an architecture, or expected under a relaxation: a scalar."""
        if isinstance(path, tuple):
            return self.values[path]
        table = self.values.nan_to_num(0.0)
        for name in reversed(list(self.space)):
            table = table.to(path[name]) @ path[name]
        return table

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest."""
        known = self.values[~self.values.isnan()]
        return float(known.min()), float(known.max())


class Latency:
    """Milliseconds that a network takes, measured once for each architecture, on the device and kernels it runs on.

    Args:
        extract: makes the network of an architecture.
        run: evaluates a network, as it will be used.
        repeats: of which the least counts, since whatever else the machine does, and a first time, only add.
    """

    def __init__(
        self, extract: Callable[[Architecture], nn.Module], run: Callable[[nn.Module], Any], repeats: int = 10
    ) -> None:
        self.extract, self.run, self.repeats = extract, run, repeats
        self.measured: dict[Architecture, float] = {}

    def __call__(self, architecture: Architecture) -> float:
        if architecture not in self.measured:
            network = self.extract(architecture).eval().requires_grad_(False)
            self.measured[architecture] = min(self._once(network) for _ in range(self.repeats))
        return self.measured[architecture]

    def _once(self, network: nn.Module) -> float:
        start = time.perf_counter()
        self.run(network)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - start)
