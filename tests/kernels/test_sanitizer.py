"""The CPU kernels read and write inside their buffers (AddressSanitizer, UndefinedBehaviorSanitizer)."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

KERNELS = Path(__file__).resolve().parents[2] / "csrc" / "cpu"
DRIVER = Path(__file__).with_name("sanitizer_driver.cpp")


def test_kernels_stay_inside_their_buffers(tmp_path):
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = tmp_path / "driver"
    flags = [
        "-std=c++17",
        "-O1",
        "-g",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-DPONITA_NO_CLONES",
    ]
    sources = [str(DRIVER), str(KERNELS / "pair.cpp"), str(KERNELS / "spline.cpp")]
    subprocess.run([compiler, *flags, *sources, "-o", str(program), "-lpthread"], check=True, capture_output=True)
    result = subprocess.run([str(program)], capture_output=True, text=True, env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("checksum")
