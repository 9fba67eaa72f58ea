"""The residual block that mixes channels around a convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ponita.ops import backends, gelu


class ConvNeXtBlock(nn.Module):
    """x + scale * linear(GELU(linear(norm(conv(x))))), as in ConvNeXt (Liu et al. 2022) without its dropped paths.

    Args:
        conv: depthwise convolution; called with x and whatever else the block is called with.
        channels: C.
        widening: width of the hidden layer in multiples of C.
        layer_scale: initial value of a learned factor for each channel of the update; no factor where None.
        backend: backend of the operators.

    Shape:
        x [N, O, C] -> [N, O, C]
    """

    def __init__(
        self, conv: nn.Module, channels: int, widening: int = 4, layer_scale: float | None = None, backend: str = "auto"
    ) -> None:
        super().__init__()
        self.conv, self.backend = conv, backends.check(backend)
        self.norm = nn.LayerNorm(channels)
        self.linear_1 = nn.Linear(channels, widening * channels)
        self.linear_2 = nn.Linear(widening * channels, channels)
        self.layer_scale = None if layer_scale is None else nn.Parameter(torch.full((channels,), float(layer_scale)))

    def forward(self, x: Tensor, *conv_inputs: object) -> Tensor:
        update = self.norm(self.conv(x, *conv_inputs))
        update = self.linear_2(gelu(self.linear_1(update), self.backend))
        return x + (update if self.layer_scale is None else self.layer_scale * update)
