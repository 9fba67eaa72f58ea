import subprocess
import sys

import pytest

from ponita.ops import keep_freed_memory

STEPS = """
import resource, sys, torch
from ponita.ops import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
faults = []
for step in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(10_000_000) for _ in range(3)]  # beyond the 32 MiB that glibc adapts itself to
    del tensors
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
# A small allocation may now and then fall into the hole of a large one, which then is taken elsewhere: the heap grows once.
print(sorted(faults)[len(faults) // 2])
"""


def test_freed_memory_is_used_again_without_page_faults():
    if not keep_freed_memory():
        pytest.skip("the C library is not glibc")
    faults = {
        mode: int(
            subprocess.run([sys.executable, "-c", STEPS, mode], capture_output=True, text=True, check=True).stdout
        )
        for mode in ("keep", "default")
    }
    assert 10 * faults["keep"] < faults["default"], faults
