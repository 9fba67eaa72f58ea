"""Calls in worker processes: order, time limits, crashes, and no process left behind."""

from __future__ import annotations

import operator
import os
import subprocess
import sys
import time

import psutil
import pytest

from ponita.data.workers import TIMED_OUT, Workers


def children() -> set[int]:
    return {p.pid for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE}


@pytest.fixture(scope="module")
def workers():
    with Workers(2, seconds=1.5) as pool:
        yield pool


def test_outcomes_keep_the_order_of_the_calls(workers):
    outcomes = workers.map(operator.mul, [(k, 10) for k in range(100)])
    assert [one.value for one in outcomes] == [10 * k for k in range(100)]
    assert not any(one.fault for one in outcomes)


def test_a_hanging_call_is_ended_and_the_rest_returns(workers):
    started = time.monotonic()
    outcomes = workers.map(time.sleep, [(0,), (1000,), (0,), (0.01,)])
    assert [one.fault for one in outcomes] == ["", TIMED_OUT, "", ""]
    assert time.monotonic() - started < 60
    assert workers.map(abs, [(-3,)] * 2) == [(3, "")] * 2  # its place was taken by a new process


def test_a_crash_and_an_exception_have_their_reasons(workers):
    (crash,) = workers.map(os._exit, [(7,)])
    assert crash == (None, "the process ended with code 7")
    good, bad = workers.map(operator.truediv, [(1, 2), (1, 0)])
    assert good == (0.5, "") and bad == (None, "ZeroDivisionError: division by zero")


def test_what_a_call_prints_does_not_disturb_the_replies(workers):
    assert workers.map(os.system, [("echo printed >&1",)]) == [(0, "")]


def test_closing_leaves_no_process():
    before = children()
    pool = Workers(1)
    pool.map(abs, [(1,)])
    assert len(children() - before) == 1
    pool.close()
    assert children() <= before
    with pytest.raises(ValueError, match="closed"):
        pool.map(abs, [(1,)])


def test_workers_end_with_their_owner(tmp_path):
    """Killed in the middle of a long call, and with a main script that has no guard."""
    script = tmp_path / "owner.py"
    script.write_text(
        "import time, threading, psutil\n"
        "from ponita.data.workers import Workers\n"
        "pool = Workers(1, seconds=0.2)\n"
        "pool.map(abs, [(1,)])\n"
        "print(psutil.Process().children()[0].pid, flush=True)\n"
        "pool.map(time.sleep, [(0.1,)] * 1000)\n"
    )
    owner = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.communicate()
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_function_without_a_name_is_an_error(workers):
    def hidden() -> None:
        """Only this test knows it."""

    with pytest.raises(ValueError, match="hidden"):
        workers.map(hidden, [()])
