"""Kernels and their launchers. No kernel is shipped yet: every operator runs on the "torch" backend."""
