"""The loop of a simulation: progress, records, and an end that loses nothing."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ase.md.md import MolecularDynamics
from tqdm import tqdm

from ponita.interfaces.ase import SpreadError
from ponita.tasks.md.record import Recorder


class Ending(NamedTuple):
    """How a simulation ended.

    Attributes:
        step: the last step.
        reason: why it ended before its time, or None.
        seconds_per_step: of wall clock, or NaN.
    """

    step: int
    reason: str | None
    seconds_per_step: float


def simulate(
    dynamics: MolecularDynamics, recorder: Recorder, steps: int, log_every: int = 10, save_every: int = 100
) -> Ending:
    """Run to a step, or until interrupted (Ctrl-C) or stopped by an observer; the last step is always written.

    Args:
        dynamics: the integrator, at the step it starts from.
        recorder: of frames and table.
        steps: step to end at.
        log_every: steps between rows.
        save_every: steps between frames.
    """
    start, reason, began = dynamics.nsteps, None, time.perf_counter()
    with interrupts() as interrupted, _progress(start, steps) as bar:
        try:
            for _ in dynamics.irun(steps - start):
                step = dynamics.nsteps
                if step % log_every == 0:
                    row = recorder.row(step)
                    bar.set_postfix_str(_shown(row, step - start, time.perf_counter() - began, recorder), refresh=False)
                if step % save_every == 0:
                    recorder.frame(step)
                bar.update(step - bar.n)
                if interrupted:
                    reason = "interrupted"
                    break
        except SpreadError as error:
            reason = str(error)
    elapsed, step = time.perf_counter() - began, dynamics.nsteps
    recorder.row(step)
    recorder.frame(step)
    return Ending(step, reason, elapsed / (step - start) if step > start else float("nan"))


def ns_per_day(seconds_per_step: float, timestep: float) -> float:
    """Nanoseconds of a simulation in a day of wall clock.

    Args:
        seconds_per_step: of wall clock.
        timestep: fs.
    """
    return 86400 * timestep * 1e-6 / seconds_per_step


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """A list that the first Ctrl-C, or a request to terminate, puts its signal in; the second acts as usual.

    A step of the integrator is then finished, where an exception would leave positions and momenta of different times.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def receive(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _progress(start: int, steps: int) -> tqdm:
    return tqdm(total=steps, initial=start, unit="step", disable=None, dynamic_ncols=True)


def _shown(row: dict[str, float | str], done: int, elapsed: float, recorder: Recorder) -> str:
    speed = f"{ns_per_day(elapsed / done, recorder.timestep):.3g} ns/day, " if done else ""
    spread = row["max_force_std_eV_per_A"]
    uncertain = "" if spread == "" else f", spread {spread:.2g} eV/Å"
    return f"{speed}{row['temperature_K']:.0f} K, {row['total_energy_eV']:.4f} eV{uncertain}"
