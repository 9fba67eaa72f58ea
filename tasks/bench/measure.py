"""What is measured of a model: three kinds of work, their times, and the memory they keep."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ponita.ops import force_pass

Work = Callable[[], object]
Inputs = Mapping[str, Any]


def forward(model: nn.Module, inputs: Inputs) -> Tensor:
    """[G, 1] energies, without a graph."""
    with torch.no_grad():
        return model(**inputs).scalars


def energy_forces(model: nn.Module, inputs: Inputs, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """[G, 1] energies, and forces [N, 3]."""
    pos = inputs["pos"].detach().requires_grad_()
    energy = model(**{**inputs, "pos": pos}).scalars
    with force_pass():
        (gradient,) = torch.autograd.grad(energy.sum(), pos, create_graph=create_graph)
    return energy, -gradient


def loss(model: nn.Module, inputs: Inputs) -> Tensor:
    """A loss on energies and forces, weighted as for rMD17; the targets are zero, which costs the same."""
    energy, forces = energy_forces(model, inputs, create_graph=True)
    return energy.square().mean() / 500 + forces.square().mean()


def training_step(model: nn.Module, inputs: Inputs) -> None:
    """The loss and its gradients in all parameters, through the forces. No optimiser."""
    loss(model, inputs).backward()
    model.zero_grad()


MEASURES: dict[str, Callable[[nn.Module, Inputs], object]] = {
    "forward": forward,
    "energy and forces": energy_forces,
    "training step": training_step,
}
INFERENCE = ("forward", "energy and forces")


def interleaved(works: Mapping[str, Work], repeats: int) -> dict[str, list[float]]:
    """Seconds of each work, in turns (A B A B), so that a drift of the machine meets all of them alike.

    Args:
        works: by name; each is called once before anything is timed.
        repeats: how often each is timed.
    """
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            _wait()
            start = time.perf_counter()
            work()
            _wait()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _wait() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


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
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # only in the C library of GNU
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to what is in use
    except OSError:
        return None
    before = _status("VmRSS")
    work()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
