"""`ponita federate`: labs train one potential without showing their data, and servers are compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace

from ponita.models import save
from ponita.tasks import runs
from ponita.tasks.arguments import parse_configured
from ponita.tasks.federated.federate import SERVERS, Federation, federate, make_server
from ponita.tasks.federated.problem import FederatedPotential, load
from ponita.tasks.pictures import figure, format_table
from ponita.tasks.potential import EnergyForceTask

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
    parser, config, name, problem = configured(args)
    problem.setup()
    folder = Path(config.run_dir) if config.run_dir else runs.choose(name, None, None, "fit")
    folder.mkdir(parents=True, exist_ok=True)
    parser.save(config, folder / "config.yaml", skip_check=True, overwrite=True)
    found = {server: _run(problem, server, config, folder) for server in config.servers}
    print(f"\n{write_results(problem, found, folder)}\n\neverything of this federation is in {folder}")


def configured(args: Sequence[str]) -> tuple[ArgumentParser, Namespace, str, FederatedPotential]:
    """Parser, options, name of the configuration and problem of a command line; torch gets the number of its threads.

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
    return parser, config, name, problem


def _run(problem: FederatedPotential, name: str, config: Namespace, folder: Path) -> Federation:
    task = problem.new_task()
    server = make_server(name, problem, config.server_lr, config.cutoff)
    run = federate(problem, name, server, config.rounds, task, folder / f"{name}.pt", config.every, config.progress)
    save_potential(task, run, folder / f"{name}.ckpt")
    return run


def save_potential(task: EnergyForceTask, run: Federation, path: Path) -> None:
    """Write the potential of a federation to a checkpoint."""
    load(task, run.state)
    save(task.model, path)


def write_results(problem: FederatedPotential, found: dict[str, Federation], folder: Path) -> str:
    """Write the table and the picture of federations, and the numbers behind them.

    Args:
        problem: with the labs.
        found: the federations, by name of the server.
        folder: for report.txt, errors.png and results.json.

    Returns:
        The table.
    """
    results = measured(problem, found)
    report = _report(problem, results)
    (folder / "report.txt").write_text(report + "\n", encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw_errors(folder / "errors.png", found)
    return report


def measured(problem: FederatedPotential, found: dict[str, Federation]) -> dict[str, dict[str, Any]]:
    """Of each server: force errors (meV/Å) of the test set and of some structures of every lab, and those of the validation set by round."""
    task, results = problem.new_task(), {}
    for name, run in found.items():
        results[name] = {
            "rounds": run.rounds,
            "test": problem.error(task, run.state, "test"),
            "labs": {lab: problem.error_of_lab(task, run.state, lab) for lab in problem.labs},
            "rates": dict(problem.rates),
            "rejected": len(run.absent),
            "valid": run.errors,
        }
    return results


def _report(problem: FederatedPotential, results: dict[str, dict[str, Any]]) -> str:
    ends = problem.labs[0], problem.labs[-1]
    rows = [("server", "rounds", "test (meV/Å)", *(f"{lab} (p={problem.rates[lab]:.2f})" for lab in ends), "rejected")]
    for name, one in results.items():
        errors = (one["test"], *(one["labs"][lab] for lab in ends))
        rows.append((name, str(one["rounds"]), *(f"{error:.1f}" for error in errors), str(one["rejected"])))
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
