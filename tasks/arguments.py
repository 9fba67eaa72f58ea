"""Values on the command line that several commands read."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """A number of steps, threads or molecules, at least one."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}; expected at least 1")
    return value
