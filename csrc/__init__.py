"""Kernels and their launchers, one folder a backend; `ponita.ops` calls them."""
