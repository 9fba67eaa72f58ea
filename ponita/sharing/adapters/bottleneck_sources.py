"""Weights of bottlenecks that each site has itself: in full, or as Kronecker products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ponita.sharing.adapters.policies import MapSource
from ponita.sharing.adapters.sites import Site

if TYPE_CHECKING:
    from ponita.sharing.adapters.bottleneck import BottleneckConfig

INITIAL_STD = 1e-2


class HoulsbySource(MapSource):
    """Linear maps D [m, C] and U [C, m] of each site (Houlsby et al. 2019); U is zero at the start."""

    def make_map(self, site: Site, inputs: int, outputs: int, zero: bool) -> nn.Module:
        linear = nn.Linear(inputs, outputs)
        nn.init.normal_(linear.weight, std=0.0 if zero else INITIAL_STD)
        nn.init.zeros_(linear.bias)
        return linear


class PHMSource(MapSource):
    """Maps that are sums of Kronecker products (Compacter); the up map is zero at the start.

    Raises:
        ValueError: if n does not divide C and m of a site, or the rank is larger than a factor.
    """

    def prepare(self, config: BottleneckConfig) -> None:
        self.n, self.rank = config.phm_n, config.phm_rank
        self.rule = _rule(self.n) if config.phm_shared_rule else None

    def make_map(self, site: Site, inputs: int, outputs: int, zero: bool) -> nn.Module:
        if inputs % self.n or outputs % self.n:
            raise ValueError(
                f"phm_n={self.n} does not divide a map of {inputs} to {outputs} channels at {site.name}; choose phm_n and "
                "reduction_factor such that it divides the channels and the hidden channels."
            )
        if self.rank is not None and not 1 <= self.rank <= min(inputs, outputs) // self.n:
            raise ValueError(
                f"phm_rank={self.rank} is not between 1 and {min(inputs, outputs) // self.n}, the smaller side of the factors at "
                f"{site.name}; choose a smaller rank, or null for factors in full."
            )
        return PHMLinear(inputs, outputs, self.n, self.rank, self.rule, zero)


class PHMLinear(nn.Module):
    """y = x H + b with H = sum_i A_i (x) B_i, B_i = S_i T_i where there is a rank.

    Args:
        inputs: width of x.
        outputs: width of y.
        n: number of products.
        rank: of the B_i; in full where None.
        rule: [n, n, n], the A_i, where others have them too; they are no part of this module then.
        zero: B_i are zero at the start.

    Shape:
        [..., inputs] -> [..., outputs]
    """

    def __init__(
        self, inputs: int, outputs: int, n: int, rank: int | None, rule: nn.Parameter | None, zero: bool
    ) -> None:
        super().__init__()
        if rule is None:
            self.rule = _rule(n)
        else:
            self.__dict__["rule"] = rule
        sides = (inputs // n, outputs // n)
        shapes = [sides] if rank is None else [(sides[0], rank), (rank, sides[1])]
        self.factors = nn.ParameterList(nn.Parameter(_xavier(n, *shape)) for shape in shapes)
        if zero:
            nn.init.zeros_(self.factors[-1])
        self.bias = nn.Parameter(torch.zeros(outputs))

    def matrix(self) -> Tensor:
        """H [inputs, outputs]."""
        products = self.factors[0] if len(self.factors) == 1 else self.factors[0] @ self.factors[1]
        blocks = torch.einsum("nac,nkp->akcp", self.rule, products)
        return blocks.flatten(2, 3).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix() + self.bias


def _rule(n: int) -> nn.Parameter:
    return nn.Parameter(INITIAL_STD * torch.randn(n, n, n))


def _xavier(n: int, rows: int, columns: int) -> Tensor:
    return torch.stack([nn.init.xavier_uniform_(torch.empty(rows, columns), gain=2**0.5) for _ in range(n)])
