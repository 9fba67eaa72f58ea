"""Functions of the invariants that all kernels of a network are combinations of."""

from __future__ import annotations

from itertools import combinations_with_replacement

import torch
from torch import Tensor, nn

from ponita.ops import backends, gelu


class Monomials(nn.Module):
    """The distinct monomials of degree 1 to `degree` in the inputs: (a, b) -> a, b, aa, ab, bb, aaa, aab, abb, bbb.

    The published network lists all tensor powers instead, where `ab` and `ba` are two columns (14 in place of 9 at
    degree 3); `fold_tensor_powers` turns weights for those columns into weights for these.

    Args:
        num_inputs: d, number of invariants.
        degree: highest total degree.

    Shape:
        [..., d] -> [..., M]

    Raises:
        ValueError: unless both are at least 1.
    """

    def __init__(self, num_inputs: int, degree: int) -> None:
        super().__init__()
        if num_inputs < 1 or degree < 1:
            raise ValueError(f"num_inputs={num_inputs}, degree={degree}; expected both to be at least 1.")
        self.num_inputs, self.degree = num_inputs, degree
        self.factors = [
            factors for n in range(1, degree + 1) for factors in combinations_with_replacement(range(num_inputs), n)
        ]

    def __len__(self) -> int:
        return len(self.factors)

    def forward(self, inputs: Tensor) -> Tensor:
        columns: dict[tuple[int, ...], Tensor] = {}
        for factors in self.factors:
            last = inputs[..., factors[-1]]
            columns[factors] = columns[factors[:-1]] * last if len(factors) > 1 else last
        return torch.stack(list(columns.values()), dim=-1)

    def multiplicities(self) -> Tensor:
        """[M] number of columns of the tensor powers that hold each monomial."""
        return self.fold_tensor_powers(torch.ones(1, sum(self.num_inputs**n for n in range(1, self.degree + 1))))[0]

    def fold_tensor_powers(self, weight: Tensor) -> Tensor:
        """Sum the columns of a weight for [a, a⊗a, ...] that belong to the same monomial. Exact.

        Args:
            weight: [C, d + d^2 + ... + d^degree].

        Shape:
            [C, M]
        """
        index = torch.tensor([self.factors.index(tuple(sorted(column))) for column in self._tensor_columns()])
        return torch.zeros(weight.shape[0], len(self), dtype=weight.dtype).index_add_(1, index, weight)

    def _tensor_columns(self) -> list[tuple[int, ...]]:
        columns: list[tuple[int, ...]] = []
        power: list[tuple[int, ...]] = [()]
        for _ in range(self.degree):
            power = [(*column, i) for column in power for i in range(self.num_inputs)]
            columns += power
        return columns


class KernelBasis(nn.Module):
    """Monomials, then linear - GELU - linear - GELU (PONITA, appendix; shared by all layers).

    Args:
        num_invariants: d, number of invariants of a pair.
        hidden_channels: width of the hidden layer.
        basis_channels: B, number of basis functions.
        degree: highest degree of the monomials.

        backend: backend of the operators.

    Shape:
        [..., d] -> [..., B]
    """

    def __init__(
        self, num_invariants: int, hidden_channels: int, basis_channels: int, degree: int = 3, backend: str = "auto"
    ) -> None:
        super().__init__()
        self.backend = backends.check(backend)
        self.monomials = Monomials(num_invariants, degree)
        self.linear_1 = nn.Linear(len(self.monomials), hidden_channels)
        self.linear_2 = nn.Linear(hidden_channels, basis_channels)
        self._reset_first_layer()

    def _reset_first_layer(self) -> None:
        """Give each monomial the variance that the equal columns of the tensor powers have together."""
        multiplicities = self.monomials.multiplicities()
        bound = (multiplicities / multiplicities.sum()).sqrt()
        with torch.no_grad():
            self.linear_1.weight.uniform_(-1, 1).mul_(bound)
            self.linear_1.bias.uniform_(-1, 1).div_(multiplicities.sum().sqrt())

    def forward(self, invariants: Tensor) -> Tensor:
        hidden = gelu(self.linear_1(self.monomials(invariants)), self.backend)
        return gelu(self.linear_2(hidden), self.backend)
