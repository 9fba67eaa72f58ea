"""The benchmark of equivariance errors: what it measures where the answer is known, and that its page is up to date."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from ponita import Ponita, Potential
from ponita.geometry import random_rotations, rotation_group, sphere_grid

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("equivariance_benchmark", ROOT / "benchmarks" / "equivariance.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def record():
    return json.loads((ROOT / "benchmarks" / "results" / "equivariance.json").read_text())


def test_the_page_shows_the_stored_results(benchmark, record, tmp_path):
    shutil.copy(ROOT / "docs" / "equivariance.md", tmp_path)
    benchmark.report(record, tmp_path)
    assert (tmp_path / "equivariance.md").read_text() == (ROOT / "docs" / "equivariance.md").read_text()
    assert (tmp_path / "equivariance.png").stat().st_size > 10_000


def test_the_stored_results_are_complete(benchmark, record):
    parts = record["untrained"]
    assert [row["name"] for row in parts["exact"]] == list(benchmark.EXACT)
    assert len(parts["grids"]) == sum(map(len, benchmark.GRIDS.values())) + len(benchmark.GRIDS["R3xS2"])
    assert {row["training"] for row in record["trained"]["rows"]} == set(benchmark.TRAININGS)
    assert all(error < 1e-12 for row in parts["exact"] for kind in ("scalars", "vectors") for error in row[kind])
    assert all(error > 1e-4 for row in parts["grids"] for kind in ("scalars", "vectors") for error in row[kind])


def test_what_is_exact_is_measured_to_be(benchmark):
    for name in ("R2", "R2xS1, cloud"):
        errors = benchmark.measure(benchmark.EXACT[name], 1, orientations="cloud" in name, num_rotations=2)
        assert max(errors["scalars"] + errors["vectors"]) < 1e-12


def test_larger_grids_and_averages_lower_the_error(benchmark):
    options = {"space": "R3xS2", "num_orientations": 12}
    own, larger, averaged, fibonacci = (
        benchmark.measure(options, 1, change, grid, num_rotations=3)["scalars"][0]
        for change, grid in (
            (None, None),
            (lambda m: benchmark.on_grid(m, 32), None),
            (lambda m: m.average_over_grids(8), None),
            (None, benchmark.fibonacci_grid(12)),
        )
    )
    assert larger < own / 2 and averaged < own / 1.5 and fibonacci != own


@pytest.fixture
def frames(benchmark):
    """Three molecules of four atoms whose energies and forces are zero."""
    held_out = object.__new__(benchmark.HeldOutFrames)
    held_out.pos, held_out.numbers = torch.randn(3, 4, 3, dtype=torch.float64), torch.tensor([1, 6, 6, 8])
    held_out.energy, held_out.forces = torch.zeros(3, dtype=torch.float64), torch.zeros_like(held_out.pos)
    return held_out


def test_changes_of_a_potential_under_rotations(frames):
    network = Ponita(3, hidden_channels=8, basis_channels=8, num_layers=1, num_orientations=12)
    potential = Potential(network, [1, 6, 8])
    frames.turns = rotation_group("icosahedral")[[3, 17, 41]]
    exact = frames.errors(potential, [sphere_grid(12)])
    frames.turns = random_rotations(3, dtype=torch.float64)
    errors = frames.errors(potential, [sphere_grid(12)])
    assert exact["forces_error"] < 1e-4 * errors["forces_mae"] and exact["energy_error"] < 1e-4 * errors["energy_mae"]
    assert errors["forces_error"] > 1e-3 * errors["forces_mae"] and errors["energy_error"] > 1e-4 * errors["energy_mae"]
    energy, forces = frames.predict(potential, [sphere_grid(12)], frames.pos)
    assert errors["energy_mae"] == pytest.approx(1000 * float(energy.abs().mean()))
    assert errors["forces_mae"] == pytest.approx(1000 * float(forces.abs().mean()))
    parts = [frames.predict(potential, [sphere_grid(n)], frames.pos) for n in (6, 12)]
    both = frames.predict(potential, [sphere_grid(6), sphere_grid(12)], frames.pos)
    for mean, *each in zip(both, *parts, strict=True):
        torch.testing.assert_close(mean, torch.stack(each).mean(0))


def test_cells_and_marks(benchmark):
    row = {"scalars": [0.10, 0.20], "vectors": [0.0, 1e-16]}
    assert benchmark.percents(row) == ("15 ± 5 %", "rounding")
    assert benchmark.percents({"scalars": [0.00123], "vectors": [0.0456]}) == ("0.12 ± 0.00 %", "4.6 ± 0.0 %")
    assert benchmark.between_marks("a <!-- x -->old<!-- end x --> b", "x", "new") == (
        "a <!-- x -->\nnew\n<!-- end x --> b"
    )
    with pytest.raises(ValueError, match="needs the marks <!-- x --> and <!-- end x -->, once each"):
        benchmark.between_marks("a", "x", "new")
