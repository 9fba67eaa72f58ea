"""Layers that can be used in isolation."""

from ponita.nn.attention import EdgeAttention
from ponita.nn.basis import KernelBasis, Monomials
from ponita.nn.block import ConvNeXtBlock
from ponita.nn.calibration import calibrate
from ponita.nn.conv import Basis, FiberBundleConv, LoopBasis, PointCloudConv
from ponita.nn.envelope import PolynomialCutoff
from ponita.nn.lift import Lift
from ponita.nn.readout import Readout, pool
from ponita.nn.spline import KernelLattice, SplineBasis

__all__ = [
    "Basis",
    "ConvNeXtBlock",
    "EdgeAttention",
    "FiberBundleConv",
    "KernelBasis",
    "KernelLattice",
    "Lift",
    "LoopBasis",
    "Monomials",
    "PointCloudConv",
    "PolynomialCutoff",
    "Readout",
    "SplineBasis",
    "calibrate",
    "pool",
]
