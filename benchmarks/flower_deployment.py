"""A federation through Flower's processes against the same one without Flower: equal bits, errors, and seconds a round.

    python benchmarks/flower_deployment.py --root DIR [--labs 4] [--rounds 40]

Starts a SuperLink and a SuperNode for each lab on this machine, lets them train the potential of `federated/potential` with
FedAU, ends them, and trains it again in this process as `ponita federate` does. DIR holds rMD17. It needs an environment with
`ponita[tasks]` and `flwr`. Writes --out (benchmarks/results/flower.json) and prints a table.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import signal
import statistics
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ponita.sharing.federated import Server
from ponita.tasks import configs
from ponita.tasks.bench.record import environment, write
from ponita.tasks.federated.command import configured
from ponita.tasks.federated.federate import Federation, federate, make_server
from ponita.tasks.federated.problem import FederatedPotential, state_of
from ponita.tasks.pictures import format_table

APP = Path(__file__).resolve().parents[1] / "examples" / "flower"
CONFIG, SERVER = "federated/potential", "fedau"


def options(arguments: argparse.Namespace) -> list[str]:
    """Of `ponita federate`, for both."""
    calm, distorted = arguments.rates
    words = ["--problem.labs", str(arguments.labs), "--problem.rates", f"[{calm},{distorted}]", "--threads", "1"]
    return [*words, "--rounds", str(arguments.rounds), "--every", str(arguments.every)]


def through_flower(arguments: argparse.Namespace) -> dict[str, Any]:
    """Checkpoint of the federation, with "rows" of its table and "seconds" from the first process's start to the last one's end."""
    sys.path.insert(0, str(APP))
    from deploy import Deployment
    from run_settings import read_settings

    words = [
        f"config={arguments.folder / 'federation.yaml'}",
        f"root={arguments.root}",
        f"server={SERVER}",
        "run-dir=federation",
    ]
    settings = read_settings([*words, f"options={' '.join(options(arguments))}"])
    begun = time.monotonic()
    with Deployment(arguments.folder, arguments.labs) as deployment:
        deployment.run(settings)
    left, seconds = arguments.folder / "federation", time.monotonic() - begun
    with (left / "rounds.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {**torch.load(left / f"{SERVER}.pt", weights_only=True), "rows": rows, "seconds": seconds}


def without_flower(arguments: argparse.Namespace) -> tuple[FederatedPotential, Server, Federation, float]:
    """The same federation in this process, and its seconds."""
    words = [
        "--config",
        str(arguments.folder / "federation.yaml"),
        *options(arguments),
        "--problem.data.init_args.root",
        str(arguments.root),
    ]
    _, config, _, problem = configured(words)
    problem.setup()
    server, task = make_server(SERVER, problem, config.server_lr, config.cutoff), problem.new_task()
    begun = time.monotonic()
    run = federate(problem, SERVER, server, config.rounds, task, every=config.every)
    return problem, server, run, time.monotonic() - begun


def compared(
    flower: dict[str, Any], problem: FederatedPotential, server: Server, run: Federation, seconds: float
) -> dict[str, Any]:
    """What is stored."""
    task = problem.new_task()
    states = {"before": state_of(task), "flower": flower["state"], "alone": run.state}
    return {
        "labs": {lab: {"rate": problem.rates[lab], "structures": len(problem.rows[lab])} for lab in problem.labs},
        "rounds": flower["rounds"],
        "took_part": [row["labs"].split() for row in flower["rows"]],
        "equal_bits": all(torch.equal(flower["state"][name], value) for name, value in run.state.items()),
        "equal_weights_of_labs": flower["server"] == server.state_dict(),
        "bytes_of_a_message": sum(value.numel() * value.element_size() for value in run.state.values()),
        "valid_error": {"flower": flower["errors"], "alone": run.errors},
        "test_error": {name: problem.error(task, state) for name, state in states.items()},
        "seconds": {
            "flower": round(flower["seconds"], 1),
            "flower_round": statistics.median(float(row["seconds"]) for row in flower["rows"]),
            "alone": round(seconds, 1),
            "alone_round": round(seconds / run.rounds, 3),
        },
    }


def main() -> None:
    """Run both, compare, store, print."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    # Every message's process reads the configuration: a copy stays as it is.
    shutil.copyfile(configs.resolve(CONFIG), arguments.folder / "federation.yaml")
    flower = through_flower(arguments)
    found = compared(flower, *without_flower(arguments))
    command = f"python benchmarks/flower_deployment.py --root DIR --labs {arguments.labs} --rounds {arguments.rounds}"
    made = environment(1)
    made["versions"]["flwr"] = metadata.version("flwr")
    write({"command": command, "flower_deployment": found, **made}, arguments.out)
    rows = [(f"{found['rounds']} rounds of {arguments.labs} labs", "test (meV/Å)", "seconds", "seconds a round")]
    for name, label in {"flower": "SuperLink and SuperNodes", "alone": "without Flower"}.items():
        seconds = found["seconds"]
        rows.append((label, f"{found['test_error'][name]:.2f}", str(seconds[name]), str(seconds[f"{name}_round"])))
    print(f"{format_table(rows)}\n\nequal bits: {found['equal_bits']}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of rMD17, with npz_data and splits")
    parser.add_argument("--labs", type=int, default=4)
    parser.add_argument(
        "--rates",
        type=float,
        nargs=2,
        default=(0.9, 0.3),
        help="of participation, of the calmest and of the most distorted configurations",
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--every", type=int, default=5, help="rounds between validations")
    parser.add_argument("--folder", type=Path, default=Path("runs/flower_deployment"), help="a new one")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "flower.json")
    arguments = parser.parse_args()
    arguments.root, arguments.folder = arguments.root.resolve(), arguments.folder.resolve()
    try:
        metadata.version("flwr")
    except metadata.PackageNotFoundError:
        parser.error("this environment has no Flower; make one of its own, with `pip install 'ponita[tasks,flower]'`.")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if any(arguments.folder.iterdir()):
        parser.error(f"there are files in {arguments.folder}; name a new folder, so that all rounds are measured.")
    return arguments


if __name__ == "__main__":
    main()
