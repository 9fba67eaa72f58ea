"""`ponita federate`: labs train one potential without showing their data, and servers are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace

from ponita.models import save
from ponita.tasks import runs
from ponita.tasks.arguments import parse_configured
from ponita.tasks.federated.federate import SERVERS, Federation, federate, make_server
from ponita.tasks.federated.problem import FederatedPotential, load
from ponita.tasks.pictures import figure, format_table

DESCRIPTION = (
    """Train a potential in labs that keep their configurations and are not always there, with one or more servers."""
)
EPILOG = """example:
  ponita federate --config federated/potential --problem.data.init_args.root DIR
  ponita federate --config federated/potential --servers "[fedau]" --rounds 500 --run_dir mine

The run folder holds report.txt, errors.png, a checkpoint of the potential of every server (SERVER.ckpt, for ponita md), and the state of every
federation: the same command with --run_dir goes on with one that was stopped, or adds rounds."""


def main(args: Sequence[str]) -> None:
    """Entry point of `ponita federate`.

    Args:
        args: the words after `ponita federate`.

    Raises:
        ValueError: for options that do not fit.
    """
    parser = _parser()
    config, name = parse_configured(parser, list(args), "federated")
    problem: FederatedPotential = parser.instantiate_classes(config).problem
    unknown = [server for server in config.servers if server not in SERVERS]
    if unknown or not config.servers:
        raise ValueError(f"servers {unknown or 'none'}; expected some of {list(SERVERS)}.")
    if config.rounds < 1 or config.every < 1 or not config.server_lr > 0:
        raise ValueError(
            f"rounds={config.rounds}, every={config.every}, server_lr={config.server_lr}; expected at least 1 of the first two, and "
            "a positive step."
        )
    torch.set_num_threads(config.threads)
    problem.setup()
    folder = Path(config.run_dir) if config.run_dir else runs.choose(name, None, None, "fit")
    folder.mkdir(parents=True, exist_ok=True)
    parser.save(config, folder / "config.yaml", skip_check=True, overwrite=True)
    found = {server: _run(problem, server, config, folder) for server in config.servers}
    report = _report(problem, found)
    (folder / "report.txt").write_text(report + "\n", encoding="utf-8")
    draw_errors(folder / "errors.png", found)
    print(f"\n{report}\n\neverything of this federation is in {folder}")


def _run(problem: FederatedPotential, name: str, config: Namespace, folder: Path) -> Federation:
    task = problem.new_task()
    server = make_server(name, problem, config.server_lr, config.cutoff)
    run = federate(problem, name, server, config.rounds, task, folder / f"{name}.pt", config.every, config.progress)
    load(task, run.state)
    save(task.model, folder / f"{name}.ckpt")
    return run


def _report(problem: FederatedPotential, found: dict[str, Federation]) -> str:
    task = problem.new_task()
    first, last = problem.labs[0], problem.labs[-1]
    rows = [
        (
            "server",
            "rounds",
            "test (meV/Å)",
            f"{first} (p={problem.rates[first]:.2f})",
            f"{last} (p={problem.rates[last]:.2f})",
            "rejected",
        )
    ]
    for name, run in found.items():
        errors = [
            problem.error(task, run.state, "test"),
            *(problem.error_of_lab(task, run.state, lab) for lab in (first, last)),
        ]
        rows.append((name, str(run.rounds), *(f"{error:.1f}" for error in errors), str(len(run.absent))))
    counts = sorted({len(rows) for rows in problem.rows.values()})
    title = f"{len(problem.labs)} labs of {counts[0]} to {counts[-1]} structures, sorted by energy; force errors of their common potential."
    return f"{title}\n\n{format_table(rows)}"


def draw_errors(path: Path, found: dict[str, Federation]) -> None:
    """Validation errors against rounds, a line for each server."""
    with figure(path, width=6.0, height=4.2) as (axis,):
        for name, run in found.items():
            axis.plot(*zip(*run.errors, strict=True), label=name, linewidth=1.3)
        axis.set(xlabel="round", ylabel="force error (meV/Å)", yscale="log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.legend(frameon=False, fontsize=8)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="ponita federate", description=DESCRIPTION, epilog=EPILOG, exit_on_error=False)
    parser.add_argument("--config", action="config", help="file or packaged name")
    parser.add_class_arguments(FederatedPotential, "problem")
    parser.add_argument("--servers", type=list[str], default=["fedau"], help=f"some of {', '.join(SERVERS)}")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--every", type=int, default=10, help="rounds between validations and checkpoints")
    parser.add_argument("--server_lr", type=float, default=1.0)
    parser.add_argument("--cutoff", type=int | None, default=50, help="K of fedau; null for none")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the processor")
    parser.add_argument("--progress", type=bool, default=True, help="show progress bars")
    parser.add_argument(
        "--run_dir", type=str | None, default=None, help="default runs/<config>; one that is there is continued"
    )
    return parser
