"""What is equivariance worth? MNIST superpixels: directions, distances alone, and one direction, which is no equivariance.

    python benchmarks/superpixel.py --mnist_folder DIR [--seeds 0] [--threads 2] [--variants NAME ...]

Trains `superpixel/quick` with the changes of each variant, one after another, tests on the images as given and on images
turned at random, and writes accuracies and times to --out (benchmarks/results/superpixel.json). Runs that are finished in
--folder are read, not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ponita.data import load_superpixels
from ponita.tasks.bench.record import environment, write
from ponita.tasks.bench.training import timed_fit
from ponita.tasks.pictures import format_table, read_metrics

NETWORK = "--model.init_args.model.init_args"
NO_AUGMENTATION = ["--model.init_args.augment", "false"]
ONE_DIRECTION = [f"{NETWORK}.num_orientations", "1"]
EIGHT_DIRECTIONS = [f"{NETWORK}.num_orientations", "8"]
#: Changes of superpixel/quick. One direction for all points is a fixed frame: translations remain, rotations do not.
#: On R2 every rotation leaves every number the same, so that augmentation changes nothing.
VARIANTS = {
    "R2xS1, augmented": [],
    "R2xS1": NO_AUGMENTATION,
    "R2xS1 with 8 directions": [*EIGHT_DIRECTIONS, *NO_AUGMENTATION],
    "R2": [f"{NETWORK}.space", "R2", f"{NETWORK}.kernel", "mlp", *NO_AUGMENTATION],
    "one direction, augmented": ONE_DIRECTION,
    "one direction": [*ONE_DIRECTION, *NO_AUGMENTATION],
}


def train(variant: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One training run in a process of its own: accuracies, and what it cost.

    Args:
        variant: name among `VARIANTS`.
        seed: of everything.
        arguments: of the command.
    """
    folder = Path(arguments.folder) / f"{variant.replace(', ', '-').replace(' ', '-')}-{seed}"
    words = [*VARIANTS[variant], *_data(arguments), "--seed_everything", str(seed)]
    cost = timed_fit(folder, "superpixel/quick", words, arguments.threads)
    metrics = read_metrics(folder / "metrics.csv")
    accuracies = {name: list(metrics[f"test/{name}"].values())[-1] for name in ("accuracy", "accuracy_rotated")}
    epochs = 1 + max(metrics["train/loss"])
    return {"variant": variant, "seed": seed, "epochs": epochs, **accuracies, **cost}


def _data(arguments: argparse.Namespace) -> list[str]:
    words = ["--data.init_args.root", arguments.root]
    return [*words, *(["--data.init_args.mnist_folder", arguments.mnist_folder] if arguments.mnist_folder else [])]


def main() -> None:
    """Train all, print a table, store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data/mnist")
    parser.add_argument("--mnist_folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--folder", default="runs/superpixel")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "superpixel.json")
    arguments = parser.parse_args()

    # Once, so that no training is charged for it.
    data = load_superpixels(arguments.root, arguments.mnist_folder, radius=7.0)
    runs = [train(variant, seed, arguments) for variant in arguments.variants for seed in arguments.seeds]
    rows = [("variant, seed", "accuracy", "turned at random", "minutes")]
    for run in runs:
        cells = (f"{run['accuracy']:.2%}", f"{run['accuracy_rotated']:.2%}", f"{run['wall_seconds'] / 60:.1f}")
        rows.append((f"{run['variant']}, {run['seed']}", *cells))
    print(format_table(rows))
    record = {
        "command": f"python benchmarks/superpixel.py --mnist_folder DIR --threads {arguments.threads}",
        "config": "superpixel/quick",
        "data": data["train"].source,
        "variants": {name: " ".join(VARIANTS[name]) for name in arguments.variants},
        "runs": runs,
        **environment(arguments.threads),
    }
    write(record, arguments.out)


if __name__ == "__main__":
    main()
