"""The gradient of the energy in the positions alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_active = False


@contextmanager
def force_pass() -> Iterator[None]:
    """Inside, backward passes leave out gradients of what is made of parameters alone.

    A registered operator is told that all its inputs want a gradient even when only that of the positions was asked
    for, so it would compute those of tables, weights and orientation kernels for nothing. The second derivatives of a
    force loss are not affected: they flow through the operators this pass records. Wrap `torch.autograd.grad(energy,
    pos, create_graph=True)` in it; do not use it for a gradient in the parameters.
    """
    global _active
    before, _active = _active, True
    try:
        yield
    finally:
        _active = before


def in_force_pass() -> bool:
    """Whether a backward pass now is one of forces."""
    return _active
