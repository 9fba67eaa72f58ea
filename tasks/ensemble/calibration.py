"""Whether a committee's spread tells its error: on the test set, in a table and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor
from torch_geometric.data import Batch

from ponita.interfaces.committee import vector_spread
from ponita.models import load
from ponita.tasks.base import Task
from ponita.tasks.datamodule import GraphDataModule
from ponita.tasks.ensemble.pictures import draw_calibration
from ponita.tasks.pictures import format_table

MILLI = 1000.0
UNITS = {"energy": "meV/atom", "forces": "eV/Å"}
#: Errors below which there is nothing to correlate.
FEWEST = 2


class Calibration(NamedTuple):
    """Errors of the mean of M members beside their spread, for K structures or atoms.

    Attributes:
        error: [K] absolute, or the length of the error vector.
        spread: [K] standard deviation of the members.
        members: [M] mean absolute error of each member's values (of components, for vectors).
        committee: that of the mean.
    """

    error: Tensor
    spread: Tensor
    members: Tensor
    committee: float

    def scores(self) -> dict[str, float]:
        """Rank correlation of error and spread, and the factor that makes the spread as large as the error."""
        ratio = float(self.error.square().mean().sqrt() / self.spread.square().mean().sqrt())
        return {"spearman": rank_correlation(self.error, self.spread), "error_over_spread": ratio}


def calibrate_committee(root: Path, folders: Sequence[Path]) -> str:
    """Evaluate the members of an ensemble on its test set, write calibration.png, .txt and .json, and return the table.

    Args:
        root: folder to write to.
        folders: runs of the members.

    Raises:
        ValueError: if the members have different test sets, or the test set next to no labels.
    """
    task, data = _task_and_data(folders)
    values = _evaluate(task, data, [load(folder / "checkpoints" / "best.ckpt") for folder in folders])
    parts = {}
    for name, compare in (("energy", _energies), ("forces", _vectors)):
        predicted, true = values[name]
        known = true.isfinite().reshape(len(true), -1).all(1)
        if int(known.sum()) >= FEWEST:
            parts[name] = compare(predicted[:, known], true[known])
    if not parts:
        raise ValueError(f"the test set has fewer than {FEWEST} energies and forces; expected more to compare with.")
    draw_calibration(root / "calibration.png", {name: (part, UNITS[name]) for name, part in parts.items()})
    table = _table([folder.name for folder in folders], parts)
    (root / "calibration.txt").write_text(table + "\n", encoding="utf-8")
    numbers = {name: part.scores() | {"mae": part.committee} for name, part in parts.items()}
    (root / "calibration.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    return table


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's: the correlation of the ranks of two series, [K] each."""
    ranks = torch.stack([x.argsort().argsort().double() for x in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def _task_and_data(folders: Sequence[Path]) -> tuple[Task, GraphDataModule]:
    """What the first member was trained with, without its trainer; all must have been tested on the same."""
    settings = [yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) for folder in folders]
    data = [{**s["data"], "init_args": {**s["data"]["init_args"], "seed": 0}} for s in settings]
    for folder, other in zip(folders, data, strict=True):
        if other != data[0]:
            raise ValueError(f"{folder} and {folders[0]} were trained on different data: see their config.yaml.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "model")
    parser.add_subclass_arguments(GraphDataModule, "data")
    made = parser.instantiate_classes(parser.parse_object({"model": settings[0]["model"], "data": data[0]}))
    made.data.prepare_data()
    made.data.setup("test")
    return made.model.eval(), made.data


def _evaluate(task: Task, data: GraphDataModule, members: Sequence[Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """Predictions of all members, [M, K] per atom and [M, N, 3], with the labels."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    members = [member.to(device).eval().requires_grad_(False) for member in members]
    parts = []
    for batch in data.test_dataloader():
        task.model = members[0]
        batch.edges = task.make_edges(batch)
        batch = data.transfer_batch_to_device(batch, device, 0)
        parts.append(_evaluate_batch(task, batch, members))
    energy, true_energy, forces, true_forces = zip(*parts, strict=True)
    return {
        "energy": (torch.cat(energy, dim=1), torch.cat(true_energy)),
        "forces": (torch.cat(forces, dim=1), torch.cat(true_forces)),
    }


def _evaluate_batch(task: Task, batch: Batch, members: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sizes, energies, forces = torch.bincount(batch.batch).double(), [], []
    for member in members:
        task.model = member
        predicted = task(batch)
        energies.append(predicted.energy.double() / sizes)
        forces.append(predicted.forces.double())
    values = (torch.stack(energies), batch.energy.double() / sizes, torch.stack(forces), batch.forces.double())
    return tuple(value.detach().cpu() for value in values)


def _energies(predicted: Tensor, true: Tensor) -> Calibration:
    """In meV/atom."""
    predicted, true = MILLI * predicted, MILLI * true
    error = (predicted.mean(0) - true).abs()
    return Calibration(error, predicted.std(0), (predicted - true).abs().mean(1), float(error.mean()))


def _vectors(predicted: Tensor, true: Tensor) -> Calibration:
    """In eV/Å."""
    difference = predicted.mean(0) - true
    members = (predicted - true).abs().mean((1, 2))
    return Calibration(difference.norm(dim=1), vector_spread(predicted), members, float(difference.abs().mean()))


def _table(names: Sequence[str], parts: dict[str, Calibration]) -> str:
    """A column for each quantity: errors of the members and of their mean, and what the spread says of them."""
    columns = [("test set", *names, "mean", "rank correlation of error and spread", "rms error / rms spread")]
    for name, part in parts.items():
        factor, unit = (1.0, UNITS[name]) if name == "energy" else (MILLI, "meV/Å")
        errors = (f"{factor * float(error):.2f}" for error in (*part.members, part.committee))
        columns.append((f"{name} MAE ({unit})", *errors, *(f"{score:.2f}" for score in part.scores().values())))
    return format_table(list(zip(*columns, strict=True)))
