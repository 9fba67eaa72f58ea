"""Rounds of a federation, with whatever the server forgets if it stops kept in a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ponita.data import replacing
from ponita.sharing.federated import AverageAll, AverageParticipating, FedAU, FedVarp, KnownRates, Mifa, Server
from ponita.tasks.federated.problem import FederatedPotential, State, state_of
from ponita.tasks.potential import EnergyForceTask

#: Servers that can be named; "full" averages with all labs present, the bound that the others are compared with.
SERVERS = ("fedau", "participating", "all", "known", "mifa", "fedvarp", "full")


@dataclass
class Federation:
    """State of a federation after some rounds.

    Attributes:
        state: of the potential.
        rounds: that are done.
        errors: (round, force error of the validation set).
        absent: labs whose reply was not finite, with the round.
    """

    state: State
    rounds: int = 0
    errors: list[tuple[int, float]] = field(default_factory=list)
    absent: list[tuple[int, str]] = field(default_factory=list)

    def end_round(self, state: State, server: Server) -> None:
        """Enter a round that the server has averaged."""
        self.state = state
        self.absent += [(self.rounds, lab) for lab in server.rejected]
        self.rounds += 1

    def validate(self, problem: FederatedPotential, task: EnergyForceTask) -> None:
        """Enter the error of the validation set."""
        self.errors.append((self.rounds, problem.error(task, self.state, "valid")))


def make_server(name: str, problem: FederatedPotential, server_lr: float, cutoff: int | None) -> Server:
    """A server by its name.

    Raises:
        ValueError: for an unknown one.
    """
    if name not in SERVERS:
        raise ValueError(f"server {name!r}; expected one of {list(SERVERS)}.")
    if name == "fedau":
        return FedAU(problem.labs, server_lr, cutoff=cutoff)
    if name == "known":
        return KnownRates(problem.labs, problem.rates, server_lr)
    kinds = {"participating": AverageParticipating, "all": AverageAll, "mifa": Mifa, "fedvarp": FedVarp}
    return kinds.get(name, AverageParticipating)(problem.labs, server_lr)


def federate(
    problem: FederatedPotential,
    name: str,
    server: Server,
    rounds: int,
    task: EnergyForceTask,
    path: Path | None = None,
    every: int = 10,
    progress: bool = True,
) -> Federation:
    """Run rounds, or go on with those that a file has.

    Args:
        problem: with the labs.
        name: of the server; with "full" all labs take part in each round.
        server: that averages.
        rounds: in all.
        task: of the first state; used for computation.
        path: checkpoint of the federation, written every few rounds.
        every: rounds between two validations and checkpoints.
        progress: show a progress bar.
    """
    run, pattern = begin(task, server, path), problem.participation()
    for _ in range(run.rounds):
        pattern.round()  # so that the rounds to come are those of a run that was not stopped
    bar = tqdm(
        range(run.rounds, rounds), initial=run.rounds, total=rounds, desc=name, unit="round", disable=not progress
    )
    for number in bar:
        present = set(problem.labs) if name == "full" else pattern.round()
        updates = {lab: problem.local_update(task, run.state, lab, number) for lab in sorted(present)}
        run.end_round(server.step(run.state, updates), server)
        if run.rounds % every == 0 or run.rounds == rounds:
            run.validate(problem, task)
            keep(run, server, path)
    return run


def begin(task: EnergyForceTask, server: Server, path: Path | None) -> Federation:
    """A federation in its first state, or the one that a file has.

    Args:
        task: of the first state.
        server: gets what it knew of the labs.
        path: checkpoint, if there is one.
    """
    if path is None or not path.is_file():
        return Federation(state_of(task))
    stored: dict[str, Any] = torch.load(path, weights_only=True)
    server.load_state_dict(stored["server"])
    return Federation(stored["state"], stored["rounds"], stored["errors"], stored["absent"])


def keep(run: Federation, server: Server, path: Path | None) -> None:
    """Write the checkpoint of a federation, if it is to have one."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        torch.save({**vars(run), "server": server.state_dict()}, temporary)
