"""Processes for calls that may hang or crash: each has a time limit, and a process that passes it is replaced."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

from tqdm.auto import tqdm

#: Seconds that a process may take to start and to import the function.
START_LIMIT = 120.0
TIMED_OUT = "time limit"


class Outcome(NamedTuple):
    """What became of a call: its value, or why there is none.

    Attributes:
        value: what the function returned; None where it failed.
        fault: empty where it returned; else `TIMED_OUT`, the exception, or how its process ended.
    """

    value: Any
    fault: str


class Workers:
    """Processes that call functions with a time limit. Use it as a context, or `close` it.

    The processes are new interpreters and not forks, so threads of this one, and a main script without a guard, do not
    matter. They end with this process, also when it is killed.

    Args:
        num: processes; as many as this one has cores where None, at most 8.
        seconds: time limit of a call.
    """

    def __init__(self, num: int | None = None, seconds: float = 10.0) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.seconds = seconds
        self._workers = [_Worker() for _ in range(num or min(cores, 8))]
        self._end = weakref.finalize(self, _stop_all, self._workers)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        self._end()

    def map(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], progress: str | None = None
    ) -> list[Outcome]:
        """Call a function once for each tuple of arguments.

        Args:
            function: one that can be imported by name.
            calls: the arguments of each call; what pickles.
            progress: title of a progress bar; none is shown where None.

        Returns:
            the outcomes, in the order of the calls.

        Raises:
            ValueError: if the processes were closed before, or the function has no name to import it by.
            RuntimeError: if no process can import the function.
        """
        if not self._end.alive:
            raise ValueError("these worker processes are closed; make new ones.")
        try:
            pickle.dumps(function)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"{function} cannot be sent to a process; expected a module's function: {error}"
            ) from error
        outcomes: list[Any] = [None] * len(calls)
        bar = tqdm(total=len(calls), desc=progress, disable=progress is None, leave=False)
        with bar:
            for place, outcome in self._outcomes(function, calls):
                outcomes[place] = outcome
                bar.update()
        return outcomes

    def _outcomes(self, function: Callable[..., Any], calls: Sequence[tuple]) -> Iterator[tuple[int, Outcome]]:
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(len(calls)):
            waiting.put(place)
        done: queue.SimpleQueue[tuple[int, Outcome] | BaseException] = queue.SimpleQueue()
        stop = threading.Event()

        def serve_one(worker: _Worker) -> None:
            try:
                while not stop.is_set():
                    place = waiting.get_nowait()
                    done.put((place, worker.call(function, calls[place], self.seconds)))
            except queue.Empty:
                pass
            except Exception as error:
                done.put(error)

        active = self._workers[: len(calls)]
        threads = [threading.Thread(target=serve_one, args=(worker,), daemon=True) for worker in active]
        for thread in threads:
            thread.start()
        complete = False
        try:
            for _ in calls:
                outcome = done.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                yield outcome
            complete = True
        finally:
            stop.set()
            if not complete:
                _stop_all(active)
            for thread in threads:
                thread.join()


class _Worker:
    """One process, started when it is needed and again after it ended."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.function: Callable[..., Any] | None = None

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], seconds: float) -> Outcome:
        if self.process is None or self.function is not function:
            self._load(function)
        reply, late = self._ask((args, seconds), seconds)
        if reply is not None:
            return Outcome(*reply)
        code = self._replace()
        return Outcome(None, TIMED_OUT if late else f"the process ended with code {code}")

    def _load(self, function: Callable[..., Any]) -> None:
        """Import outside of the time limit of a call."""
        for _ in range(2):
            if self.process is None:
                self.process = _start()
            reply, _late = self._ask(function, START_LIMIT)
            if reply is not None:
                self.function = function
                break
            code = self._replace()
        else:
            raise RuntimeError(f"a worker process cannot start (exit code {code}); its messages are above.")
        if reply[1]:
            raise RuntimeError(f"a worker process cannot import {function}: {reply[1]}.")

    def _ask(self, question: Any, seconds: float) -> tuple[tuple[Any, str] | None, bool]:
        """The reply, None where the process ended without one; and whether it was ended for being late."""
        process, late = self.process, threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        reply = None
        try:
            _send(process.stdin, question)
            reply = pickle.load(process.stdout)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            pass
        finally:
            timer.cancel()
            timer.join()
        if late.is_set() and reply is not None:
            self._replace()  # it replied at the very moment it was ended
        return reply, late.is_set()

    def _replace(self) -> int | None:
        code = self.stop()
        self.process, self.function = None, None
        return code

    def stop(self) -> int | None:
        """End the process."""
        process = self.process
        if process is None:
            return None
        ended = process.poll()
        process.kill()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                pipe.close()
        return code if ended is None else ended


def _stop_all(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.stop()
        worker.process, worker.function = None, None


def _start() -> subprocess.Popen[bytes]:
    """A process with this one's search path, one thread, and out of reach of the terminal's Ctrl-C."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from ponita.data.workers import serve; serve()"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )


def _send(pipe: BinaryIO, value: Any) -> None:
    pipe.write(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL))
    pipe.flush()


def serve() -> None:
    """The life of a worker process: functions and arguments in by standard input, outcomes out, until the input ends."""
    # What libraries print must not run into the replies.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    function: Callable[..., Any] | None = None
    while True:
        try:
            message = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        except Exception as error:
            _send(replies, (None, f"{type(error).__name__}: {error}"))
            continue
        if callable(message):
            function = message
            _send(replies, (None, ""))
        else:
            _send(replies, _attempt(function, *message))


def _attempt(function: Callable[..., Any] | None, args: tuple[Any, ...], seconds: float) -> tuple[Any, str]:
    # An alarm ends this process inside compiled code too, should the one that watches it be gone.
    alarm = getattr(signal, "setitimer", lambda *_: None)
    alarm(getattr(signal, "ITIMER_REAL", 0), 2 * seconds + 5)
    try:
        return function(*args), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    finally:
        alarm(getattr(signal, "ITIMER_REAL", 0), 0)
