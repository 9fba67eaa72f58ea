"""Random rotations: the error of each grid is printed and bounded, and falls with the number of orientations."""

import torch
from support.graphs import random_graph, small_ponita

from ponita.geometry import random_rotations
from ponita.nn import calibrate
from ponita.testing import equivariance_error

#: Largest relative errors of (scalars, vectors) allowed for each grid, about 1.5 times what was measured.
BOUNDS = {6: (0.40, 0.55), 12: (0.22, 0.21), 20: (0.15, 0.13), 32: (0.07, 0.065)}


def test_error_under_random_rotations_by_grid(capsys):
    rotations, graph = random_rotations(20, dtype=torch.float64), random_graph((12,) * 4)
    errors = {}
    for num_orientations in BOUNDS:
        torch.manual_seed(3)
        model = small_ponita(num_orientations=num_orientations, hidden_channels=32, num_layers=3, pooling=None)
        calibrate(model, graph)
        errors[num_orientations] = equivariance_error(model, graph, rotations=rotations)
    with capsys.disabled():
        print("\nerror under random rotations, relative (untrained network)")
        for num_orientations, error in errors.items():
            print(f"  {num_orientations:3d} orientations: scalars {error.scalars:.4f}  vectors {error.vectors:.4f}")
    for num_orientations, bounds in BOUNDS.items():
        error = errors[num_orientations]
        assert 0 < error.scalars < bounds[0] and 0 < error.vectors < bounds[1]
    assert errors[32].scalars < errors[12].scalars < errors[6].scalars
    assert errors[32].vectors < errors[12].vectors < errors[6].vectors
