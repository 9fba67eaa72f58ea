"""Adapting a potential of seven molecules of rMD17 to the eighth, by every method, with few configurations.

    python benchmarks/finetune.py --root DIR --checkpoint CKPT [--methods ...] [--num_train 50 200] [--seeds 3]

CKPT is the result of `ponita fit --config potential/rmd17_seven`. All methods get the same steps, batches and number of
trials of the learning rate (the rates of the method, on the first seed, by the force error of 50 validation frames); a seed
is an official split, the order of its frames and the adapter's first weights. Errors are those of 500 test frames, with
averaged weights. Each run is stored in --folder as soon as it is finished and not repeated, so several processes can share the
methods. Writes --out (benchmarks/results/finetune.json) with all that is finished, and prints a table.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from peft import LNTuningConfig, LoraConfig, MissConfig, PeftConfig

from ponita import Ponita
from ponita.models import load
from ponita.sharing.adapters import LINEAR_SITES, NORM_SITES, BoneConfig, BottleneckConfig, MoSConfig
from ponita.sharing.adapters.files import save_adapter
from ponita.tasks.bench.record import environment, write
from ponita.tasks.callbacks import RunLogger, WeightAverage
from ponita.tasks.pictures import format_table
from ponita.tasks.potential import EnergyForceTask, RMD17MixtureDataModule
from ponita.tasks.potential.finetune import FineTuneTask
from ponita.tasks.potential.task import PotentialTask
from ponita.tasks.regularizers import Compand, MultiSampleDropout
from ponita.training import LossWeights, OptimizerConfig

MOLECULE = "ethanol"
STEPS = {50: 300, 200: 600}
BATCH = 5
SLOW, FAST = (1e-3, 3e-3, 1e-2), (3e-3, 1e-2, 3e-2)
SITES = {"target_modules": LINEAR_SITES}
WEIGHTS = LossWeights(energy=5.0, forces=1.0, energy_per_atom=True)


@dataclass
class Method:
    """A row of the table.

    Attributes:
        rates: learning rates tried.
        adapter: makes its configuration; none where parameters of the potential train.
        train: which of them do.
        callbacks: makes those that the training has beside the usual ones.
        scratch: the network is new.
    """

    rates: tuple[float, ...] = FAST
    adapter: Callable[[], PeftConfig] | None = None
    train: str = ".*"
    callbacks: Callable[[], list[L.Callback]] = field(default=list)
    scratch: bool = False


METHODS = {
    "not adapted": Method((0.0,)),
    "from scratch": Method((3e-3, 5e-3, 1e-2), scratch=True),
    "read-out": Method(train=r".*readouts.*"),
    "LayerNorm": Method(adapter=lambda: LNTuningConfig(target_modules=NORM_SITES)),
    "full": Method(SLOW),
    "full, companded": Method(SLOW, callbacks=lambda: [Compand()]),
    "full, multi-sample dropout": Method(SLOW, callbacks=lambda: [MultiSampleDropout(samples=4, p=0.1)]),
    "LoRA r4": Method(adapter=lambda: LoraConfig(r=4, lora_alpha=4, **SITES)),
    "MiSS r8": Method(adapter=lambda: MissConfig(r=8, **SITES)),
    "Bone col r8 (bat)": Method(adapter=lambda: MissConfig(r=8, init_weights="bat", **SITES)),
    "Bone row r8": Method(adapter=lambda: BoneConfig(r=8)),
    "Bone A/B r4": Method(adapter=lambda: BoneConfig(r=4, grouping="ab")),
    "Bone free r16": Method(adapter=lambda: BoneConfig(r=16, grouping="free")),
    "MoS r8 e4": Method(adapter=lambda: MoSConfig(r=8, equiv_rank=4, alpha=8)),
    "Houlsby": Method(adapter=lambda: BottleneckConfig(reduction_factor=8)),
    "Compacter": Method(adapter=lambda: BottleneckConfig(reduction_factor=8, source="phm", phm_n=4)),
    "Hyperformer++": Method(adapter=lambda: BottleneckConfig(reduction_factor=8, source="hyper")),
}


def run(method: Method, num_train: int, seed: int, rate: float, arguments: argparse.Namespace) -> dict[str, float]:
    """One training: errors of validation and test, and what it cost."""
    L.seed_everything(seed, verbose=False)
    data = RMD17MixtureDataModule(
        [MOLECULE],
        arguments.root,
        seed + 1,
        num_train,
        50,
        500,
        download=False,
        batch_size=BATCH,
        eval_batch_size=50,
        seed=seed,
    )
    task = _task(method, seed, rate, arguments.checkpoint)
    epochs = 1 if rate == 0 else STEPS[num_train] * BATCH // num_train
    with TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=epochs,
            check_val_every_n_epoch=epochs,
            num_sanity_val_steps=0,
            accelerator="cpu",
            gradient_clip_val=1.0,
            logger=RunLogger(folder),
            default_root_dir=folder,
            callbacks=[WeightAverage(0.99), *method.callbacks()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            inference_mode=False,
        )
        start = time.process_time()
        trainer.fit(task, datamodule=data)
        seconds = time.process_time() - start
        found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("valid/")}
        trainer.test(task, datamodule=data, verbose=False)
        found |= {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
        stored = _stored_bytes(task, Path(folder), arguments.checkpoint)
    trainable = 0 if rate == 0 else sum(p.numel() for p in task.model.parameters() if p.requires_grad)
    return {**found, "cpu_seconds": seconds, "trainable": trainable, "bytes": 0 if rate == 0 else stored}


def _task(method: Method, seed: int, rate: float, checkpoint: str) -> PotentialTask:
    optimizer = OptimizerConfig(lr=rate, warmup_epochs=1)
    if method.scratch:
        old = load(checkpoint)
        network = Ponita(**old.network.config)
        return EnergyForceTask(network, list(old.elements), WEIGHTS, optimizer, self_loops=old.self_loops, seed=seed)
    adapter = method.adapter() if method.adapter else None
    return FineTuneTask(checkpoint, adapter, method.train, WEIGHTS, optimizer, seed=seed)


def _stored_bytes(task: PotentialTask, folder: Path, checkpoint: str) -> int:
    """Of the adapter's file, or of the parameters that trained."""
    if getattr(task, "adapted", False):
        save_adapter(task.model, folder / "adapter", checkpoint)
        return (folder / "adapter" / "adapter_model.safetensors").stat().st_size
    return sum(p.numel() * p.element_size() for p in task.model.parameters() if p.requires_grad)


