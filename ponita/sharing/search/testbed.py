"""A space of 108 small networks on which searches are compared: every one can be trained alone, in seconds.

Points of the plane in four classes, a residual network on Fourier features sorted by frequency, and labels of which 15 % are
wrong, so that the largest networks are not the best.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ponita.sharing.search.layered import LayeredSupernet
from ponita.sharing.search.layers import EntangledDepth, EntangledLayerNorm, EntangledLinear
from ponita.sharing.search.masks import Dim, size_of
from ponita.sharing.search.space import Choice, Path, SearchSpace

CLASSES = 4
NOISE = 0.15
#: Of the functions that classes are the largest of: more than the smallest basis has.
WAVES = 16
TRAIN, TEST = 384, 2048


def toy_space() -> SearchSpace:
    """basis {4, 8, 16, 32} x hidden {8, 16, 32} x ratio {1, 2, 4} x depth {1, 2, 3}."""
    return SearchSpace(
        Choice("basis", (4, 8, 16, 32)),
        Choice("hidden", (8, 16, 32)),
        Choice("ratio", (1, 2, 4)),
        Choice("num_layers", (1, 2, 3)),
    )


class Block(nn.Module):
    """h + linear(GELU(linear(norm(h)))) of chosen widths."""

    def __init__(self, hidden: Dim, inner: Dim) -> None:
        super().__init__()
        self.norm = EntangledLayerNorm(hidden)
        self.linear_1, self.linear_2 = EntangledLinear(hidden, inner), EntangledLinear(inner, hidden)

    def forward(self, h: Tensor, path: Path) -> Tensor:
        update = nn.functional.gelu(self.linear_1(self.norm(h, path), path))
        return h + self.linear_2(update, path)


class ToySupernet(LayeredSupernet):
    """The networks of `toy_space` in one.

    Shape:
        x [G, 2] -> logits [G, 4]
    """

    def __init__(self, space: SearchSpace | None = None) -> None:
        super().__init__(space or toy_space())
        space = self.space
        hidden, inner = Dim(space, "hidden"), Dim(space, "hidden", "ratio")
        self.embedding = EntangledLinear(Dim(space, "basis"), hidden)
        self.blocks = EntangledDepth(
            [Block(hidden, inner) for _ in range(space["num_layers"].values[-1])], space, "num_layers"
        )
        self.norm, self.head = EntangledLayerNorm(hidden), EntangledLinear(hidden, CLASSES)

    def run(self, path: Path, x: Tensor) -> Tensor:
        features = fourier(
            x, self.embedding.in_features if isinstance(path, dict) else size_of(self.embedding.axes[1], path)
        )
        h = self.blocks(self.embedding(features, path), path)
        return self.head(self.norm(h, path), path)


def fourier(x: Tensor, number: int) -> Tensor:
    """[G, number] sines and cosines of whole multiples of the coordinates, the slowest first."""
    waves = sorted(((a, b) for a in range(-5, 6) for b in range(6)), key=lambda w: (w[0] ** 2 + w[1] ** 2, w))
    chosen = torch.tensor([wave for wave in waves if wave > (0, 0) or wave[1] > 0][: (number + 1) // 2], dtype=x.dtype)
    phases = x @ chosen.T
    return torch.stack([phases.sin(), phases.cos()], dim=-1).flatten(1)[:, :number]


@dataclass
class ToyData:
    """Points [G, 2] and their classes [G]."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> ToyData:
        return ToyData(self.x[rows], self.y[rows])


def toy_data(number: int, seed: int, noise: float = 0.0) -> ToyData:
    """Points of [-pi, pi]^2; the class is the largest of four sums of waves, or any with probability `noise`."""
    teacher = torch.Generator().manual_seed(1234)
    weights = torch.randn(CLASSES, WAVES, generator=teacher) / torch.arange(1, WAVES + 1).sqrt()
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(number, 2, generator=generator) - 0.5) * 2 * torch.pi
    y = (fourier(x, WAVES) @ weights.T).argmax(1)
    wrong = torch.rand(number, generator=generator) < noise
    return ToyData(x, torch.where(wrong, torch.randint(CLASSES, (number,), generator=generator), y))


def batches(data: ToyData, size: int, seed: int) -> list[ToyData]:
    """An epoch in a random order."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return [data.take(rows) for rows in order.split(size)]


@torch.no_grad()
def toy_loss(network: nn.Module, data: ToyData, **options: object) -> float:
    """Mean cross-entropy."""
    return float(nn.functional.cross_entropy(network(data.x, **options), data.y))


def train_alone(
    network: nn.Module, data: ToyData, seed: int, steps: int = 300, batch: int = 96, lr: float = 5e-3
) -> None:
    """AdamW on cross-entropy, in place."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(data), (batch,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(data.x[rows]), data.y[rows]).backward()
        optimizer.step()
