"""Machines as processes that find each other through a store on the loopback interface."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from torch.distributed import TCPStore

LOOPBACK = "127.0.0.1"
#: Seconds that a machine waits for others before it gives up.
PATIENCE = 600.0
#: Times that a machine is started again after it was killed.
RESTARTS = 3


def new_store() -> TCPStore:
    """The store of this process, for machines that `run_machines` starts."""
    return TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=PATIENCE))


def run_machines(
    store: TCPStore, number: int, work: Callable[..., None], arguments: Callable[[int], tuple], restarts: int = 0
) -> float:
    """Start machines, wait for them, and start those again that are killed.

    Args:
        store: that they reach.
        number: of machines.
        work: what each does: of its number, the store, and its arguments.
        arguments: of a machine.
        restarts: of each machine.

    Returns:
        Seconds of the processor that all of them took, without those that were killed.

    Raises:
        RuntimeError: if a machine fails, or is killed more often; all others are ended then.
    """
    context = _context()

    def start(machine: int) -> BaseProcess:
        given = (work, machine, store.port, pickle.dumps(arguments(machine)))
        process = context.Process(target=_begin, args=given, name=f"machine-{machine}", daemon=True)
        process.start()
        return process

    running, left = {machine: start(machine) for machine in range(number)}, dict.fromkeys(range(number), restarts)
    try:
        while running:
            ended = wait([process.sentinel for process in running.values()])
            for machine, process in list(running.items()):
                if process.sentinel not in ended:
                    continue
                process.join()
                del running[machine]
                if process.exitcode < 0 and left[machine]:
                    left[machine] -= 1
                    running[machine] = start(machine)
                elif process.exitcode:
                    raise RuntimeError(_said(machine, process.exitcode))
        return sum(float(store.get(f"seconds/{machine}")) for machine in range(number))
    finally:
        for process in running.values():
            process.kill()
            process.join()


def _begin(work: Callable[..., None], machine: int, port: int, arguments: bytes) -> None:
    """First of what a process does. The arguments come as bytes, since torch would send a file descriptor for each tensor."""
    store = TCPStore(LOOPBACK, port, is_master=False, timeout=timedelta(seconds=PATIENCE))
    work(machine, store, *pickle.loads(arguments))
    store.set(f"seconds/{machine}", str(time.process_time()))


def _said(machine: int, status: int) -> str:
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}; what it said is above"
    return f"machine {machine} {how}. The same command with --run_dir goes on from what was done."


def _context() -> Any:
    """New processes with the imports made once, where the system has that."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ponita.tasks.one_byte.training"])
    return context
