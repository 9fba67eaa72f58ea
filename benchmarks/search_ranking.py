"""How well supernets rank the 108 networks of `ponita.sharing.search.testbed`, each of which is also trained alone.

    python benchmarks/search_ranking.py [--seeds 5] [--steps 1200] [--truth_seeds 4]

Every way of training gets the same number of steps of the weights and is repeated over seeds; "gradient matching" and
"random split" have two supernets, each with half of the steps ("equal total"), "gradient matching, equal each" with all of them.
The ceiling is the rank correlation of the truth from one half of its seeds with that from the other; the size of a network alone is
another ranking. "Worst bin" is the largest, over five bins of the size, of the least validation loss with the weights of the supernet: how well
the worst served sizes are trained. Nothing is asserted. The trainings of the truth are kept in the file and not repeated. Writes --out
(benchmarks/results/search_ranking.json) and prints a table.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ponita.sharing.search import (
    Architecture,
    Losses,
    PathSampler,
    SandwichSampler,
    SupernetTrainer,
    UniformSampler,
    kendall_tau,
    rank_report,
)
from ponita.sharing.search.bilevel import BilevelTrainer
from ponita.sharing.search.complexity import ArchitectureGenerator, ComplexityBins
from ponita.sharing.search.controller import Controller
from ponita.sharing.search.enas import ControllerSampler, ReinforceTrainer
from ponita.sharing.search.fewshot import Leaf, SupernetTree
from ponita.sharing.search.pada import DataImportance, ImportanceDataSampler, ImportanceSampler, output_gradient_norm
from ponita.sharing.search.shift import ComplexityShiftSampler, Measure, ShiftUpdate
from ponita.sharing.search.tangle import RelaxationSampler
from ponita.sharing.search.testbed import (
    NOISE,
    TEST,
    TRAIN,
    ToyData,
    ToySupernet,
    batches,
    toy_data,
    toy_loss,
    toy_space,
    train_alone,
)
from ponita.tasks.bench.record import environment, write
from ponita.tasks.pictures import format_table

SPACE = toy_space()
DATA, VALID, CLEAN = toy_data(TRAIN, 0, NOISE), toy_data(TRAIN, 2, NOISE), toy_data(TEST, 1)
BATCH, LR = 96, 5e-3
EPOCH = -(-TRAIN // BATCH)
BINS = 5  # of the size
SPLIT = 0.25  # of the steps, after which supernets are split
Errors = dict[Architecture, float]


def losses(model: nn.Module, batch: ToyData) -> Losses:
    """Cross-entropy of every point."""
    output = model(batch.x)
    weights = getattr(batch, "weights", None)
    return Losses(
        nn.functional.cross_entropy(output, batch.y, reduction="none"),
        output,
        batch.y,
        getattr(batch, "rows", None),
        weights,
    )


class Epochs:
    """The training set in another order each time, or as a sampler of rows says."""

    def __init__(self, seed: int, data: ToyData = DATA, rows: ImportanceDataSampler | None = None) -> None:
        self.seed, self.data, self.rows, self.done = seed, data, rows, 0

    def __iter__(self):
        self.done += 1
        if self.rows is None:
            yield from batches(self.data, BATCH, 1000 * self.seed + self.done)
            return
        for part in torch.tensor(list(self.rows)).split(BATCH):
            batch = self.data.take(part)
            batch.rows, batch.weights = part, self.rows.weights(part)
            yield batch


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """The same for all."""
    return torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=1e-4)


def errors(evaluate: Callable[[Architecture], float]) -> Errors:
    """Of all networks."""
    return {architecture: evaluate(architecture) for architecture in SPACE.enumerate()}


def sampled(make: Callable[[int], PathSampler], divide: int = 1) -> Callable[[int, int], Errors]:
    """A training with a sampler of paths; one that draws several in a step takes as many times fewer steps."""

    def train(seed: int, steps: int) -> Errors:
        torch.manual_seed(seed)
        model = ToySupernet()
        SupernetTrainer(model, losses, optimizer(model), make(seed)).fit(Epochs(seed), steps // divide // EPOCH)
        return errors(lambda a: toy_loss(model, VALID, path=a))

    return train


def pada(reweight: bool) -> Callable[[int, int], Errors]:
    """Paths and data by gradient norms."""

    def train(seed: int, steps: int) -> Errors:
        torch.manual_seed(seed)
        model = ToySupernet()
        rows = ImportanceDataSampler(TRAIN, reweight=reweight, seed=seed)

        def norms(feedback):
            return output_gradient_norm(
                feedback.output, feedback.target, lambda o, y: nn.functional.cross_entropy(o, y, reduction="none")
            )

        sampler = ImportanceSampler(SPACE, reweight=reweight, seed=seed)
        trainer = SupernetTrainer(model, losses, optimizer(model), sampler, [DataImportance(rows, norms)])
        trainer.fit(Epochs(seed, rows=rows), steps // EPOCH)
        return errors(lambda a: toy_loss(model, VALID, path=a))

    return train


def enas(seed: int, steps: int) -> Errors:
    """Paths by a controller that is trained on validation batches."""
    torch.manual_seed(seed)
    model, controller = ToySupernet(), Controller(SPACE)
    few = batches(VALID, BATCH, seed)

    def reward(a: Architecture) -> float:
        return torch.tensor(-toy_loss(model, few[len(few) // 2], path=a)).exp().item()

    reinforce = ReinforceTrainer(controller, reward, samples=4, steps=4, lr=3.5e-3, seed=seed)
    trainer = SupernetTrainer(model, losses, optimizer(model), ControllerSampler(controller, seed), [reinforce])
    trainer.fit(Epochs(seed), steps // EPOCH)
    return errors(lambda a: toy_loss(model, VALID, path=a))


def tangle(kind: str) -> Callable[[int, int], Errors]:
    """Mixed weights; scores are minus the log-probabilities of the options."""

    def train(seed: int, steps: int) -> Errors:
        torch.manual_seed(seed)
        model, sampler = ToySupernet(), RelaxationSampler(SPACE, kind, seed=seed)
        logits = torch.optim.Adam(sampler.parameters(), lr=1e-2, betas=(0.5, 0.999), weight_decay=1e-3)
        trainer = BilevelTrainer(model, losses, optimizer(model), sampler, Epochs(seed, VALID), logits)
        trainer.fit(Epochs(seed), steps // 2 // EPOCH)  # a step of the logits costs as much as one of the weights
        probs = [p.log() for p in sampler.probabilities().values()]
        return errors(lambda a: -float(sum(p[i] for p, i in zip(probs, a, strict=True))))

    return train


def shifted(measure: Measure | None) -> Callable[[int, int], Errors]:
    """Paths by bins of the size, drawn evenly where there is no measure of how much training a bin needs."""

    def train(seed: int, steps: int) -> Errors:
        torch.manual_seed(seed)
        model = ToySupernet()
        bins = ComplexityBins(SPACE, model.num_parameters, BINS)
        sampler = ComplexityShiftSampler(
            bins, ArchitectureGenerator(SPACE), measure=measure or "hypergradient", seed=seed
        )
        update = [] if measure is None else [ShiftUpdate(sampler, Epochs(seed + 700), Epochs(seed + 800, VALID))]
        SupernetTrainer(model, losses, optimizer(model), sampler, update).fit(Epochs(seed), steps // EPOCH)
        return errors(lambda a: toy_loss(model, VALID, path=a))

    return train


def split(matched: bool, equal_total: bool) -> Callable[[int, int], Errors]:
    """Two supernets, of options that agree in their gradients, or of any."""

    def train(seed: int, steps: int) -> Errors:
        torch.manual_seed(seed)
        model = ToySupernet()
        tree = SupernetTree(model, optimizer(model))
        fit(tree.leaves[0], seed, int(SPLIT * steps))
        random = torch.Generator().manual_seed(seed)
        if matched:
            tree.split(losses, list(Epochs(seed + 500)) * 5, random)
        else:
            tree.leaves = random_split(tree.leaves[0], random)
        left = (1 - SPLIT) * steps / (2 if equal_total else 1)
        for leaf in tree.leaves:
            fit(leaf, seed, int(left))
        return errors(lambda a: toy_loss(tree.leaf_of(a).model, VALID, path=a))

    def fit(leaf: Leaf, seed: int, steps: int) -> None:
        SupernetTrainer(leaf.model, losses, leaf.optimizer, UniformSampler(leaf.space, seed)).fit(
            Epochs(seed), steps // EPOCH
        )

    return train


def random_split(leaf: Leaf, random: torch.Generator) -> list[Leaf]:
    """Two supernets of random groups of the options of a random choice."""
    names = list(SPACE)
    name = names[int(torch.randint(len(names), (), generator=random))]
    order = torch.randperm(len(SPACE[name]), generator=random).tolist()
    cut = 1 + int(torch.randint(len(order) - 1, (), generator=random))
    parts = []
    for space in SPACE.partition(name, [order[:cut], order[cut:]]):
        model, own = copy.deepcopy((leaf.model, leaf.optimizer))
        model.restrict(space)
        parts.append(Leaf(model, own, (name,)))
    return parts


METHODS: dict[str, Callable[[int, int], Errors]] = {
    "uniform (SPOS)": sampled(lambda seed: UniformSampler(SPACE, seed)),
    "sandwich": sampled(lambda seed: SandwichSampler(SPACE, 2, seed), 4),
    "PA&DA": pada(False),
    "PA&DA, unbiased": pada(True),
    "ENAS": enas,
    "TangleNAS, DrNAS": tangle("drnas"),
    "TangleNAS, DARTS": tangle("darts"),
    "TangleNAS, GDAS": tangle("gdas"),
    "ShiftNAS": shifted("hypergradient"),
    "ShiftNAS, gradient norm": shifted("grad_norm"),
    "bins drawn evenly": shifted(None),
    "gradient matching, equal total": split(True, True),
    "random split, equal total": split(False, True),
    "gradient matching, equal each": split(True, False),
}


def truth(number: int, known: Mapping[str, list[float]]) -> dict[Architecture, list[float]]:
    """Clean losses of all networks trained alone, one for each seed."""
    found = {}
    for architecture in tqdm(list(SPACE.enumerate()), desc="alone", unit="network"):
        values = list(known.get(str(architecture), []))[:number]
        for seed in range(len(values), number):
            torch.manual_seed(seed)
            network = ToySupernet().extract(architecture)
            train_alone(network, DATA, seed)
            values.append(toy_loss(network, CLEAN))
        found[architecture] = values
    return found


def main() -> None:
    """Train, rank, store, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--truth_seeds", type=int, default=4)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "search_ranking.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    before: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    alone = truth(arguments.truth_seeds, before.get("truth", {}))
    half = arguments.truth_seeds // 2
    record = {"command": "python benchmarks/search_ranking.py", "truth": {str(a): v for a, v in alone.items()}}
    record["ceiling"] = kendall_tau([mean(v[:half]) for v in alone.values()], [mean(v[half:]) for v in alone.values()])
    record["search_ranking"] = before.get("search_ranking", {})
    true, cost = {a: mean(v) for a, v in alone.items()}, {a: float(ToySupernet().num_parameters(a)) for a in alone}
    bins = ComplexityBins(SPACE, ToySupernet().num_parameters, BINS).members
    for name in arguments.methods:
        found = [METHODS[name](seed, arguments.steps) for seed in tqdm(range(arguments.seeds), desc=name)]
        reports = [rank_report(scores, true, cost) for scores in found]
        record["search_ranking"][name] = {
            "tau": [r.tau for r in reports],
            "regret": [r.regret for r in reports],
            "tau_cost": reports[0].tau_cost,
            "random_regret": reports[0].random_regret,
            "steps": arguments.steps,
        }
        if not name.startswith("TangleNAS"):  # whose scores are no losses
            record["search_ranking"][name]["worst_bin"] = [
                max(min(scores[a] for a in members) for members in bins) for scores in found
            ]
        write({**record, **environment(1)}, arguments.out)
    rows = [("training", "tau", "regret", "random regret", "worst bin")]
    for name, found in record["search_ranking"].items():
        tau, regret, worst = (
            f"{mean(found[key]):.3f} ± {stdev(found[key]):.3f}" if key in found else ""
            for key in ("tau", "regret", "worst_bin")
        )
        rows.append((name, tau, regret, f"{found['random_regret']:.3f}", worst))
    print(format_table(rows), f"\nceiling {record['ceiling']:.3f}, size alone {reports[0].tau_cost:.3f}")


if __name__ == "__main__":
    main()
