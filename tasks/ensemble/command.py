"""`ponita ensemble`: train one run for each seed, then compare the committee's errors with its spread."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ponita.data import replacing
from ponita.tasks import configs

EPILOG = """example:
  ponita ensemble --config potential/quick --seeds 0 1 2 3 --trainer.max_epochs 10

All other options are those of `ponita fit`. A seed sets the initial weights, the order of the training set and the
random rotations. The same command again skips the members that are finished and goes on with one that was interrupted;
more seeds add members. The folder holds a run for each seed, calibration.png and calibration.txt."""


def main(args: Sequence[str]) -> None:
    """Entry point of `ponita ensemble`.

    Args:
        args: the words after `ponita ensemble`.

    Raises:
        ValueError: for a configuration of another task, or a folder with members of other options.
    """
    arguments, overrides = _parser().parse_known_args(args)
    if len(set(arguments.seeds)) < 2 or len(set(arguments.seeds)) != len(arguments.seeds):
        raise ValueError(f"--seeds {' '.join(map(str, arguments.seeds))}; expected two or more different seeds.")
    _check_task(configs.resolve(arguments.config))
    root = arguments.run_dir or Path("runs") / f"{_name(arguments.config)}-ensemble"
    _keep_options(root, {"config": arguments.config, "overrides": overrides})
    members = [train(arguments.config, seed, root / f"seed-{seed}", overrides) for seed in arguments.seeds]

    from ponita.tasks.ensemble.calibration import calibrate_committee

    print(f"\n{calibrate_committee(root, members)}\n\neverything of this ensemble is in {root}")


def train(config: str, seed: int, folder: Path, overrides: Sequence[str]) -> Path:
    """Train a member, unless it is finished, and return its folder.

    Args:
        config: file or packaged name.
        seed: of the member.
        folder: of its run.
        overrides: further options of `ponita fit`.
    """
    if (folder / "report.txt").is_file():
        print(f"seed {seed}: finished, in {folder}")
        return folder
    from ponita.tasks.lightning_cli import run_command

    last = folder / "checkpoints" / "last.ckpt"
    seeds = {"seed_everything": seed, "model.init_args.seed": seed, "data.init_args.seed": seed}
    words = ["fit", "--config", config, *overrides, *(w for k, v in seeds.items() for w in (f"--{k}", str(v)))]
    run_command([*words, "--run_dir", str(folder), *(["--ckpt_path", str(last)] if last.is_file() else [])])
    if not (folder / "report.txt").is_file():
        print(f"ponita: seed {seed} was interrupted; the same command goes on.", file=sys.stderr)
        sys.exit(1)
    return folder


def _check_task(path: Path) -> None:
    """Look before hours are spent on something that has no energies."""
    config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    named = str((config.get("model") or {}).get("class_path", ""))
    if named and ".potential." not in named:
        raise ValueError(f"{path} trains {named}; committees are of potentials, such as potential/quick.")


def _name(config: str) -> str:
    return config.replace("/", "-") if config in configs.packaged() else Path(config).stem


def _keep_options(root: Path, options: dict[str, Any]) -> None:
    """Members of one folder differ in their seeds alone."""
    path = root / "ensemble.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != options:
            raise ValueError(
                f"the members in {root} were trained with {before}, not with {options}; name another folder with "
                "--run_dir."
            )
        return
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ponita ensemble",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="file or packaged name")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="one member each; default 0 1 2 3")
    parser.add_argument("--run_dir", type=Path, help="default runs/<config>-ensemble")
    return parser
