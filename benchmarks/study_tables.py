"""Sections of docs/benchmarks.md about accuracy studies: properties, conditional generation, fine-tuning, energy weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

Rows = list[tuple[str, ...]]
Record = Mapping[str, Any]


def properties(record: Record) -> Iterator[str | Rows]:
    """Gap and U0 of QM9, beside a mean predictor and SchNet."""
    yield (
        "Same molecules, split, loss and averaging of weights; PyG's SchNet was given the processor time that ours took. "
        "*Mean* predicts the mean of the training set, *atoms only* a sum over atoms fitted to it.\n"
    )
    rows = [("part", "network", "mean", "atoms only", "MAE", "parameters", "epochs", "CPU minutes")]
    for part, found in record["parts"].items():
        numbers = ("-" if found[k] is None else f"{found[k]:.1f} {found['unit']}" for k in ("mean", "atoms", "model"))
        cost = (f"{found['parameters']:,}", str(found["epochs"]), f"{found['cpu_seconds'] / 60:.0f}")
        rows.append((part, found["network"], *numbers, *cost))
    yield rows


def conditional(record: Record) -> Iterator[str | Rows]:
    """Gaps of molecules that were asked for by their gap."""
    yield (
        "Molecules asked for by their HOMO-LUMO gap; those that are whole by the distance table are given a gap by `property/quick`. "
        "Guidance 0 asks for nothing, 1 for the gap as trained, more exaggerates it.\n"
    )
    rows = [("guidance", "gap asked for (Ha)", "whole", "mean gap (Ha)", "spread (Ha)", "mean error (Ha)")]
    for found in record["conditional"]:
        asked, *numbers = (f"{found[key]:.3f}" if key in found else "-" for key in ("gap", "mean", "spread", "error"))
        rows.append((f"{found['guidance']:g}", asked, f"{found['whole']}/{found['made']}", *numbers))
    yield rows


def finetune(record: Record) -> Iterator[str | Rows]:
    """Adapting a potential of seven molecules to an eighth."""
    yield (
        f"A potential of seven molecules of rMD17 (`potential/rmd17_seven`) adapted to {record['molecule']}: mean and standard deviation over three "
        "seeds (official splits), the learning rate the best of three on validation frames, the same steps and batches for every "
        "method. *Stored* is the adapter's file, or the weights that trained. Differences within the deviations rank nothing.\n"
    )
    rows = [("frames", "method", "numbers that train", "stored (kB)", "CPU s", "rate", "E MAE (meV)", "F MAE (meV/Å)")]
    for frames, methods in record["finetune"].items():
        for name, found in methods.items():
            errors = (f"{value:.1f} ± {spread:.1f}" for value, spread in (found["energy_mae"], found["forces_mae"]))
            cost = (f"{found['trainable']:,}", f"{found['bytes'] / 1000:.0f}", f"{found['cpu_seconds']:.0f}")
            rows.append((frames, name, *cost, f"{found['rate']:g}", *errors))
    yield rows


def energy_weights(record: Record) -> Iterator[str | Rows]:
    """What the weight of energies does to the learning of forces in crystals."""
    yield "`potential/mlearn` with other weights of energies; the test errors.\n"
    rows = [("weight of energies", "E MAE (meV/atom)", "F MAE (meV/Å)", "CPU minutes")]
    for name, found in record["energy_weights"].items():
        errors = (f"{found[key]:.1f}" for key in ("energy_per_atom_mae", "forces_mae"))
        rows.append((name, *errors, f"{found['cpu_seconds'] / 60:.0f}"))
    yield rows


def search_ranking(record: Record) -> Iterator[str | Rows]:
    """How supernets rank networks whose truth is known."""
    first = next(iter(record["search_ranking"].values()))
    seeds = len(first["tau"])
    yield (
        "The 108 networks of `ponita.sharing.search.testbed`, each also trained alone; Kendall's tau of the scores that a supernet gives them "
        f"with the truth, and by how much the network that it likes best lies above the best (mean and deviation of {seeds} seeds, "
        f"{first['steps']} forward passes of weights each). The ceiling, the truth of one half of its seeds against the other, is "
        f"{record['ceiling']:.3f}; size alone has {first['tau_cost']:.3f}, a random network a regret of {first['random_regret']:.3f}. Worst bin: "
        "the largest, over five bins of the size, of the least validation loss with the weights of the supernet. Gain of tau and of regret: mean difference "
        "from the first row, seed by seed, with the half-width of its 90 % interval (Student); all networks are evaluated by each.\n"
    )
    rows = [("training", "tau", "gain of tau", "regret", "gain of regret", "worst bin")]
    for name, found in record["search_ranking"].items():
        values = (("tau", True), ("regret", True), ("worst_bin", False))
        cells = [
            text for key, compared in values for text in _compared(found.get(key), first[key] if compared else None)
        ]
        rows.append((name, *cells))
    yield rows


def _compared(values: list[float] | None, base: list[float] | None) -> Iterator[str]:
    """Mean and deviation; where there is a base, also the paired difference with a 90 % interval."""
    yield "" if values is None else f"{mean(values):.3f} ± {stdev(values):.3f}"
    if base is not None:
        differences = [a - b for a, b in zip(values, base, strict=True)]
        half = student.ppf(0.95, len(base) - 1) * stdev(differences) / len(base) ** 0.5
        yield f"{mean(differences):+.3f} ± {half:.3f}" if values is not base else ""


def search_distillation(record: Record) -> Iterator[str | Rows]:
    """Whether supernets of parts of a space learn a teacher's relations better than one of all."""
    yield (
        "Ethanol: relation losses of AutoDistil on structures that nothing was trained on, means over the networks of each part of the space, times a "
        f"thousand. A supernet of the whole space has {record['steps']} steps, those of the parts as many each, or all together. Spearman: rank "
        "correlation of that loss, which needs no labels, with the error of a ridge regression of energies on the features.\n"
    )
    first = record["search_distillation"][0]
    rows = [("seed", "training", *(f"part {k + 1}" for k in range(len(first["parts"]))), "Spearman")]
    for row in record["search_distillation"]:
        for name in (key for key in row if "supernet" in key):
            rank = f"{row['spearman']:.2f}" if name == "one supernet" else ""
            rows.append((str(row["seed"]), name, *(f"{1e3 * loss:.3f}" for loss in row[name]), rank))
    yield rows


def search_study(record: Record) -> Iterator[str | Rows]:
    """Potentials that searches chose below three latencies."""
    yield (
        "Ethanol, one thread: the network that each method chose below the latency (energies and forces of 20 structures) of three networks sized "
        "by hand, trained on alone for ten epochs; those sized by hand are trained for the time of a search too. Sizes are "
        "channels, layers, widening, basis, degree, cut-off, orientations. One seed.\n"
    )
    keys = ("hidden_channels", "num_layers", "widening", "basis_channels", "degree", "cutoff", "num_orientations")
    rows = [("method", "latency of", "ms", "test F MAE (meV/Å)", "search CPU s", "sizes")]
    for name, found in record["search_study"].items():
        for one in found:
            numbers = (f"{one['ms']:.1f}", f"{one['test']:.1f}", f"{one['search_seconds']:.0f}")
            rows.append((name, one["limit"], *numbers, " ".join(f"{one[key]:g}" for key in keys)))
    yield rows


#: By the key of a record that holds its numbers.
STUDIES = {
    "parts": properties,
    "conditional": conditional,
    "finetune": finetune,
    "energy_weights": energy_weights,
    "search_ranking": search_ranking,
    "search_distillation": search_distillation,
    "search_study": search_study,
}
