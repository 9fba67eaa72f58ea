"""A setting of the process that large networks on a CPU profit from."""

from __future__ import annotations

import contextlib
import ctypes

#: Numbers of glibc's mallopt.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST = 2**31 - 1  # of a C int, bytes


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next step, instead of giving it back to the system and asking again.

    Tensors of a step are freed at its end. By default glibc returns large ones at once, and each page of the next step is
    handed out by the kernel on first touch: a third of the time of energies and forces of 10,000 atoms. The process then
    stays as large as its largest step. The `ponita` command does this; a program that uses the library may.

    Returns:
        Whether it was done: on Linux with glibc.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        return bool(libc.mallopt(MMAP_THRESHOLD, LARGEST) and libc.mallopt(TRIM_THRESHOLD, LARGEST))
    return False