def finish(name: str, num_train: int, seed: int, rate: float, arguments: argparse.Namespace) -> dict[str, float]:
    """A run that is stored, or made now."""
    words = "".join(c if c.isalnum() else "-" for c in name)
    path = Path(arguments.folder) / f"{words}-{num_train}-{seed}-{rate:g}.json"
    if not path.is_file():
        found = run(METHODS[name], num_train, seed, rate, arguments)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found) + "\n", encoding="utf-8")
        print(
            f"{name}, {num_train} frames, seed {seed}, rate {rate:g}: {found['test/forces_mae']:.1f} meV/Å", flush=True
        )
    return json.loads(path.read_text(encoding="utf-8"))


def row(name: str, num_train: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trials of the rate, then all seeds with the best."""
    rates = METHODS[name].rates
    trials = {rate: finish(name, num_train, 0, rate, arguments)["valid/forces_mae"] for rate in rates}
    best = min(trials, key=trials.get)
    runs = [finish(name, num_train, seed, best, arguments) for seed in range(arguments.seeds)]
    spread = {}
    for metric in ("energy_mae", "energy_per_atom_mae", "forces_mae"):
        values = [found[f"test/{metric}"] for found in runs]
        spread[metric] = [mean(values), stdev(values) if len(values) > 1 else 0.0]
    cost = {key: runs[0][key] for key in ("trainable", "bytes")}
    return {**spread, **cost, "cpu_seconds": mean(found["cpu_seconds"] for found in runs), "rate": best, "rates": rates}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Rows of all methods, for each number of configurations."""
    rows = [("frames", "method", "trainable", "bytes", "CPU s", "rate", "E MAE (meV)", "F MAE (meV/Å)")]
    for num_train, methods in results.items():
        for name, found in methods.items():
            errors = (f"{value:.1f} ± {spread:.1f}" for value, spread in (found["energy_mae"], found["forces_mae"]))
            cost = (str(found["trainable"]), str(found["bytes"]), f"{found['cpu_seconds']:.0f}", f"{found['rate']:g}")
            rows.append((num_train, name, *cost, *errors))
    return format_table(rows)


def main() -> None:
    """Train what is missing, store, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of rMD17, with npz_data/ and splits/")
    parser.add_argument("--checkpoint", required=True, help="of ponita fit --config potential/rmd17_seven")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--num_train", nargs="+", type=int, default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", default="runs/finetune")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "finetune.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    results: dict[str, dict[str, Any]] = {}
    for num_train in arguments.num_train:
        for name in arguments.methods:
            results.setdefault(str(num_train), {})[name] = row(name, num_train, arguments)
            record = {"command": "python benchmarks/finetune.py --root DIR --checkpoint CKPT", "molecule": MOLECULE}
            write({**record, "finetune": results, **environment(arguments.threads)}, arguments.out)
    print(table(results))


if __name__ == "__main__":
    main()
