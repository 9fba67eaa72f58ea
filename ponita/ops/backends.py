"""Which backend serves the operators of a device. Chosen by rule, told on request, never switched silently.

Every backend is a module with the operators of `ponita.ops.reference` under the same names and signatures:
"torch" is that module and runs everywhere; "scatter" has the segment sums of torch-scatter; "cpp" are the compiled
kernels for the CPU; "triton" those for CUDA devices. The derivatives of `basis_conv` are composed of the pair family
where a module has none.
"""

from __future__ import annotations

import os
import warnings
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

MODULES = {
    "torch": "ponita.ops.reference",
    "scatter": "ponita.ops.scatter",
    "cpp": "ponita.csrc.cpu.launch",
    "triton": "ponita.csrc.triton.launch",
}
#: Devices a backend is for; all where it is not named.
DEVICES = {"cpp": ("cpu",), "triton": ("cuda",)}
#: The rule of "auto": the first that is available.
PREFERRED = {"cpu": ("cpp", "torch"), "cuda": ("triton", "torch")}


@lru_cache
def unavailable() -> dict[str, str]:
    """The backends that cannot be used here, each with the reason."""
    reasons = {}
    if find_spec("torch_scatter") is None:
        reasons["scatter"] = "torch-scatter is not installed: pip install torch-scatter --no-build-isolation"
    if find_spec("ponita.csrc._cpu") is None:
        reasons["cpp"] = (
            "the C++ kernels were not compiled when ponita was installed: install a C++17 compiler, then ponita again"
        )
    if find_spec("triton") is None:
        reasons["triton"] = "triton is not installed: pip install triton (Linux only)"
    return reasons


def available() -> tuple[str, ...]:
    """The names of the backends that can be used here."""
    return tuple(name for name in MODULES if name not in unavailable())


def check(backend: str) -> str:
    """The name itself, if it is "auto" or a backend that can be used here.

    Raises:
        ValueError: for an unknown name, or a backend that is not available, with the reason.
    """
    if backend not in ("auto", *MODULES):
        raise ValueError(f"backend={backend!r}; expected 'auto' or one of {list(MODULES)}.")
    if backend in unavailable():
        raise ValueError(f"backend={backend!r} is not available: {unavailable()[backend]}.")
    return backend


@lru_cache
def resolve(backend: str, device: str) -> str:
    """The backend that a name stands for on a kind of device.

    Args:
        backend: "auto", or the name of a backend.
        device: as in `tensor.device.type`.

    Raises:
        ValueError: for a backend that is unknown, not available, or not made for the device.
    """
    if check(backend) == "auto":
        return _preferred(device)
    devices = _devices(backend)
    if devices and device not in devices:
        raise ValueError(
            f"backend={backend!r} runs on {' and '.join(devices)}, the tensors are on {device}; use backend='auto'."
        )
    return backend


@lru_cache
def implementation(backend: str) -> ModuleType:
    """The module of a backend's operators."""
    return import_module(MODULES[backend])


def _devices(backend: str) -> tuple[str, ...]:
    """Kinds of devices a backend is for, empty for all. Triton's interpreter, a tool of tests, runs on the CPU too."""
    interpreted = backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    return DEVICES.get(backend, ()) + ("cpu",) * interpreted


def _preferred(device: str) -> str:
    names = PREFERRED.get(device, ("torch",))
    chosen = next(name for name in names if name not in unavailable())
    if chosen != names[0]:
        warnings.warn(f"backend='auto' is {chosen!r}, the slower one: {unavailable()[names[0]]}.", stacklevel=2)
    return chosen
