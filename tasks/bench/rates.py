"""What the machine could reach: the rates of copying and of matrix products."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ponita.tasks.bench.measure import interleaved

PRODUCT = {"cpu": 1024, "cuda": 8192}  # rows and columns of the matrices


def copy_rate(num_bytes: int, device: torch.device, repeats: int) -> float:
    """Bytes a second, read and written, of copying a tensor so large: the caches serve it as they serve an operator.

    Args:
        num_bytes: of the tensor.
        device: where.
        repeats: the fastest counts.
    """
    source = torch.ones(max(1, num_bytes // 4), device=device)
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / _least(lambda: target.copy_(source), repeats)


def product_rate(device: torch.device, repeats: int) -> float:
    """Floating-point operations a second of a product of two float32 matrices, in torch's current precision of those.

    Args:
        device: where.
        repeats: the fastest counts.
    """
    n = PRODUCT.get(device.type, PRODUCT["cpu"])
    a, b = torch.ones(2, n, n, device=device).unbind()
    out = torch.empty_like(a)
    return 2 * n**3 / _least(lambda: torch.mm(a, b, out=out), repeats)


def _least(work: Callable[[], object], repeats: int) -> float:
    return min(interleaved({"": work}, repeats)[""].seconds)
