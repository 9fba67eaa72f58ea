"""A lab: trains on what it holds, and sends the weights after it; or it is away."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from labs.settings import federation, fingerprint
from ponita.tasks.federated.problem import FederatedPotential, state_of

#: Code of the error that a lab which is away replies with; Flower's own are below 100.
AWAY = 1000

app = ClientApp()
new_task = cache(FederatedPotential.new_task)  # one for each problem of this process


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer with the settings of the run."""
    return answer(message, context.run_config, context.node_config)


def answer(message: Message, settings: Mapping[str, Any], node: Mapping[str, Any]) -> Message:
    """Train, or say that the lab is away.

    Who is there is the lab's own affair: the server asks everyone, and what it learns of a lab is whether it replied. Here, the
    configuration plays the calendar of the labs.

    Args:
        message: with the weights of the server, and the number of the round.
        settings: of the run, those of pyproject.toml.
        node: of this lab, of which "partition-id" is the number, from 0.

    Raises:
        ValueError: for a number that no lab has, or another problem than the server's.
    """
    problem, options = federation(settings, node)
    number = int(node["partition-id"])
    if not 0 <= number < len(problem.labs):
        raise ValueError(f"partition-id={number}; expected 0 to {len(problem.labs) - 1}, the number of a lab.")
    lab, config = problem.labs[number], message.content["config"]
    if fingerprint(options) != config["fingerprint"]:
        raise ValueError(
            f"{lab} has fingerprint {fingerprint(options)}, the server {config['fingerprint']}; give both the same configuration "
            "and version of ponita, and leave them alone while the federation runs."
        )
    round_ = config["rounds-before"] + config["server-round"] - 1  # Flower's begin with 1
    if settings["server"] != "full" and lab not in problem.present(round_):
        return Message(Error(AWAY, f"{lab} is away"), reply_to=message)
    task = new_task(problem)
    problem.local_update(task, message.content["arrays"].to_torch_state_dict(), lab, round_)
    metrics = MetricRecord({"lab": number, "num-examples": problem.local_steps * problem.data.batch_size})
    content = RecordDict({"arrays": ArrayRecord(state_of(task)), "metrics": metrics})
    return Message(content, reply_to=message)
