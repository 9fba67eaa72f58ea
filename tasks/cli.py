"""The command line: `ponita fit|validate|test|predict --config <file or packaged name>`, and the other commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from ponita._version import __version__
from ponita.tasks import configs

HELP = """usage: ponita <command> [options]

Train and evaluate position-orientation equivariant networks.

commands:
  fit        train, then test the best checkpoint
  validate   measure the validation set
  test       measure the test set
  predict    predict on the test set
  configs    list the packaged configurations
  data       look at files of structures, and pack them for training
  ensemble   train one run for each seed, and compare errors with their spread
  federate   train a potential in labs that keep their data and come and go
  export     write a trained potential for LAMMPS, through metatomic
  md         molecular dynamics with a trained potential
  onebyte    adapt a potential on machines that keep their data and send single bytes
  relax      relax a structure with a trained potential
  sample     make molecules with a trained generator
  search     find networks of a space of sizes by accuracy and latency
  bench      measure speed and memory against the published form of the network

A configuration is a file or a packaged name; every value can be changed on the command line:
  ponita fit --config nbody/quick --trainer.max_epochs 10 --model.init_args.optimizer.lr 1e-3
  ponita fit --config nbody/quick --ckpt_path last        continue the latest run where it stopped
  ponita test --ckpt_path runs/nbody-quick/checkpoints/best.ckpt

ponita <command> --help lists the options. Set PONITA_DEBUG=1 to see where an error was raised."""
#: Commands that are not those of Lightning, with the folder of each.
COMMANDS = {name: name for name in ("bench", "data", "ensemble", "export", "md", "relax", "search")} | {
    "federate": "federated",
    "onebyte": "one_byte",
    "sample": "diffusion",
}
#: Packages that another extra than "tasks" installs.
EXTRAS = {"ase": "atoms", "lmdb": "atoms", "vesin": "atoms"}


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the `ponita` command, also callable from Python.

    Args:
        args: the words after `ponita`; those of the process where None.
    """
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(HELP)
    elif args[0] in ("-V", "--version"):
        print(f"ponita {__version__}")
    elif args[0] == "configs":
        print(configs.listing())
    else:
        _run_with_plain_errors(args)


def run(args: Sequence[str]) -> Any:
    """Parse, run, and hand back the LightningCLI (None for `bench`, `md` and the like), for use from Python.

    Args:
        args: as for `main`.
    """
    from ponita.ops import keep_freed_memory  # here, so that `ponita --help` does not wait for torch

    keep_freed_memory()
    if args[0] in COMMANDS:
        return import_module(f"ponita.tasks.{COMMANDS[args[0]]}.command").main(list(args[1:]))
    from ponita.tasks.lightning_cli import run_command

    return run_command(list(args))


def _run_with_plain_errors(args: list[str]) -> None:
    """Show the message of an error the user can act on, without the traceback."""
    try:
        run(args)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package == "ponita":
            raise
        extra = EXTRAS.get(package, "tasks")
        print(f"ponita: error: {error}: the tasks need more packages, pip install 'ponita[{extra}]'", file=sys.stderr)
        sys.exit(1)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get("PONITA_DEBUG"):
            raise
        print(f"ponita: error: {_said(str(error))}", file=sys.stderr)
        sys.exit(1)


def _said(message: str) -> str:
    """What a class said of its arguments, without what the parser writes about unions around it."""
    if "Does not validate against any of the Union subtypes" not in message:
        return message
    reasons = [line.strip(" -") for line in message.splitlines() if line.lstrip().startswith("- ")]
    own = [reason for reason in reasons if not reason.startswith(("Expected a <class", "Does not validate"))]
    return "\n".join(own) or message
