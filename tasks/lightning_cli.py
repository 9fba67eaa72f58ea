"""LightningCLI with packaged configurations, one folder a run, atomic checkpoints, and a test after training."""

from __future__ import annotations

import logging
import warnings
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

from ponita.tasks import configs, runs
from ponita.tasks.base import Task
from ponita.tasks.callbacks import AtomicCheckpointIO, LearningCurve, RunLogger
from ponita.tasks.datamodule import GraphDataModule


class SaveFitConfig(SaveConfigCallback):
    """Keep the resolved configuration of a training, not of every later test, in the run folder."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)


class PonitaCLI(LightningCLI):
    """Adds the run folder, the two checkpoints (best and last), and the closing test."""

    run_name = "run"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run_dir", type=str | None, default=None, help="Folder of the run (default: runs/<config>)."
        )
        parser.add_lightning_class_args(ModelCheckpoint, "best")
        parser.add_lightning_class_args(ModelCheckpoint, "last")
        once = {"enable_version_counter": False, "auto_insert_metric_name": False}
        best = {"filename": "best", "save_on_train_epoch_end": False, **once}
        last = {"filename": "last", "save_on_train_epoch_end": True, **once}
        parser.set_defaults({f"best.{k}": v for k, v in best.items()} | {f"last.{k}": v for k, v in last.items()})

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        settings = self.config[self.subcommand]
        folder = runs.choose(self.run_name, settings["run_dir"], settings.get("ckpt_path"), self.subcommand)
        loggers = self._get(self.config_init, "trainer")["logger"]
        given = (
            loggers if isinstance(loggers, list) else [loggers] if isinstance(loggers, L.pytorch.loggers.Logger) else []
        )
        return super().instantiate_trainer(
            logger=[RunLogger(str(folder)), *given],
            default_root_dir=str(folder),
            plugins=[AtomicCheckpointIO()],
            **kwargs,
        )

    def after_fit(self) -> None:
        """Test the checkpoint that validated best, and say where everything is."""
        if self.trainer.interrupted or self.trainer.fast_dev_run:
            return
        best = self.trainer.checkpoint_callbacks[0].best_model_path
        if best:
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best, verbose=False)
            if self.trainer.is_global_zero:
                self.model.finish(runs.folder_of(self.trainer))
            self.after_test()

    @rank_zero_only
    def after_test(self) -> None:
        folder = runs.folder_of(self.trainer)
        report = self.model.report()
        (folder / "report.txt").write_text(report + "\n", encoding="utf-8")
        print(f"\n{report}\n\neverything of this run is in {folder}")


def run_command(args: list[str]) -> PonitaCLI:
    """Parse the words of a command and run it.

    Args:
        args: subcommand and options.

    Raises:
        ValueError: for a configuration that does not exist, or a damaged checkpoint.
        FileNotFoundError: for a checkpoint that does not exist.
    """
    args, name = _resolve_configs(args)
    _check_checkpoint(_value_of(args, "--ckpt_path"))
    _silence_known_messages()

    class NamedCLI(PonitaCLI):
        run_name = name

    return NamedCLI(
        Task,
        GraphDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=SaveFitConfig,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"inference_mode": False, "callbacks": [LearningCurve()]},
        seed_everything_default=0,
        parser_kwargs={"allow_abbrev": False, **{name: {"allow_abbrev": False} for name in PonitaCLI.subcommands()}},
        args=args,
    )


def _silence_known_messages() -> None:
    """Drop what Lightning says of things that are meant here, and an advertisement."""
    for message in (
        "LightningCLI's args parameter is intended",
        ".*treespec, LeafSpec.* is deprecated",
        "Checkpoint directory .* exists and is not empty",  # a resumed run goes on in its folder
        "`loftq_config` specified but will be ignored",  # peft, of its own default
        r"(?s)\s*The dirpath has changed",  # a test writes into a folder of its own
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )


def _resolve_configs(args: list[str]) -> tuple[list[str], str]:
    """Put files for the names of packaged configurations; the name of the last one names the run.

    A test without a configuration takes the one beside its checkpoint.
    """
    resolved, name = [], "run"
    words = iter(args)
    for word in words:
        option, _, value = word.partition("=")
        if option not in ("--config", "-c"):
            resolved.append(word)
            continue
        value = value or next(words, "")
        path = configs.resolve(value)
        name = _run_name(value, path)
        resolved += ["--config", str(path)]
    if "--config" not in resolved:
        beside = runs.config_beside(_value_of(args, "--ckpt_path"))
        if beside is not None:
            resolved, name = [resolved[0], "--config", str(beside), *resolved[1:]], beside.parent.name
    return resolved, name


def _check_checkpoint(ckpt_path: str | None) -> None:
    """Look at a checkpoint before minutes are spent on the data, and before Lightning does without naming it."""
    if ckpt_path in (None, "", "best", "last", "hpc"):
        return
    if not Path(ckpt_path).is_file():
        raise FileNotFoundError(f"no checkpoint at {ckpt_path}.")
    if not zipfile.is_zipfile(ckpt_path):
        raise ValueError(f"{ckpt_path} is truncated or not a checkpoint; use another one of the run.")


def _run_name(value: str, path: Path) -> str:
    if value in configs.packaged():
        return value
    return path.resolve().parent.name if path.name == "config.yaml" else path.stem


def _value_of(args: list[str], option: str) -> str | None:
    for word, following in zip(args, [*args[1:], ""], strict=True):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None
