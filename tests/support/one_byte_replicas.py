"""Machines of a one-byte training: processes that are started, and replicas in one process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from ponita.sharing.federated.one_byte import ABSENT, OneByteSPSA
from support import one_byte_worker
from support.one_byte_worker import SAMPLES, WORLD, loss, network, spsa

WORKER = Path(one_byte_worker.__file__)


def start(*arguments: object) -> subprocess.Popen:
    """A process of `one_byte_worker`."""
    environment = {**os.environ, "PYTHONPATH": str(WORKER.parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(WORKER), *map(str, arguments)], env=environment)


def ended(processes: Sequence[subprocess.Popen], expected: int = 0, others: Sequence[subprocess.Popen] = ()) -> None:
    """Wait for processes, whose exit status must be what is expected; if it is not, none stays behind.

    Args:
        processes: to wait for.
        expected: their exit status.
        others: that may go on meanwhile.
    """
    try:
        assert [process.wait(timeout=200) for process in processes] == [expected] * len(processes)
    except BaseException:
        for process in [*processes, *others]:
            process.kill()
            process.wait()
        raise


class Sent(Exception):
    """A machine has sent its bytes."""


class Collect:
    """Keeps the bytes of a step, and ends it before they are applied."""

    def __init__(self, sent: list[bytes]) -> None:
        self.sent = sent

    def exchange(self, step: int, mine: bytes) -> dict[int, bytes]:
        self.sent.append(mine)
        raise Sent


def bytes_of(replica: OneByteSPSA, closure: object) -> bytes:
    """What a machine would send in its next step; nothing is applied."""
    sent: list[bytes] = []
    before, replica.transport = replica.transport, Collect(sent)
    with contextlib.suppress(Sent):
        replica.step(closure)
    replica.transport = before
    return sent[0]


def replicas(
    steps: int, lost: Sequence[tuple[int, int]] = (), **options: object
) -> tuple[list[OneByteSPSA], list[nn.Module]]:
    """Three machines after some steps, one after the other, with the models.

    Args:
        steps: of each.
        lost: (step, machine) of bytes that do not arrive.
        **options: of `OneByteSPSA`.
    """
    models = [network() for _ in range(WORLD)]
    made = [spsa(model, machine, **options) for machine, model in enumerate(models)]
    losses = [loss(model, machine) for machine, model in enumerate(models)]
    for step in range(steps):
        messages = {machine: bytes_of(replica, losses[machine]) for machine, replica in enumerate(made)}
        messages |= {machine: bytes([ABSENT]) * SAMPLES for at, machine in lost if at == step}
        for replica in made:
            replica.apply(step, messages)
    return made, models


def directions(made: OneByteSPSA, step: int, machine: int, sample: int) -> dict[str, Tensor]:
    """All parts of a direction."""
    of = made.direction(step, machine, sample)
    return {name: of(name) for name in made.named}
