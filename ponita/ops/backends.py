"""Which backend serves the operators. Resolved once, when a layer is made; never switched silently afterwards.

"torch" runs everywhere. "scatter" is the same with the segment sums of torch-scatter, where that is installed.
"""

from __future__ import annotations

from importlib.util import find_spec

BACKENDS = ("torch", "scatter")


def unavailable() -> dict[str, str]:
    """The backends that cannot be used here, each with the reason."""
    if find_spec("torch_scatter") is None:
        return {"scatter": "torch-scatter is not installed: pip install torch-scatter --no-build-isolation"}
    return {}


def available() -> tuple[str, ...]:
    """The backends that can be used here, the preferred one first."""
    missing = unavailable()
    return tuple(name for name in BACKENDS if name not in missing)


def resolve(backend: str = "auto") -> str:
    """The backend a name stands for.

    "auto" is "torch": with torch 2.13 its `index_add_` takes 0.2 ms for the sums of a rMD17 batch, no part of a step.

    Raises:
        ValueError: for an unknown name, or a backend that is not installed.
    """
    if backend == "auto":
        return "torch"
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}; expected 'auto' or one of {list(BACKENDS)}.")
    reason = unavailable().get(backend)
    if reason is not None:
        raise ValueError(f"backend={backend!r} is not available: {reason}")
    return backend
