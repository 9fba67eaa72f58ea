"""The picture of a simulation: whether energy is conserved, and what the thermostat does."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from ponita.tasks.pictures import figure


class Drift(NamedTuple):
    """How a total energy changes.

    Attributes:
        slope: of the line of least squares, meV/atom/ps.
        error: standard error of the slope, as if rows were independent.
        rms: distance from the line, meV/atom.
    """

    slope: float
    error: float
    rms: float


def energy_drift(log: dict[str, np.ndarray], num_atoms: int) -> Drift:
    """The drift of a simulation; NaN with fewer than three rows.

    Args:
        log: of `read_log`.
        num_atoms: N.
    """
    time, energy = log["time_ps"] - log["time_ps"].mean(), 1000 * log["total_energy_eV"] / num_atoms
    if len(time) < 3:
        return Drift(*3 * [float("nan")])
    energy = energy - energy.mean()
    slope = (time @ energy) / (time @ time)
    rest = ((energy - slope * time) ** 2).sum()
    return Drift(slope, (rest / (len(time) - 2) / (time @ time)) ** 0.5, (rest / len(time)) ** 0.5)


def draw_simulation(path: Path, log: dict[str, np.ndarray], num_atoms: int, ensemble: str, temperature: float) -> None:
    """Total energy with its drift, temperature, and for a crystal the pressure, against time.

    Args:
        path: PNG to write.
        log: of `read_log`.
        num_atoms: N.
        ensemble: as in `Conditions`.
        temperature: K, the one asked for.
    """
    has_pressure = "pressure_GPa" in log
    with figure(path, columns=2 + has_pressure) as axes:
        _draw_energy(axes[0], log, num_atoms, ensemble)
        _draw_series(axes[1], log, "temperature_K", "temperature (K)")
        if ensemble != "nve":
            axes[1].axhline(temperature, color="0.4", linestyle="--", linewidth=1)
        if has_pressure:
            _draw_series(axes[2], log, "pressure_GPa", "pressure (GPa)")


def _draw_energy(axis: Axes, log: dict[str, np.ndarray], num_atoms: int, ensemble: str) -> None:
    time, energy = log["time_ps"], 1000 * log["total_energy_eV"] / num_atoms
    axis.plot(time, energy - energy[0], linewidth=0.9)
    drift = energy_drift(log, num_atoms)
    if ensemble == "nve":
        title = f"drift {drift.slope:.2g} ± {drift.error:.1g} meV/atom/ps, rms {drift.rms:.2g} meV/atom"
        line = energy.mean() - energy[0] + drift.slope * (time - time.mean())
        axis.plot(time, line, color="0.3", linestyle="--", linewidth=1)
    else:
        title = "exchanged with the " + ("thermostat" if ensemble == "nvt" else "thermostat and the barostat")
    axis.set(xlabel="time (ps)", ylabel="change of total energy (meV/atom)")
    axis.set_title(title, fontsize=10)
    axis.ticklabel_format(useOffset=False)
    axis.grid(alpha=0.3)


def _draw_series(axis: Axes, log: dict[str, np.ndarray], name: str, label: str) -> None:
    values = log[name]
    axis.plot(log["time_ps"], values, linewidth=0.9, color="C1")
    axis.set(xlabel="time (ps)", ylabel=label)
    axis.set_title(f"mean {values.mean():.4g}, standard deviation {values.std():.3g}", fontsize=10)
    axis.grid(alpha=0.3)
