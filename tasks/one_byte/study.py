"""Trainings by several methods, and what their errors were after how many bytes and evaluations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch.nn.utils import vector_to_parameters
from tqdm import tqdm

from ponita.sharing.federated.one_byte import ByteLog, LocalTransport, publish
from ponita.tasks.one_byte.machines import RESTARTS, new_store, run_machines
from ponita.tasks.one_byte.problem import BatchLoss, OneByteProblem
from ponita.tasks.one_byte.training import (
    OPTIMIZERS,
    Averaged,
    Averaging,
    OneByte,
    log_of,
    marks,
    new_spsa,
    send_bytes,
    send_gradients,
)

ONE_BYTE = "onebyte"
METHODS = (ONE_BYTE, *OPTIMIZERS)


@dataclass
class Curve:
    """Errors of the test frames in the course of a training.

    Attributes:
        step_bytes: payload that each machine sends in a step.
        step_evaluations: batches whose loss each machine computes in a step.
        steps: after which errors were measured.
        energies: mean absolute errors, meV.
        forces: mean absolute errors of components, meV/Å.
        cpu_seconds: of all machines; of the steps made now, where a run went on.
    """

    step_bytes: int
    step_evaluations: int
    steps: list[int] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)
    forces: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0

    def add(self, step: int, problem: OneByteProblem, loss: BatchLoss) -> None:
        """Measure after a step."""
        energy, force = problem.errors(loss)
        self.steps.append(step)
        self.energies.append(energy)
        self.forces.append(force)

    def bytes_to(self, error: float) -> int | None:
        """Bytes sent when the force error first was no larger; None where it never was."""
        reached = (step for step, force in zip(self.steps, self.forces, strict=True) if force <= error)
        step = next(reached, None)
        return None if step is None else self.step_bytes * step


@dataclass
class Resources:
    """Attributes:
    folder: of the run.
    threads: of the processor, for each machine.
    progress: show bars.
    """

    folder: Path
    threads: int
    progress: bool


def train_one_byte(problem: OneByteProblem, settings: OneByte, resources: Resources) -> tuple[Curve, BatchLoss]:
    """Train with one byte a sample, or go on from the logs; errors are those of a machine that replays the log.

    Raises:
        ValueError: for logs that contradict each other.
        RuntimeError: if machines fail.
    """
    folder = resources.folder
    log_of(folder, 0).parent.mkdir(parents=True, exist_ok=True)
    logs = [ByteLog(log_of(folder, machine)) for machine in range(problem.machines)]
    longest, seconds = agreed_log(logs), 0.0
    if min(map(len, logs)) < settings.steps:
        store = new_store()
        for step, messages in longest:
            publish(store, step, messages)
        given = (settings, folder, resources.threads, resources.progress)
        seconds = run_machines(
            store, problem.machines, send_bytes, lambda machine: (problem.private(machine), *given), RESTARTS
        )
    curve, loss = _replayed(problem, settings, ByteLog(log_of(folder, 0)), resources.progress)
    curve.cpu_seconds = seconds
    return curve, loss


def agreed_log(logs: list[ByteLog]) -> ByteLog:
    """The longest of logs that begin alike.

    Raises:
        ValueError: for logs that contradict each other.
    """
    longest = max(logs, key=len)
    for log in logs:
        pairs = zip(log, longest, strict=False)
        differing = next((step for (step, one), (_, other) in pairs if one != other), None)
        if differing is not None:
            raise ValueError(
                f"{log.path} and {longest.path} contradict each other at step {differing}; delete the one that is not to be "
                "trusted, or begin another run."
            )
    return longest


def _replayed(problem: OneByteProblem, settings: OneByte, log: ByteLog, progress: bool) -> tuple[Curve, BatchLoss]:
    loss, curve = problem.new_loss(), Curve(settings.samples, 2 * settings.samples)
    made = new_spsa(problem, loss, settings, LocalTransport())
    for step in _measured([0, *marks(len(log))], progress):
        made.replay(itertools.islice(log, step))
        curve.add(step, problem, loss)
    return curve, loss


def train_averaging(
    problem: OneByteProblem, name: str, settings: Averaging, resources: Resources
) -> tuple[Curve, BatchLoss]:
    """Train with averaged gradients, or go on from the last state.

    Args:
        name: of the optimiser.

    Raises:
        RuntimeError: if a machine fails.
    """
    path = resources.folder / f"{name}.pt"
    run, seconds = Averaged.load(path), 0.0
    if run is None or run.steps < settings.steps:
        given = (name, settings, resources.folder, resources.threads, resources.progress)
        seconds = run_machines(
            new_store(), problem.machines, send_gradients, lambda machine: (problem.private(machine), *given)
        )
        run = Averaged.load(path)
    loss = problem.new_loss()
    parameters = list(loss.trained().values())
    curve = Curve(4 * run.weights.numel(), 1, cpu_seconds=seconds)
    curve.add(0, problem, loss)
    for step in _measured(sorted(run.snapshots), resources.progress):
        vector_to_parameters(run.snapshots[step].clone(), parameters)
        curve.add(step, problem, loss)
    return curve, loss


def _measured(steps: list[int], progress: bool) -> Iterator[int]:
    return iter(tqdm(steps, desc="errors", unit="step", disable=not progress))


def number_of_weights(problem: OneByteProblem) -> int:
    """How many numbers train."""
    return sum(p.numel() for p in problem.new_loss().trained().values())
