"""Potentials inside other programs; each interface is imported by its own name and needs its own packages."""
