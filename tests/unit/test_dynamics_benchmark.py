"""The benchmark of molecular dynamics: its cells, what it counts, and a run of its command."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.emt import EMT

ROOT = Path(__file__).resolve().parents[2]


def _load(name):
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark():
    return _load("dynamics")


@pytest.fixture(scope="module")
def report():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))  # where it finds the tables of studies
        return _load("report")


def test_water_has_its_density_its_molecules_and_no_overlaps(benchmark):
    atoms = benchmark.water()
    assert len(atoms) == 192 and (atoms.numbers == [8, 1, 1] * 64).all() and atoms.pbc.all()
    grams, cubic_centimetres = atoms.get_masses().sum() / 6.02214e23, atoms.get_volume() * 1e-24
    assert grams / cubic_centimetres == pytest.approx(1.0, abs=1e-4)
    apart, molecule = atoms.get_all_distances(mic=True), np.arange(192) // 3
    assert apart[::3, 1::3].diagonal() == pytest.approx(0.9572) and apart[::3, 2::3].diagonal() == pytest.approx(0.9572)
    assert apart[1::3, 2::3].diagonal() == pytest.approx(1.5139, abs=1e-4)
    between = apart[molecule[:, None] != molecule]
    assert between.min() > 2.0  # closer than in the liquid nowhere
    np.testing.assert_array_equal(atoms.positions, benchmark.water().positions)
    assert np.abs(atoms.positions - benchmark.water(seed=1).positions).max() > 0.1


def test_overlapping_molecules_are_refused(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "MIN_DISTANCE", 2.5)
    with pytest.raises(ValueError, match=r"less than 2\.5 Å"):
        benchmark.water()


def test_metal_has_a_thousand_atoms_near_their_places(benchmark):
    atoms = benchmark.metal()
    assert len(atoms) == 1000 and set(atoms.numbers) == {29} and atoms.pbc.all()
    assert atoms.cell.lengths() == pytest.approx([18.075, 18.075, 36.15])
    displaced = atoms.positions - benchmark.bulk("Cu", "fcc", a=3.615, cubic=True).repeat((5, 5, 10)).positions
    assert displaced.std() == pytest.approx(0.05, rel=0.05) and np.abs(displaced).max() < 0.3


def test_a_step_is_what_is_counted(benchmark, monkeypatch):
    """With a clock that every evaluation of forces moves by a second."""
    clock = [0.0]

    class Ticking(EMT):
        def calculate(self, *args, **kwargs):
            clock[0] += 1.0
            super().calculate(*args, **kwargs)

    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: clock[0])
    atoms = benchmark.metal((1, 1, 2))
    start = atoms.positions.copy()
    found = benchmark.measure(atoms, Ticking(), step=2.0, blocks=4, seconds=12.0)
    assert found == {"seconds per step": [1.0] * 4, "steps": 3}
    assert clock[0] == 1 + 2 + 4 * 3 and np.abs(atoms.positions - start).max() > 1e-3
    slow = benchmark.measure(benchmark.metal((1, 1, 2)), Ticking(), step=2.0, blocks=9, seconds=1.0)
    assert slow == {"seconds per step": [1.0] * 3, "steps": 1}


def test_networks_run_and_count_their_lists(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "NETWORK", {**benchmark.NETWORK, "hidden_channels": 8, "basis_channels": 8})
    atoms = benchmark.metal((2, 2, 2))
    for name in ("mlp", "tabulated"):
        calculator = benchmark.CALCULATORS[name](atoms)
        kind = calculator.evaluator.potential.network.config["kernel"]
        assert kind == {"mlp": "mlp", "tabulated": "spline"}[name]
        found = benchmark.measure(atoms.copy(), calculator, step=40.0, blocks=2, seconds=0.0)
        assert found["steps"] == 1 and len(found["seconds per step"]) == 2 and found["lists"] >= 1


def test_tip3p_gets_the_constraints_it_needs(benchmark):
    atoms = benchmark.water()
    atoms.calc = benchmark.tip3p(atoms)
    (bonds,) = atoms.constraints
    lengths = [atoms.get_distance(i, j, mic=True) for i, j in bonds.pairs]
    assert lengths == pytest.approx([0.9572] * 64 + [0.9572] * 64 + [1.5139] * 64, abs=1e-4)
    forces = atoms.get_forces(apply_constraint=False)
    assert np.isfinite(forces).all() and 0.1 < np.abs(forces).max() < 50


def test_the_command_measures_and_the_report_shows(benchmark, report, tmp_path):
    out = tmp_path / "dynamics.json"
    words = ["--cells", "metal", "--calculators", "MACE 128x0e", "ASE TIP3P", "ASE EMT", "--threads", "1", "2"]
    benchmark.main([*words, "--seconds", "0.1", "--blocks", "2", "--out", str(out)])
    record = json.loads(out.read_text())
    (run,) = record["dynamics"]  # one thread is all that EMT has, and TIP3P is for water
    assert (run["cell"], run["calculator"], run["threads"]) == ("metal", "ASE EMT", 1)
    assert record["skipped"] == {"MACE 128x0e": "no --peers"} and record["versions"]["ase"]
    run["seconds per step"], run["steps"], run["lists"] = [0.2, 0.1, 0.4], 10, 3
    head, row = report.dynamics_table(record)
    assert len(head) == len(row) and row == ("metal", "ASE EMT", "1", "200 (100)", "0.864", "5,000", "10")
    page = "\n".join(report.page({"dynamics.json": record}))
    assert "1000 atoms in 18.07 x 18.07 x 36.15 Å" in page and "not measured, MACE 128x0e: no --peers" in page
    report.draw_dynamics(record, tmp_path / "dynamics.png")
    assert (tmp_path / "dynamics.png").read_bytes()[:4] == b"\x89PNG"
