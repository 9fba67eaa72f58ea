"""Random directions that every machine can make from a number, with the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MASK = (1 << 64) - 1
#: Constants of SplitMix64 (Steele et al., 2014).
GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
#: Numbers made at once: the integers of the hash take more memory than the direction itself.
CHUNK = 1 << 16
#: Ends the sequences of numbers that are no directions.
CHANCE = 0x6368616E6365

#: (shape, seed, device, dtype) -> a direction.
Noise = Callable[[Sequence[int], int, torch.device, torch.dtype], Tensor]


def mix(*numbers: int) -> int:
    """A 63-bit seed of a sequence of numbers; all of them, and their order, matter."""
    state = 0
    for number in numbers:
        state = _finish((state ^ number) + GOLDEN & MASK)
    return state >> 1


def uniform(*numbers: int) -> float:
    """A number in [0, 1) from a sequence of numbers; no direction has it in its seed."""
    return (mix(*numbers, CHANCE) >> 10) / (1 << 53)


def _finish(z: int) -> int:
    z = (z ^ z >> 30) * FIRST & MASK
    z = (z ^ z >> 27) * SECOND & MASK
    return z ^ z >> 31


def rademacher(shape: Sequence[int], seed: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """-1 or +1 by a hash of seed and place: integers alone, so the same bits on every device.

    A product with it is exact, and so theta + c z is rounded once, with or without fused multiply-add.

    Args:
        shape: of the direction.
        seed: 63 bits.
        device, dtype: of the direction.
    """
    signs = torch.empty(math.prod(shape), dtype=dtype, device=device)
    for first in range(0, signs.numel(), CHUNK):
        part = signs[first : first + CHUNK]
        part.copy_(_signs(first, part.numel(), seed, device))
    return signs.view(tuple(shape))


def gaussian(shape: Sequence[int], seed: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Standard normal, drawn on the CPU; the same bits only with the same build of torch. Arguments as of `rademacher`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=dtype).to(device)


def _signs(first: int, count: int, seed: int, device: torch.device) -> Tensor:
    """-1 or +1 of places from `first` on, int64."""
    z = torch.arange(first, first + count, dtype=torch.int64, device=device) * _signed(GOLDEN) + seed
    z = (z ^ _shifted(z, 30)) * _signed(FIRST)
    z = (z ^ _shifted(z, 27)) * _signed(SECOND)
    return 2 * ((z ^ _shifted(z, 31)) & 1) - 1


def _signed(number: int) -> int:
    """The same 64 bits as a signed integer."""
    return number - (1 << 64) if number >> 63 else number


def _shifted(z: Tensor, bits: int) -> Tensor:
    """A logical shift to the right; that of int64 repeats the sign."""
    return z >> bits & (1 << 64 - bits) - 1
