"""What is differentiated: one public function an operator."""

from ponita.ops.activation import gelu
from ponita.ops.force_pass import force_pass
from ponita.ops.functional import basis_conv, orientation_conv, pair_conv, spline_conv, spline_taps, tap_conv
from ponita.ops.memory import keep_freed_memory
from ponita.ops.segment import segment_sum

__all__ = [
    "basis_conv",
    "force_pass",
    "gelu",
    "keep_freed_memory",
    "orientation_conv",
    "pair_conv",
    "segment_sum",
    "spline_conv",
    "spline_taps",
    "tap_conv",
]
