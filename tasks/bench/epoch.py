"""An epoch of the published rMD17 training (S3 of the benchmark plan), from a few of its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ponita.data.rmd17 import MOLECULES, load_rmd17
from ponita.tasks.bench import gate, geometry, variants
from ponita.tasks.bench.cases import Case, molecules
from ponita.tasks.bench.measure import interleaved
from ponita.tasks.bench.variants import Variant

FRAMES, BATCH = 950, 5  # training frames of a split less fifty for validation, and the published batch
ELEMENTS = (1, 6, 7, 8)


def measure(names: Sequence[str], wanted: tuple[str, ...], repeats: int, root: Path, device: str) -> dict[str, Any]:
    """Time steps of the training as it runs: frames, edges, loss on energies and forces, gradients, Adam.

    Args:
        names: of molecules; those found in `root` where empty.
        wanted: names of variants; the eager reference and the library's own choice of kernels where empty.
        repeats: steps that are timed, each on another batch.
        root: folder of rMD17.
        device: to train on.

    Returns:
        Part of a record; its seconds are those of an epoch, by variant and molecule.
    """
    num_steps = FRAMES // BATCH
    part: dict[str, Any] = {
        "unit": "s",
        "about": f"an epoch of {FRAMES} frames in batches of {BATCH}, from {repeats} measured steps of {num_steps}",
        "sizes": {},
        "notes": {},
        "skipped": {},
        "errors": {},
        "failed": {},
        "seconds": {},
    }
    for name in names or found(root):
        frames, numbers, about = geometry.molecule(name, BATCH * (repeats + 1), root, torch.Generator().manual_seed(0))
        batches = frames[torch.randperm(len(frames), generator=torch.Generator().manual_seed(0))].split(BATCH)
        case = molecules(name, about, batches[0], numbers, ELEMENTS).to(device)
        made, part["skipped"] = variants.build(case, wanted or variants.fastest(case))
        made = {label: variant for label, variant in made.items() if variant.kind not in ("tabulated", "peer")}
        errors, failed = gate.check(case, made)
        part["errors"][name] = errors
        part["failed"] |= {f"{label}, {name}": reason for label, reason in failed.items()}
        works = {label: steps(v, batches, numbers, device) for label, v in made.items() if label not in failed}
        for label, timing in interleaved(works, repeats).items():
            part["seconds"].setdefault(label, {})[name] = [num_steps * s for s in timing.seconds]
    return part


def steps(variant: Variant, batches: Sequence[Tensor], numbers: Tensor, device: str) -> Callable[[], None]:
    """A function that does the next step of a training each time it is called.

    Args:
        variant: what to train.
        batches: positions [G, n, 3] of each step's frames.
        numbers: [n] atomic numbers.
        device: to train on.
    """
    optimizer = torch.optim.Adam(variant.model.parameters(), lr=5e-4)
    waiting = iter(batches)

    def step() -> None:
        case: Case = molecules("", "", next(waiting), numbers, ELEMENTS).to(device)
        variant.calls.loss(variant.model, variant.prepare(case.inputs)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def found(root: Path) -> list[str]:
    """The molecules of rMD17 in a folder; one for which random points stand in where there are none."""
    names = []
    for name in MOLECULES:
        try:
            load_rmd17(root, name, download=False)
            names.append(name)
        except FileNotFoundError:
            continue
    return names or ["aspirin"]
