"""Memory: what autograd keeps, how far work raises the process, and whether a case would fit."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

Work = Callable[[], object]


def saved_bytes(work: Work) -> int:
    """Size of all distinct storages that autograd keeps for a backward pass while the work is done.

    A storage counts once, whole, however many views of it are kept. Weights and inputs that are kept count too.

    Args:
        work: what builds the graph: of a training step, `lambda: loss(model, inputs)`, without its backward pass.
    """
    storages: dict[int, torch.UntypedStorage] = {}  # holding them keeps their addresses from being used again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = work()
    total = sum(storage.nbytes() for storage in storages.values())
    del result
    return total


def peak_bytes(work: Work) -> int | None:
    """How far the work raises the memory of the process (or the GPU) above what it was; None where Linux does not tell.

    What the allocator kept from work before is given back first, as far as it can be; the rest makes this a lower bound.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    give_back()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to what is in use
    except OSError:
        return None
    before = _read("/proc/self/status", "VmRSS")
    work()
    return max(0, _read("/proc/self/status", "VmHWM") - before)


def give_back() -> None:
    """Return what the allocator holds to the system, as far as it can be."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # only in the C library of GNU
        ctypes.CDLL(None).malloc_trim(0)


def free_bytes(device: torch.device) -> int | None:
    """What can still be allocated on a device; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return _read("/proc/meminfo", "MemAvailable")
    except OSError:
        return None


def extrapolated(small: tuple[float, int], large: tuple[float, int], size: float) -> float:
    """Bytes at a size, on the line through two smaller ones: what grows counts, a constant part does not grow.

    Args:
        small: size and bytes.
        large: size and bytes.
        size: where to read the line.
    """
    (x0, y0), (x1, y1) = small, large
    return y1 + (y1 - y0) / (x1 - x0) * (size - x1)


def _read(path: str, name: str) -> int:
    line = next(line for line in Path(path).read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
