"""Compile every kernel for an H100 or H200 on a machine without one, and hold it to what such a device has.

`python -m ponita.csrc.triton.offline` prints registers, spilled bytes and shared memory of each kernel at the reference
size, and ends with an error if one spills or does not fit.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ponita.csrc.triton import launch, pair, second, spline, stream

TARGET = GPUTarget("cuda", 90, 32)
SHARED_LIMIT, REGISTER_LIMIT = 227 * 1024, 255
ORIENTATIONS, BASIS, CHANNELS = 20, 256, 128
DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.float64: "fp64"}
#: Types of the arguments that are no pointers to values in the storage dtype.
TYPES = {name: "*i64" for name in ("rowptr", "neighbor", "slot", "sender", "receiver", "order", "starts")}
TYPES |= dict.fromkeys(("back_rowptr", "back_neighbor", "back_slot"), "*i64")
TYPES |= dict.fromkeys(("two_way", "num_pairs", "chunk", "stride"), "i32") | {"corner": "*i32"}
#: The launches of `second_conv` to compile: of a force loss on two-way pairs and on a one-sided graph, of all terms.
SECOND_CONV_FLAGS = [
    {"X_TERM": True, "BASIS_TERM": True, "WEIGHT_TERM": weight, "BOTH": both}
    for weight, both in ((False, True), (False, False), (True, True))
]


class Usage(NamedTuple):
    """What a compiled kernel takes: registers of a thread, spilled bytes of a thread, shared memory of a program."""

    name: str
    dtype: str
    registers: int
    spilled: int
    shared: int

    @property
    def fits(self) -> bool:
        """Whether nothing spills and the device can hold it."""
        return self.spilled == 0 and self.registers <= REGISTER_LIMIT and self.shared <= SHARED_LIMIT


def kernels(dtype: torch.dtype) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Every kernel with the settings that the launcher has for it at the reference size."""
    for name in ("pair_conv", "pair_product"):
        yield getattr(pair, name), launch.pair_settings(ORIENTATIONS, CHANNELS, dtype)
    for name in ("basis_conv", "basis_gradient", "weight_gradient"):
        yield getattr(stream, name), launch.stream_settings(name, ORIENTATIONS, CHANNELS, BASIS, dtype)
    for flags in SECOND_CONV_FLAGS:
        yield second.second_conv, launch.second_conv_settings(ORIENTATIONS, CHANNELS, BASIS, dtype, **flags)
    for name in ("second_basis_gradient", "second_weight_gradient"):
        yield getattr(second, name), launch.stream_settings(name, ORIENTATIONS, CHANNELS, BASIS, dtype)
    for name in ("spline_conv", "spline_weight_gradient", "spline_tap_sums", "spline_fold_taps"):
        yield getattr(spline, name), launch.spline_settings(name, ORIENTATIONS, CHANNELS, dtype)


def compile_kernel(kernel: Any, settings: dict[str, Any], dtype: torch.dtype) -> Usage:
    """Compile a kernel down to machine code, and read what it takes."""
    names = kernel.arg_names
    constants = {name: value for name, value in settings.items() if name in names}
    options = {name: value for name, value in settings.items() if name not in names}
    types = dict.fromkeys(names, f"*{DTYPES[dtype]}") | dict.fromkeys(constants, "constexpr")
    types |= {name: f"*{settings['ACC']}" for name in ("partial", "sums") if name in names}
    types |= {name: TYPES[name] for name in names if name in TYPES}
    pointers = [p.num for p in kernel.params if types[p.name].startswith("*") and not p.do_not_specialize_on_alignment]
    aligned = {(number,): [["tt.divisibility", 16]] for number in pointers}
    source = ASTSource(kernel, types, constants, aligned)
    compiled = triton.compile(source, target=TARGET, options={**options, "enable_fp_fusion": True})
    registers, spilled = _resources(compiled.asm["cubin"])
    flags = [name.removesuffix("_TERM").lower() for name in constants if settings[name] is True]
    return Usage(" ".join([kernel.__name__, *flags]), DTYPES[dtype], registers, spilled, compiled.metadata.shared)


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes on the stack or in local memory, of the one function in a binary."""
    tool = triton.knobs.nvidia.cuobjdump.path
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        text = subprocess.run([tool, "--dump-resource-usage", path], check=True, capture_output=True, text=True).stdout
    fields = dict(field.split(":") for field in text.split() if field.count(":") == 1 and not field.endswith(":"))
    return int(fields["REG"]), max(int(fields["STACK"]), int(fields["LOCAL"]))


def main() -> int:
    """Print the table; 1 if a kernel does not fit, else 0.

    Raises:
        ValueError: where the kernels are interpreted.
    """
    if not isinstance(pair.pair_conv, triton.JITFunction):
        raise ValueError("TRITON_INTERPRET is set, and interpreted kernels are not compiled; unset it.")
    print(f"{'kernel':32}{'dtype':8}{'registers':>10}{'spilled':>10}{'shared':>10}")
    usages = []
    for dtype in DTYPES:
        for kernel, settings in kernels(dtype):
            usages.append(compile_kernel(kernel, settings, dtype))
            name, letters, *numbers = usages[-1]
            print(f"{name:32}{letters:8}" + "".join(f"{n:10}" for n in numbers), "" if usages[-1].fits else " too much")
    return int(not all(usage.fits for usage in usages))


if __name__ == "__main__":
    sys.exit(main())
