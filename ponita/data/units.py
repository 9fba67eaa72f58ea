"""Units. Inside the package lengths are in Å, energies in eV, forces in eV/Å; converted where data are read."""

from __future__ import annotations

EV_PER_KCAL_MOL = 4184 / 96485.33212331001
