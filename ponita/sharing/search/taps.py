"""Features inside the blocks of a network, recorded while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from ponita.models import Ponita


@contextmanager
def recorded(network: Ponita) -> Iterator[list[dict[str, Tensor]]]:
    """Inside, every block notes "S", the message over positions, "F", that over orientations, and "U", its output.

    Without orientations "F" is the same as "S". Each is [N, O, C].

    Yields:
        What the blocks noted, in their order; filled by a forward.
    """
    found: list[dict[str, Tensor]] = [{} for _ in network.blocks]
    undo: list[Callable[[], None]] = []
    for block, notes in zip(network.blocks, found, strict=True):
        _note(block.conv, "spatial", notes, ("S", "F"), undo)
        if hasattr(block.conv, "spherical"):
            _note(block.conv, "spherical", notes, ("F",), undo)
        handle = block.register_forward_hook(lambda _, __, output, notes=notes: notes.update(U=output))
        undo.append(handle.remove)
    try:
        yield found
    finally:
        for step in undo:
            step()


def _note(
    conv: object, method: str, notes: dict[str, Tensor], names: tuple[str, ...], undo: list[Callable[[], None]]
) -> None:
    """Let a method of one layer note what it returns; `spatial` calls itself, and the last note is the sum."""
    original = getattr(conv, method)

    def noted(*inputs: object) -> Tensor:
        value = original(*inputs)
        notes.update(dict.fromkeys(names, value))
        return value

    setattr(conv, method, noted)
    undo.append(lambda: delattr(conv, method))
