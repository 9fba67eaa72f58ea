"""`ponita md`: molecular dynamics of a structure with a trained potential."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from ponita.data import replacing
from ponita.interfaces.ase import StopOnSpread
from ponita.tasks.arguments import positive
from ponita.tasks.md import dynamics, inputs, pictures, record, simulate
from ponita.tasks.pictures import format_table

EPILOG = """examples:
  ponita md --ckpt_path runs/potential-quick/checkpoints/best.ckpt --structure ethanol.xyz --steps 40000 --out nve
  ponita md --ckpt_path A.ckpt --committee B.ckpt C.ckpt --threshold 0.5 --structure water.xyz --ensemble nvt --out nvt
  ponita md --out nve --continue --steps 80000        the other options are those it was started with

The folder holds trajectory.xyz (extended xyz with momenta and forces), log.csv, energy.png and settings.json. Ctrl-C
ends after the step it is in, with everything written.

--continue starts from the last frame, whose numbers have eight decimals. In nve that is all there is; nvt draws new
noise; in npt the thermostat and the barostat start at rest again, so pressure and cell need a while to settle."""
SETTINGS = "settings.json"
#: Options that a simulation keeps from its first step to its last.
FIXED = ("structure", "ensemble", "timestep")


def main(args: Sequence[str]) -> None:
    """Entry point of `ponita md`.

    Args:
        args: the words after `ponita md`.

    Raises:
        ValueError: for options, structures or checkpoints that do not fit.
        FileNotFoundError: for files that do not exist.
    """
    arguments = _parse(args)
    folder, conditions = arguments.out, _conditions(arguments)
    if arguments.threshold is not None and not arguments.committee:
        raise ValueError("--threshold is on the spread of a committee; name further members with --committee.")
    atoms, step = _begin(arguments)
    atoms.calc = inputs.make_calculator(arguments)
    if step < 0:
        dynamics.draw_velocities(atoms, conditions.temperature, conditions.seed)
    if step >= arguments.steps:
        raise ValueError(f"{folder} is at step {step} already; --steps {arguments.steps} counts from the very start.")
    atoms.get_potential_energy()  # what is wrong with the structure is said before anything is written
    integrator = dynamics.make_dynamics(atoms, conditions, max(step, 0))
    if arguments.threshold is not None:
        integrator.attach(StopOnSpread(atoms, arguments.threshold, folder / "stopped.xyz"), interval=1)
    recorder = record.Recorder(folder, atoms, conditions.timestep, conditions.ensemble, step)
    _keep_settings(folder, arguments)
    ending = simulate.simulate(integrator, recorder, arguments.steps, arguments.log_every, arguments.save_every)
    _report(folder, ending, len(atoms), conditions, arguments.steps)


def _begin(arguments: argparse.Namespace) -> tuple[Atoms, int]:
    """The structure to start from and its step, -1 for a new simulation."""
    folder = arguments.out
    if arguments.go_on:
        atoms, step = record.last_frame(folder)
        return inputs.bare(atoms), step
    remedy = "go on with --continue, or name another folder with --out"
    inputs.check_unused(folder, (record.TRAJECTORY, record.LOG), remedy)
    return inputs.read_structure(arguments.structure), -1


def _report(folder: Path, ending: simulate.Ending, num_atoms: int, conditions: dynamics.Conditions, steps: int) -> None:
    log = record.read_log(folder / record.LOG)
    pictures.draw_simulation(folder / "energy.png", log, num_atoms, conditions.ensemble, conditions.temperature)
    speed = simulate.ns_per_day(ending.seconds_per_step, conditions.timestep)
    rows = [
        ("simulation", "value", "unit"),
        ("length", f"{log['time_ps'][-1]:.4g}", "ps"),
        ("speed", f"{1000 * ending.seconds_per_step:.3g}", "ms/step"),
        ("", f"{speed:.3g}", "ns/day"),
        ("mean temperature", f"{log['temperature_K'].mean():.4g}", "K"),
    ]
    if conditions.ensemble == "nve":
        drift = pictures.energy_drift(log, num_atoms)
        rows.append(("energy drift", f"{drift.slope:.2g} ± {drift.error:.1g}", "meV/atom/ps"))
        rows.append(("energy rms", f"{drift.rms:.2g}", "meV/atom"))
    print(format_table(rows))
    if ending.reason:
        print(f"\nstopped at step {ending.step} of {steps}: {ending.reason}")
    print(f"\neverything of this simulation is in {folder}")


def _conditions(arguments: argparse.Namespace) -> dynamics.Conditions:
    return dynamics.Conditions(**{name: getattr(arguments, name) for name in dynamics.Conditions.__dataclass_fields__})


def _parse(args: Sequence[str]) -> argparse.Namespace:
    """The options; of a simulation that goes on, those that are not given are what it was started with."""
    parser = _parser()
    arguments = parser.parse_args(args)
    if arguments.go_on:
        path = arguments.out / SETTINGS
        if not path.is_file():
            raise ValueError(f"{arguments.out} holds no simulation to continue: {path} is missing.")
        kept = {k: _as_path(k, v) for k, v in json.loads(path.read_text(encoding="utf-8")).items()}
        parser.set_defaults(**kept)
        arguments = parser.parse_args(args)
        _check_fixed(arguments, kept)
    return arguments


def _check_fixed(arguments: argparse.Namespace, kept: dict[str, object]) -> None:
    for name in FIXED:
        given, before = getattr(arguments, name), kept[name]
        if given != before and not (isinstance(given, Path) and given.resolve() == before):
            raise ValueError(
                f"--{name} {given} is not what {arguments.out} was started with, {before}; leave it out, or start another "
                "simulation without --continue."
            )


def _as_path(name: str, value: object) -> object:
    if name in ("ckpt_path", "structure") and value is not None:
        return Path(str(value))
    return [Path(path) for path in value] if name == "committee" else value


def _keep_settings(folder: Path, arguments: argparse.Namespace) -> None:
    kept = {k: v for k, v in vars(arguments).items() if k not in ("out", "go_on")}
    for name in ("ckpt_path", "structure"):
        kept[name] = kept[name] and kept[name].resolve()
    kept["committee"] = [path.resolve() for path in kept["committee"]]
    with replacing(folder / SETTINGS) as temporary:
        temporary.write_text(json.dumps(kept, indent=2, default=str) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ponita md",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    inputs.add_arguments(parser)
    default = dynamics.Conditions()
    parser.add_argument("--ensemble", default=default.ensemble, choices=dynamics.ENSEMBLES)
    parser.add_argument(
        "--temperature", type=float, default=default.temperature, help="K, also of the velocities drawn; default 300"
    )
    parser.add_argument("--timestep", type=float, default=default.timestep, help="fs; default 0.5")
    parser.add_argument("--steps", type=positive, default=1000, help="of the whole simulation; default 1000")
    parser.add_argument("--pressure", type=float, default=default.pressure, help="GPa, for npt; default 0")
    parser.add_argument(
        "--thermostat_time", type=float, default=default.thermostat_time, help="fs, for nvt and npt; default 100"
    )
    parser.add_argument("--barostat_time", type=float, default=default.barostat_time, help="fs, for npt; default 1000")
    parser.add_argument("--cell", default=default.cell, choices=dynamics.CELLS, help="what npt changes of the cell")
    parser.add_argument("--seed", type=int, default=default.seed, help="of velocities and thermostat; default 0")
    parser.add_argument("--threshold", type=float, help="stop when the committee's force spread passes it, eV/Å")
    parser.add_argument("--log_every", type=positive, default=10, help="steps between rows of the log; default 10")
    parser.add_argument("--save_every", type=positive, default=100, help="steps between frames; default 100")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument("--continue", action="store_true", dest="go_on", help="go on from the last frame in --out")
    return parser
