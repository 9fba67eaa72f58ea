"""Outputs averaged over rotated copies of the orientation grid: closer to equivariant, for as many times the work."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ponita.geometry import spiral_rotations
from ponita.models.ponita import Output, Ponita


class GridAverage(nn.Module):
    """The mean of a network's outputs on rotated copies of its grid; the weights are shared with the network.

    Rotating the grid along with the points changes nothing, so the average over all rotations would be equivariant
    exactly; n of them leave about 1/sqrt(n) of the error, or less. In the plane the copies are turned by fractions of the angle
    between neighbours, so that together they are a finer grid.

    Args:
        network: in bundle mode, on a space with orientations.
        num_grids: n, the network's own grid among them.

    Raises:
        ValueError: for fewer than one grid, or a network without a grid.
    """

    def __init__(self, network: Ponita, num_grids: int) -> None:
        super().__init__()
        if num_grids < 1:
            raise ValueError(f"average over {num_grids} grids; expected at least 1.")
        if not network.space.has_fibre or network.config["mode"] != "bundle":
            raise ValueError(
                f"space {network.space.name} in mode {network.config['mode']!r} has no grid to average over; it is "
                "equivariant as it is."
            )
        self.network = network
        turns = _turns(num_grids, network.space.dim, network.grid.shape[0])
        self.register_buffer("rotations", turns.to(network.grid.device), persistent=False)

    @property
    def space(self):
        """Of the network."""
        return self.network.space

    @property
    def config(self) -> dict:
        """Of the network."""
        return self.network.config

    def forward(self, *args: object, **kwargs: object) -> Output:
        """As the network's."""
        return self._mean(self.network, "grid", args, kwargs)

    def at_points(self, *args: object, **kwargs: object) -> Output:
        """As the network's, which is how a `Potential` calls it."""
        return self._mean(_AtPoints(self.network), "network.grid", args, kwargs)

    def _mean(self, module: nn.Module, grid: str, args: tuple, kwargs: dict) -> Output:
        network = self.network
        outputs = [
            functional_call(module, {grid: network.space.rotate_grid(network.grid, rotation)}, args, kwargs)
            for rotation in self.rotations
        ]
        return Output(*(torch.stack(parts).mean(0) for parts in zip(*outputs, strict=True)))


class _AtPoints(nn.Module):
    """`Ponita.at_points` as a forward, since that is what torch can call with another buffer."""

    def __init__(self, network: Ponita) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args: object, **kwargs: object) -> Output:
        return self.network.at_points(*args, **kwargs)


def _turns(count: int, dim: int, num_orientations: int) -> Tensor:
    """[count, d, d] float64, the identity first, the same on every call."""
    if dim == 2:
        angle = torch.arange(count, dtype=torch.float64) * (2 * math.pi / (num_orientations * count))
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    rotations = spiral_rotations(count)
    relative = rotations[0].T @ rotations
    relative[0] = torch.eye(3, dtype=torch.float64)
    return relative
