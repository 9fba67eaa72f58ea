"""`ponita onebyte`: machines adapt a potential to frames that they keep, and send one byte for two evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace

from ponita.tasks import runs
from ponita.tasks.arguments import parse_configured
from ponita.tasks.one_byte.problem import BatchLoss, OneByteProblem
from ponita.tasks.one_byte.report import write_results
from ponita.tasks.one_byte.study import METHODS, ONE_BYTE, Curve, Resources, train_averaging, train_one_byte
from ponita.tasks.one_byte.training import Averaging, OneByte
from ponita.tasks.potential import RMD17DataModule

DESCRIPTION = """Adapt a trained potential on several machines that keep their frames and send one byte for two evaluations, and compare with averaged gradients."""
EPILOG = """example:
  ponita onebyte --config one_byte/readouts --checkpoint runs/potential-rmd17_seven/checkpoints/best.ckpt --data.root DIR
  ponita md --ckpt_path runs/one_byte-readouts/onebyte.ckpt --structure ethanol.xyz --steps 1000

The machines are processes on this computer. The run folder holds report.txt, errors.png, errors.json, the potential of every method
(METHOD.ckpt, or the folder METHOD-adapter), and the bytes that every machine applied (bytes/machine-K.log), which make the weights
again from the checkpoint. The same command with --run_dir goes on with a run that was stopped, or adds steps."""
#: Options that may change when a run goes on.
FREE = {"config", "run_dir", "progress", "threads", "methods", "targets", "onebyte.steps", "onebyte.mode"}
FREE |= {"adam.steps", "sgd.steps", "data.root", "data.download", "data.num_workers"}


def main(args: Sequence[str]) -> None:
    """Entry point of `ponita onebyte`.

    Args:
        args: the words after `ponita onebyte`.

    Raises:
        ValueError: for options that do not fit.
        RuntimeError: if machines fail.
    """
    parser = _parser()
    config, name = parse_configured(parser, list(args), "one_byte")
    unknown = [method for method in config.methods if method not in METHODS]
    if unknown or not config.methods:
        raise ValueError(f"methods {unknown or 'none'}; expected some of {list(METHODS)}.")
    made = parser.instantiate_classes(config)
    torch.set_num_threads(config.threads)
    problem = OneByteProblem(
        made.checkpoint, made.data, made.adapter, made.train, made.machines, made.loss_weights, made.seed
    )
    problem.setup()
    folder = runs.choose(name, config.run_dir, None, "fit")
    _check_same(parser, config, folder / "config.yaml")
    folder.mkdir(parents=True, exist_ok=True)
    parser.save(config, folder / "config.yaml", skip_check=True, overwrite=True)
    found = {method: _train(problem, method, made, folder) for method in config.methods}
    report = write_results(problem, found, config.targets, folder)
    print(f"\n{report}\n\neverything of this study is in {folder}")


def _train(problem: OneByteProblem, method: str, made: Namespace, folder: Path) -> Curve:
    resources = Resources(folder, made.threads, made.progress)
    curve, loss = _run(problem, method, made, resources)
    problem.save(loss, folder, method)
    return curve


def _run(problem: OneByteProblem, method: str, made: Namespace, resources: Resources) -> tuple[Curve, BatchLoss]:
    if method == ONE_BYTE:
        return train_one_byte(problem, made.onebyte, resources)
    return train_averaging(problem, method, made[method], resources)


def _check_same(parser: ArgumentParser, config: Namespace, path: Path) -> None:
    """Raise ValueError where a run would go on with settings that its log was not made with."""
    if not path.is_file():
        return
    before, now = (dict(one.as_flat().__dict__) for one in (parser.parse_path(path), config))
    for key in sorted((before.keys() | now.keys()) - FREE):
        if before.get(key) != now.get(key):
            raise ValueError(
                f"{path.parent} was begun with {key}={before.get(key)}, and now it is {now.get(key)}; steps that are done cannot be "
                "made again with that. Use the settings of the run, or another --run_dir."
            )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="ponita onebyte", description=DESCRIPTION, epilog=EPILOG, exit_on_error=False)
    parser.add_argument("--config", action="config", help="file or packaged name")
    parser.add_class_arguments(OneByteProblem, skip={"data"})
    parser.add_class_arguments(RMD17DataModule, "data")
    parser.add_argument("--methods", type=list[str], default=list(METHODS), help=f"some of {', '.join(METHODS)}")
    parser.add_class_arguments(OneByte, "onebyte")
    parser.add_class_arguments(Averaging, "adam")
    parser.add_class_arguments(Averaging, "sgd")
    parser.add_argument("--targets", type=list[float], default=[], help="force errors (meV/Å) whose bytes are told")
    parser.add_argument("--threads", type=int, default=1, help="of the processor, for each machine")
    parser.add_argument("--progress", type=bool, default=True, help="show progress bars")
    parser.add_argument(
        "--run_dir", type=str | None, default=None, help="default runs/<config>; one that is there is continued"
    )
    return parser
