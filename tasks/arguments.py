"""Values on the command line that several commands read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ponita.tasks import configs

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def positive(text: str) -> int:
    """A number of steps, threads or molecules, at least one."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}; expected at least 1")
    return value


def parse_configured(parser: ArgumentParser, args: Sequence[str], folder: str) -> tuple[Namespace, str]:
    """Options of a command that needs --config, where a packaged name stands for its file; and the name of the configuration.

    Args:
        parser: of jsonargparse, with exit_on_error=False.
        args: the words after the command.
        folder: that its packaged configurations are in, such as "search".

    Raises:
        ValueError: without --config, for one that does not exist, and for whatever the parser refuses.
    """
    given = next((args[i + 1] for i, word in enumerate(args[:-1]) if word == "--config"), None)
    if given is None and not {"-h", "--help"} & set(args):
        known = ", ".join(name for name in configs.packaged() if name.startswith(f"{folder}/"))
        raise ValueError(f"no --config; expected a file or a packaged name, such as {known}.")
    name = folder if given is None else given if given in configs.packaged() else f"{folder}/{Path(given).stem}"
    words = [str(configs.resolve(word)) if args[i - 1 : i] == ["--config"] else word for i, word in enumerate(args)]
    try:
        return parser.parse_args(words), name
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
