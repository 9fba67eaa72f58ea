"""A run killed at any moment continues to the weights it would have had, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.tiny_runs import NBODY, POTENTIAL, weights, write_springs

RUN = "from ponita.tasks.cli import main; main()"


def start(args, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, "fit", *args]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def kill_after_epoch(args, folder, last, epoch):
    """Start a run and kill it, without a chance to tidy up, once `last` is of the given epoch or later."""
    process = start(args, folder)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        # Never a part of a file: reading it must succeed whenever it is there.
        if last.is_file() and torch.load(last, weights_only=True)["epoch"] >= epoch:
            break
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be killed: " + process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("task", ["nbody", "potential"])
def test_a_killed_run_continues_to_the_same_weights(task, tmp_path):
    write_springs(tmp_path / "data" / "rmd17")
    args = [*(NBODY if task == "nbody" else POTENTIAL), "--trainer.max_epochs", "40"]
    whole = start([*args, "--run_dir", "whole"], tmp_path)
    finish(whole)
    last = Path("checkpoints") / "last.ckpt"
    broken = [*args, "--run_dir", "broken"]
    kill_after_epoch(broken, tmp_path, tmp_path / "broken" / last, epoch=1)
    assert torch.load(tmp_path / "broken" / last, weights_only=True)["epoch"] < 39
    finish(start([*broken, "--ckpt_path", "last"], tmp_path))

    for key in ("state_dict", "current_model_state") if task == "potential" else ("state_dict",):
        expected, resumed = (weights(tmp_path / run / last, key) for run in ("whole", "broken"))
        assert expected.keys() == resumed.keys()
        assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    reports = [(tmp_path / run / "report.txt").read_text() for run in ("whole", "broken")]
    assert reports[0] == reports[1]
