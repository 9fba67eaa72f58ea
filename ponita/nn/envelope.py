"""Windows that take a kernel smoothly to zero at the cut-off."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PolynomialCutoff(nn.Module):
    """w(u) = 1 - (p+1)(p+2)/2 u^p + p(p+2) u^(p+1) - p(p+1)/2 u^(p+2) for u = distance/cutoff < 1, else 0.

    Value, slope and curvature vanish at the cut-off (Gasteiger et al., DimeNet, 2020, equation 8).

    Args:
        cutoff: length, in the units of the positions.
        exponent: p.

    Shape:
        any -> same.

    Raises:
        ValueError: unless the cut-off is positive and the exponent at least 2.
    """

    def __init__(self, cutoff: float, exponent: float = 6) -> None:
        super().__init__()
        if not cutoff > 0 or exponent < 2:
            raise ValueError(f"cutoff={cutoff}, exponent={exponent}; expected cutoff > 0 and exponent >= 2.")
        self.cutoff, self.exponent = float(cutoff), exponent

    def forward(self, distance: Tensor) -> Tensor:
        # Beyond the cut-off the polynomial is large: clamp before the powers, so that no derivative overflows there.
        u = (distance / self.cutoff).clamp(max=1.0)
        p = self.exponent
        window = 1 - u**p * ((p + 1) * (p + 2) / 2 - u * (p * (p + 2)) + u**2 * (p * (p + 1) / 2))
        return torch.where(distance < self.cutoff, window, 0.0)

    def extra_repr(self) -> str:
        return f"cutoff={self.cutoff}, exponent={self.exponent}"
