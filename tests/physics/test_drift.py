"""Energy of a trained potential over 20 ps: a quarter of an hour, by `pytest -m slow tests/physics/test_drift.py`."""

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from support.rmd17_archive import packed_rmd17, write_archive

from ponita.data import load_rmd17
from ponita.tasks.cli import main
from ponita.tasks.md.pictures import energy_drift
from ponita.tasks.md.record import read_log

PICOSECONDS, TIMESTEP = 20, 0.5


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(packed_rmd17("ethanol") is None, reason="needs frames of rMD17")
def test_trained_ethanol_keeps_its_energy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "rmd17")
    quiet = ["--trainer.enable_progress_bar", "false"]
    main(["fit", "--config", "potential/quick", "--data.init_args.root", "rmd17", "--run_dir", "run", *quiet])
    frame = load_rmd17("rmd17", "ethanol")
    write("ethanol.xyz", Atoms(frame.numbers, frame.positions[0]))
    checkpoint = ["--ckpt_path", "run/checkpoints/best.ckpt"]
    main(["relax", *checkpoint, "--structure", "ethanol.xyz", "--dtype", "float64", "--out", "relaxed"])
    # Half of the kinetic energy of a relaxed structure goes into its vibrations.
    conditions = ["--structure", "relaxed/relaxed.xyz", "--temperature", "600", "--timestep", str(TIMESTEP)]
    steps = str(round(1000 * PICOSECONDS / TIMESTEP))
    main(["md", *checkpoint, *conditions, "--steps", steps, "--log_every", "20", "--out", "nve"])
    log = read_log(tmp_path / "nve" / "log.csv")
    assert 200 < log["temperature_K"].mean() < 400
    assert abs(energy_drift(log, len(frame.numbers)).slope) * PICOSECONDS < 0.1  # meV/atom
    energy = 1000 * log["total_energy_eV"] / len(frame.numbers)
    assert abs(np.mean(energy[-200:]) - np.mean(energy[:200])) < 0.1
