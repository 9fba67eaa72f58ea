"""Gap and U0 of QM9 on one thread: the configurations property/quick and property/u0, and a SchNet for the same time.

    python benchmarks/qm9.py --root DIR [--parts gap u0 schnet-gap schnet-u0 distances-gap distances-u0] [--threads 1]

SchNet is PyTorch Geometric's, with the same molecules, split, atom references, loss, pooling, batches and weight averaging. Its
number of epochs is chosen such that its schedule ends when the processor time is up that the configuration took, or --minutes
where that was not run. Parts that are finished in --folder are read, not repeated; each is stored as soon as it is
finished. "distances" are the configurations on R3, without directions: a step is cheaper there, so they are given more
epochs, meant to take about as long. Writes --out (benchmarks/results/qm9.json) and prints a table.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch_geometric.nn.models import SchNet

from ponita.data.qm9_labels import LabelSplit
from ponita.models import Output, load
from ponita.ops import keep_freed_memory
from ponita.tasks.bench.record import Record, environment, write
from ponita.tasks.bench.training import timed_fit
from ponita.tasks.callbacks import AtomicCheckpointIO, RunLogger, WeightAverage
from ponita.tasks.configs import resolve
from ponita.tasks.pictures import format_table
from ponita.tasks.property import PropertyTask, QM9DataModule
from ponita.tasks.property.normalization import normalize
from ponita.training import OptimizerConfig

CONFIGS = {"gap": "property/quick", "u0": "property/u0"}
PARTS = ("gap", "u0", "schnet-gap", "schnet-u0", "distances-gap", "distances-u0")
NETWORK = "--model.init_args.model.init_args"
#: Epochs of the configurations without directions, meant to take about as long.
EPOCHS = {"distances-gap": 48, "distances-u0": 160}
#: Size and learning rate of SchNet: of those tried for a few minutes, the one that learned most in them.
SCHNET = {"hidden": 64, "interactions": 3, "cutoff": 5.0}
SCHNET_LR = 4e-3
TIMED_STEPS = 20


class SchNetNetwork(nn.Module):
    """PyTorch Geometric's SchNet in the place of a `Ponita`, on the edges that it is given.

    Args:
        elements: atomic numbers, in the order of the input channels.
        hidden: channels, of filters too.
        interactions: layers.
        cutoff: Å.
        pooling: "sum" or "mean".
    """

    stores_pairs = False

    def __init__(
        self, elements: list[int], hidden: int, interactions: int, cutoff: float, pooling: str = "sum"
    ) -> None:
        super().__init__()
        self.config = {
            "in_channels": len(elements),
            "in_vector_channels": 0,
            "out_channels": 1,
            "out_vector_channels": 0,
        }
        self.config |= {"pooling": pooling, "cutoff": cutoff, "mode": "cloud"}  # "cloud": edges as they are
        self.register_buffer("numbers", torch.tensor(elements), persistent=False)
        readout = "add" if pooling == "sum" else pooling
        self.schnet = SchNet(
            hidden, hidden, interactions, cutoff=cutoff, interaction_graph=self._graph, readout=readout
        )
        self._edge_index: Tensor | None = None

    def forward(self, pos: Tensor, edge_index: Tensor, x: Tensor, batch: Tensor, num_graphs: int) -> Output:
        """As that of `Ponita`."""
        self._edge_index = edge_index
        scalars = self.schnet(self.numbers[x.argmax(1)], pos, batch)
        return Output(scalars, pos.new_zeros(num_graphs, 0, 3))

    def _graph(self, pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        sender, receiver = self._edge_index
        return self._edge_index, (pos[sender] - pos[receiver]).norm(dim=1)


def train_ours(part: str, folder: Path, arguments: argparse.Namespace) -> Record:
    """The packaged configuration, in a process of its own."""
    words = ["--data.init_args.root", arguments.root]
    if part in EPOCHS:
        changes = {f"{NETWORK}.space": "R3", f"{NETWORK}.kernel": "mlp", "--trainer.max_epochs": str(EPOCHS[part])}
        words += [word for change in changes.items() for word in change]
    if arguments.max_epochs:
        words += ["--trainer.max_epochs", str(arguments.max_epochs)]
    if arguments.num_train:
        words += ["--data.init_args.split.num_train", str(arguments.num_train)]
    cost = timed_fit(folder, CONFIGS[part.removeprefix("distances-")], words, arguments.threads)
    model = load(folder / "checkpoints" / "best.ckpt")
    epochs = yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_epochs"]
    return _cost(cost["wall_seconds"], cost["cpu_seconds"], epochs, model)


def train_schnet(part: str, folder: Path, arguments: argparse.Namespace) -> Record:
    """SchNet for the processor time that the configuration took, in this process."""
    of_config = part.removeprefix("schnet-")
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    config = yaml.safe_load(resolve(CONFIGS[of_config]).read_text())
    L.seed_everything(config["seed_everything"])
    data, task = _data(config, arguments), _schnet_task(config)
    start, cpu = time.monotonic(), time.process_time()
    data.load(task.targets)
    budget = _budget(Path(arguments.folder) / of_config, arguments)
    epochs = max(1, int((budget - (time.process_time() - cpu)) / _epoch_seconds(config, data)))
    best = ModelCheckpoint(folder / "checkpoints", "best", monitor="valid/loss", enable_version_counter=False)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        gradient_clip_val=config["trainer"]["gradient_clip_val"],
        logger=RunLogger(str(folder)),
        default_root_dir=str(folder),
        callbacks=[best, WeightAverage(0.99)],
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        inference_mode=False,
    )
    trainer.fit(task, datamodule=data)
    trainer.test(task, datamodule=data, ckpt_path=best.best_model_path, verbose=False)
    return _cost(time.monotonic() - start, time.process_time() - cpu, epochs, task.model)


def _data(config: dict[str, Any], arguments: argparse.Namespace) -> QM9DataModule:
    options = dict(config["data"]["init_args"])
    split = LabelSplit(**options.pop("split"))
    split.num_train = arguments.num_train
    return QM9DataModule(**{**options, "root": arguments.root, "split": split})


def _schnet_task(config: dict[str, Any]) -> PropertyTask:
    options = config["model"]["init_args"]
    elements, pooling = options["elements"], options["model"]["init_args"].get("pooling", "sum")
    network = SchNetNetwork(elements, **SCHNET, pooling=pooling)
    optimizer = OptimizerConfig(**{**options["optimizer"], "lr": SCHNET_LR})
    choice = {"atom_references": options.get("atom_references", "least_squares"), "graph": "radius"}
    # Distances do not change under rotations, and there are no kernels to calibrate.
    return PropertyTask(
        network, options["targets"], elements, optimizer=optimizer, augment=False, calibrate_kernels=False, **choice
    )


def _epoch_seconds(config: dict[str, Any], data: QM9DataModule) -> float:
    """Processor time of an epoch with its validation, from a few steps of a network that is thrown away."""
    task, train, valid = _schnet_task(config), data.sets["train"], data.sets["valid"]
    normalize(task.model, train.molecules, train.labels, task.atom_references)
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-5)
    times = []
    for step in range(TIMED_STEPS):
        start = time.process_time()
        rows = torch.arange(data.batch_size) + step * data.batch_size
        batch = train.__getitems__((rows % len(train)).tolist())
        optimizer.zero_grad()
        task.losses(batch)["loss"].backward()
        optimizer.step()
        times.append(time.process_time() - start)
    start = time.process_time()
    rows = range(min(data.eval_batch_size, len(valid)))
    with torch.no_grad():
        task(valid.__getitems__(rows))
    validation = (time.process_time() - start) * len(valid) / len(rows)
    half = sorted(times)[TIMED_STEPS // 2]
    return half * len(train) / data.batch_size + validation


def _budget(ours: Path, arguments: argparse.Namespace) -> float:
    finished = ours / "part.json"
    return json.loads(finished.read_text())["cpu_seconds"] if finished.is_file() else 60 * arguments.minutes


def _cost(seconds: float, cpu: float, epochs: int, model: nn.Module) -> Record:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "epochs": epochs, "parameters": parameters}


def finish(part: str, arguments: argparse.Namespace) -> Record:
    """What a part found, and what it cost; trained where it was not."""
    folder = Path(arguments.folder) / part
    finished = folder / "part.json"
    if not finished.is_file():
        train = train_schnet if part.startswith("schnet") else train_ours
        cost = train(part, folder, arguments)
        finished.write_text(json.dumps(cost) + "\n")
    (errors,) = json.loads((folder / "errors.json").read_text(encoding="utf-8"))
    network = f"PyG SchNet {SCHNET}" if part.startswith("schnet") else CONFIGS[part.removeprefix("distances-")]
    network += " on R3" if part in EPOCHS else ""
    return {"network": network, **errors, **json.loads(finished.read_text())}


def main() -> None:
    """Train what is missing, store, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data/qm9")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=35, help="for SchNet, where the configuration was not run")
    parser.add_argument("--num_train", type=int, help="fewer training molecules, to try the command")
    parser.add_argument("--max_epochs", type=int, help="fewer epochs of the configurations, to try the command")
    parser.add_argument("--folder", default="runs/qm9")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "qm9.json")
    arguments = parser.parse_args()

    parts = json.loads(arguments.out.read_text())["parts"] if arguments.out.is_file() else {}
    for part in arguments.parts:
        parts[part] = finish(part, arguments)
        record = {"command": f"python benchmarks/qm9.py --root DIR --threads {arguments.threads}", "parts": parts}
        write({**record, **environment(arguments.threads)}, arguments.out)
    rows = [("part", "unit", "mean predictor", "atoms only", "MAE", "parameters", "epochs", "minutes")]
    for part, found in parts.items():
        numbers = ("-" if found[k] is None else f"{found[k]:.1f}" for k in ("mean", "atoms", "model"))
        cost = (str(found["parameters"]), str(found["epochs"]), f"{found['seconds'] / 60:.1f}")
        rows.append((part, found["unit"], *numbers, *cost))
    print(format_table(rows))


if __name__ == "__main__":
    main()
