"""Whether several supernets of parts of a space learn a teacher's relations better than one of all of it (AutoDistil).

    python benchmarks/search_distillation.py --root DIR [--seeds 3] [--steps 300]

A potential of ethanol (rMD17) is trained, and teaches, without labels, supernets of smaller networks: one of the whole space, or three of
parts of it by cost, with as many steps each ("equal each", as published) or all together ("equal total"). The loss of every network
of the space, on structures that nothing was trained on, is averaged over each part. The second question is whether that loss ranks
networks without labels: its rank correlation with the error (1 - R²) of a ridge regression of energies on the features of the last
block. Nothing is asserted. Writes --out (benchmarks/results/search_distillation.json) and prints a table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ponita.nn import pool
from ponita.sharing.search import Architecture, SandwichSampler, SearchSpace
from ponita.sharing.search.autodistil import DistillationObjective, DistillationTrainer, inherit
from ponita.sharing.search.hidden_states import spearman
from ponita.sharing.search.ponita_supernet import PonitaSupernet, supernet_of
from ponita.sharing.search.relations import RelationDistillationLoss
from ponita.sharing.search.subspaces import partition_by_cost
from ponita.tasks.bench.record import environment, write
from ponita.tasks.pictures import format_table
from ponita.tasks.potential import EnergyForceTask, RMD17DataModule
from ponita.tasks.search.methods import AutoDistil
from ponita.tasks.search.problem import PotentialProblem
from ponita.training import LossWeights

SPACE = {"hidden_channels": [16, 24, 32], "num_layers": [1, 2], "widening": [1, 2], "basis_channels": [16, 32]}
NETWORK = {"kernel": "spline", "cutoff": 5.0, "degree": 3, "num_orientations": 6}
PARTS, HEADS, LR = 3, 4, 1e-3
RIDGE = 1e-3
Losses = dict[Architecture, float]


def problem_of(root: str, seed: int) -> PotentialProblem:
    """Ethanol, with a seed for all that is random."""
    data = RMD17DataModule(root, num_valid=200, num_test=1, batch_size=10, download=False, seed=seed)
    problem = PotentialProblem(SPACE, NETWORK, [1, 6, 8], data, LossWeights(0.02, 1.0), seed=seed)
    problem.setup()
    return problem


def distilled(
    problem: PotentialProblem, teacher: EnergyForceTask, spaces: Sequence[SearchSpace], steps: int
) -> list[EnergyForceTask]:
    """Supernets after so many steps each, without labels, from the corners of the teacher."""
    alone = supernet_of(teacher).extract(problem.space.largest())
    tasks = [problem.new_task(space) for space in spaces]
    for task in tasks:
        inherit(supernet_of(task), alone)
    trainer = DistillationTrainer(
        supernet_of(teacher),
        [supernet_of(task) for task in tasks],
        RelationDistillationLoss(HEADS),
        lambda parameters: torch.optim.Adam(parameters, lr=LR),
        lambda space: SandwichSampler(space, 2, problem.seed),
        grad_clip=1.0,
    )
    batches, epoch = [], 0
    while len(batches) < steps:
        epoch += 1
        batches += [problem.network_inputs(teacher, batch) for batch in problem.epoch(epoch)]
    trainer.fit(batches[:steps], 1)
    return tasks


def relation_losses(
    problem: PotentialProblem, teacher: EnergyForceTask, spaces: Sequence[SearchSpace], tasks: list[EnergyForceTask]
) -> Losses:
    """Of all networks of the spaces, on the validation set."""
    objective, found = DistillationObjective(supernet_of(teacher), RelationDistillationLoss(HEADS)), {}
    batches = [problem.network_inputs(teacher, batch) for batch in problem.valid_batches()]
    targets = [objective.target(batch) for batch in batches]
    for space, task in zip(spaces, tasks, strict=True):
        supernet = supernet_of(task)
        for architecture in space.enumerate():
            with torch.no_grad(), supernet.activate(architecture):
                losses = [objective.samples(supernet, b, t) for b, t in zip(batches, targets, strict=True)]
            found[architecture] = float(torch.cat(losses).mean())
    return found


@torch.no_grad()
def features(problem: PotentialProblem, task: EnergyForceTask, path: Architecture, part: str) -> tuple[Tensor, Tensor]:
    """[G, C] sums of the last block's features over points, mean over orientations, and [G] energies."""
    supernet: PonitaSupernet = supernet_of(task)
    sums, energies = [], []
    for batch in problem.data.batches(part):
        _, blocks = supernet.taps(**problem.network_inputs(task, batch), path=path)
        sums.append(pool(blocks[-1]["U"].mean(1), batch.batch, batch.num_graphs, "sum").double())
        energies.append(batch.energy.double())
    return torch.cat(sums), torch.cat(energies)


def probe_error(problem: PotentialProblem, task: EnergyForceTask, path: Architecture) -> float:
    """1 - R² of energies of the validation set, by ridge regression on the training set."""
    x, y = features(problem, task, path, "train")
    x_valid, y_valid = features(problem, task, path, "valid")
    center, scale, middle = x.mean(0), x.std(0).clamp(min=1e-9), y.mean()
    x, x_valid = (x - center) / scale, (x_valid - center) / scale
    normal = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(normal, x.T @ (y - middle))
    left = (y_valid - middle - x_valid @ weights).square().mean()
    return float(left / y_valid.var(correction=0))


def study(root: str, seed: int, steps: int, teacher_epochs: int) -> dict[str, Any]:
    """One seed: mean losses of the parts for each way of training, and how the loss ranks."""
    problem = problem_of(root, seed)
    teacher = AutoDistil(teacher_epochs=teacher_epochs).teacher(problem, progress=False)
    whole, parts = [problem.space], partition_by_cost(problem.space, PARTS, problem.flops)
    ways = {
        "one supernet": (whole, steps),
        f"{PARTS} supernets, equal each": (parts, steps),
        f"{PARTS} supernets, equal total": (parts, steps // PARTS),
    }
    row: dict[str, Any] = {"parts": [str(part) for part in parts], "seed": seed}
    for name, (spaces, number) in ways.items():
        tasks = distilled(problem, teacher, spaces, number)
        losses = relation_losses(problem, teacher, spaces, tasks)
        row[name] = [mean(losses[a] for a in part.enumerate()) for part in parts]
        if spaces is whole:
            errors = [probe_error(problem, tasks[0], a) for a in losses]
            row["spearman"] = spearman(torch.tensor(list(losses.values())), torch.tensor(errors))
    return row


def main() -> None:
    """Train, compare, store, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of rMD17, with npz_data/ and splits/")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--teacher_epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "search_distillation.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        study(arguments.root, seed, arguments.steps, arguments.teacher_epochs)
        for seed in tqdm(range(arguments.seeds), desc="seeds")
    ]
    record = {
        "command": "python benchmarks/search_distillation.py --root DIR",
        "steps": arguments.steps,
        "teacher_epochs": arguments.teacher_epochs,
        "search_distillation": rows,
    }
    write({**record, **environment(1)}, arguments.out)
    lines = [("seed", "training", *(f"part {k + 1}" for k in range(PARTS)), "Spearman")]
    for row in rows:
        for name in (key for key in row if "supernet" in key):
            rank = f"{row['spearman']:.2f}" if name == "one supernet" else ""
            lines.append((str(row["seed"]), name, *(f"{1e3 * loss:.2f}e-3" for loss in row[name]), rank))
    print(format_table(lines))


if __name__ == "__main__":
    main()
