"""What a simulation leaves behind: frames and a table, both whole whenever it is stopped."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import read, write

from ponita.data import replacing
from ponita.tasks.md.dynamics import degrees_of_freedom

TRAJECTORY, LOG = "trajectory.xyz", "log.csv"
COLUMNS = (
    "step",
    "time_ps",
    "potential_energy_eV",
    "kinetic_energy_eV",
    "total_energy_eV",
    "temperature_K",
    "pressure_GPa",
    "volume_A3",
    "max_force_eV_per_A",
    "max_force_std_eV_per_A",
)


class Recorder:
    """Appends frames to trajectory.xyz and rows to log.csv.

    Args:
        folder: of the simulation.
        atoms: that move.
        timestep: fs.
        ensemble: as in `Conditions`.
        step: of the last frame there is already (`last_frame`), or -1; what was written after it is dropped.
    """

    def __init__(self, folder: Path, atoms: Atoms, timestep: float, ensemble: str, step: int = -1) -> None:
        self.folder, self.atoms, self.timestep = folder, atoms, timestep
        self.freedom = degrees_of_freedom(atoms, ensemble)
        self.last_row = self.last_frame = step
        folder.mkdir(parents=True, exist_ok=True)
        if step < 0:
            (folder / TRAJECTORY).touch()
            (folder / LOG).write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
        else:
            os.truncate(folder / TRAJECTORY, _end_of_frames(folder / TRAJECTORY)[1])
            _keep_rows(folder / LOG, step)

    def row(self, step: int) -> dict[str, float | str]:
        """Write a row of the table and return it; a step is written once."""
        values = self._values(step)
        if step > self.last_row:
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(",".join(f"{v:.12g}" if isinstance(v, float) else str(v) for v in values.values()) + "\n")
            self.last_row = step
        return values

    def frame(self, step: int) -> None:
        """Append a frame with momenta and results; a step is written once."""
        if step <= self.last_frame:
            return
        self.atoms.get_potential_energy()  # so that the results are those of these positions
        frame = self.atoms.copy()
        frame.calc = self.atoms.calc
        frame.info |= {"step": step, "time_ps": self._time(step)}
        results = self.atoms.calc.results
        if "forces_std" in results:
            frame.arrays["forces_std"] = results["forces_std"]
            frame.info |= {name: results[name] for name in ("energy_std", "max_force_std")}
        text = io.StringIO()
        write(text, frame, format="extxyz")
        with (self.folder / TRAJECTORY).open("a", encoding="utf-8") as file:
            file.write(text.getvalue())
        self.last_frame = step

    def _values(self, step: int) -> dict[str, float | str]:
        atoms = self.atoms
        potential, kinetic = float(atoms.get_potential_energy()), float(atoms.get_kinetic_energy())
        crystal = bool(atoms.pbc.all())
        pressure = -float(atoms.get_stress(include_ideal_gas=True)[:3].mean()) / units.GPa if crystal else ""
        force = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        temperature = 2 * kinetic / (self.freedom * units.kB)
        volume = float(atoms.get_volume()) if crystal else ""
        spread = atoms.calc.results.get("max_force_std", "")
        energies = (potential, kinetic, potential + kinetic)
        values = (step, self._time(step), *energies, temperature, pressure, volume, force, spread)
        return dict(zip(COLUMNS, values, strict=True))

    def _time(self, step: int) -> float:
        return step * self.timestep / 1000


def last_frame(folder: Path) -> tuple[Atoms, int]:
    """The last whole frame of a simulation and its step; no file is changed.

    Args:
        folder: of the simulation.

    Raises:
        ValueError: if there is no frame.
    """
    path = folder / TRAJECTORY
    start, end = _end_of_frames(path)
    if end == 0:
        raise ValueError(f"{path} has no frame to continue from; name another folder with --out, without --continue.")
    with path.open("rb") as file:
        file.seek(start)
        text = file.read(end - start).decode()
    atoms = read(io.StringIO(text), format="extxyz")
    return atoms, int(atoms.info["step"])


def read_log(path: Path) -> dict[str, np.ndarray]:
    """The columns of a log.csv that have a number in every row."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in COLUMNS if rows and all(row[name] for row in rows)]
    return {name: np.array([float(row[name]) for row in rows]) for name in names}


def _end_of_frames(path: Path) -> tuple[int, int]:
    """First byte of the last whole frame of a file, and the byte after it."""
    start = end = 0
    if not path.is_file():
        return start, end
    with path.open("rb") as file:
        while count := file.readline():
            if not count.strip().isdigit():
                break
            lines = [file.readline() for _ in range(int(count) + 1)]
            if not lines[-1].endswith(b"\n"):
                break
            start, end = end, file.tell()
    return start, end


def _keep_rows(path: Path, step: int) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines[1:] if line.endswith("\n")]
    kept = [line for line in whole if int(line.split(",", 1)[0]) <= step]
    with replacing(path) as temporary:
        temporary.write_text("".join([",".join(COLUMNS) + "\n", *kept]), encoding="utf-8")
