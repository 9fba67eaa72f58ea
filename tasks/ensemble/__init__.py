"""Committees of potentials: training by seeds, and whether their spread tells their error."""
