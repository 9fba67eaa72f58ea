"""Sections of docs/benchmarks.md about accuracy studies: properties, conditional generation, fine-tuning, energy weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

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


#: By the key of a record that holds its numbers.
STUDIES = {
    "parts": properties,
    "conditional": conditional,
    "finetune": finetune,
    "energy_weights": energy_weights,
}
