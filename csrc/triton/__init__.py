"""Triton kernels for CUDA devices: one file a family, their launchers, and a compile gate that needs no device."""
