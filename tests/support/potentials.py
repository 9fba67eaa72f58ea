"""Small random potentials and the structures they are tried on."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms

from ponita.models import Potential
from support.graphs import small_ponita

TRICLINIC = np.array([[3.1, 0.0, 0.0], [0.9, 2.8, 0.0], [-0.6, 0.4, 3.3]])


def oxide_potential(seed: int = 0, **changes) -> Potential:
    """A potential of oxygen and magnesium with a cut-off of 3.5 Å, whose energies have all their parts.

    Args:
        seed: of the weights.
        **changes: to the network.
    """
    torch.manual_seed(seed)
    channels = {"in_channels": 2, "in_vector_channels": 0, "out_channels": 1, "out_vector_channels": 0, "cutoff": 3.5}
    potential = Potential(small_ponita(**{**channels, **changes}), elements=[8, 12])
    potential.set_normalization(-20.0, 30.0)  # strong enough for the geometry to show
    potential.reference_energies.copy_(torch.tensor([[-3.0, -7.0]]))
    return potential


def oxide(cell: np.ndarray = TRICLINIC, pbc: bool | tuple = True, repeat: int = 1) -> Atoms:
    """MgO2 in a cell smaller than the cut-off, none of its atoms on another.

    Args:
        cell: rows the cell vectors.
        pbc: periodic directions.
        repeat: times along each of them.
    """
    fractional = np.array([[0.1, 0.0, 0.1], [0.45, 0.55, 0.4], [0.8, 0.2, 0.7]])
    atoms = Atoms("MgO2", positions=fractional @ cell, cell=cell, pbc=pbc)
    return atoms.repeat(tuple(int(repeat) if periodic else 1 for periodic in atoms.pbc))
