"""The server: averages what the labs send, and leaves what `ponita federate` leaves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from labs.settings import federation, fingerprint
from ponita.sharing.federated.flower import LOG, ServerStrategy
from ponita.tasks.federated.command import save_potential, write_results
from ponita.tasks.federated.federate import Federation, begin, keep, make_server

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Serve with the settings of the run."""
    serve(grid, context.run_config)


def serve(grid: Grid, settings: Mapping[str, Any]) -> Federation:
    """Run the rounds that the folder of the run does not have yet.

    Args:
        grid: that reaches the labs.
        settings: of the run, those of pyproject.toml.
    """
    problem, config = federation(settings)
    name, folder = settings["server"], Path(settings["run-dir"])
    server, task = make_server(name, problem, config.server_lr, config.cutoff), problem.new_task()
    run = begin(task, server, folder / f"{name}.pt")
    strategy = ServerStrategy(server, names=problem.labs, fraction_evaluate=0.0)
    table = Table(folder / "rounds.csv", run.rounds)

    def after_round(number: int, arrays: ArrayRecord) -> MetricRecord | None:
        if number == 0:
            return None  # the state that all begin with
        run.end_round(arrays.to_torch_state_dict(), server)
        measured = run.rounds % config.every == 0 or run.rounds == config.rounds
        if measured:
            run.validate(problem, task)
            keep(run, server, folder / f"{name}.pt")
        table.add(run.rounds, strategy.present, run.errors[-1][1] if measured else None)
        return MetricRecord({"force-error": run.errors[-1][1]}) if measured else None

    wait_for_labs(grid, len(problem.labs), float(settings["start-seconds"]))
    strategy.start(
        grid,
        ArrayRecord(run.state),
        num_rounds=config.rounds - run.rounds,
        timeout=float(settings["round-seconds"]),
        train_config=ConfigRecord({"rounds-before": run.rounds, "fingerprint": fingerprint(config)}),
        evaluate_fn=after_round,
    )
    save_potential(task, run, folder / f"{name}.ckpt")
    LOG.info("%s\n\neverything of this federation is in %s", write_results(problem, {name: run}, folder), folder)
    return run


def wait_for_labs(grid: Grid, labs: int, seconds: float) -> None:
    """Wait until all labs are connected, or some seconds; those who come later were absent before."""
    until = time.monotonic() + seconds
    while (connected := len(list(grid.get_node_ids()))) < labs and time.monotonic() < until:
        time.sleep(1)
    LOG.info("%d of %d labs are connected", connected, labs)


class Table:
    """A line for each round, as it ends: its number, seconds, force error of the validation set (meV/Å), and who took part.

    Args:
        path: of the file.
        rounds: that a federation which goes on has; lines of later ones are dropped.
    """

    def __init__(self, path: Path, rounds: int) -> None:
        self.path, self.since = path, time.monotonic()
        lines = path.read_text(encoding="utf-8").splitlines()[1 : 1 + rounds] if rounds and path.is_file() else []
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(["round,seconds,force_error,labs", *lines, ""]), encoding="utf-8")

    def add(self, number: int, labs: list[str], error: float | None) -> None:
        """Write a line."""
        now = time.monotonic()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{number},{now - self.since:.1f},{'' if error is None else f'{error:.2f}'},{' '.join(labs)}\n")
        self.since = now
