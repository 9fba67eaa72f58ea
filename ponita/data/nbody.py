"""The charged-particle N-body data set, generated where it is used and kept in a cache file.

Source: Satorras, Hoogeboom, Welling, "E(n) Equivariant Graph Neural Networks" (2021), arXiv 2102.09844, after
Kipf et al., "Neural Relational Inference for Interacting Systems" (2018), arXiv 1802.04687. Units are those of the
simulation: unit charges, masses and coupling; the frames 30 and 40 of the default protocol are one unit of time apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ponita.data.atomic import replacing
from ponita.data.nbody_simulation import (
    InitialStates,
    Trajectories,
    count_frames,
    draw_initial_states,
    integrate,
    resolve_frames,
    simulate,
)
from ponita.data.npz import read_npz

__all__ = [
    "SPLITS",
    "InitialStates",
    "Trajectories",
    "draw_initial_states",
    "integrate",
    "load_nbody",
    "simulate",
]

SPLITS = ("train", "valid", "test")
FIELDS = ("positions", "velocities", "charges")


def load_nbody(
    root: Path | str,
    num_particles: int = 5,
    sizes: Sequence[int] = (3000, 2000, 2000),
    drawn: Sequence[int] = (10000, 2000, 2000),
    seed: int = 43,
    frames: Sequence[int] | None = (30, 40),
    num_steps: int = 5000,
    save_every: int = 100,
    progress: bool = True,
) -> dict[str, Trajectories]:
    """Returns the training, validation and test simulations, generating them at the first call.

    The defaults are the published protocol: the three splits are drawn one after another from one random stream,
    and the first 3000 of the 10000 training simulations are used. All are drawn, only those used are integrated.
    The bits of the numbers depend on the machine's BLAS and on its `power` function, as those of the published
    program do; close encounters amplify such differences.

    Args:
        root: Folder of the cache file, whose name is made of the parameters; created if absent.
        num_particles: Number of particles N of a system.
        sizes: Number of simulations returned of each split.
        drawn: Number of simulations drawn for each split.
        seed: Seed of the random stream.
        frames: Saved frames to return, each in `0 .. num_steps / save_every - 2`; None for all.
        num_steps: Number of time steps, of 0.001 each.
        save_every: Frame `k` is the state after `save_every * (k + 1)` steps.
        progress: Show progress bars while generating.

    Returns:
        Trajectories under the keys "train", "valid" and "test".

    Raises:
        ValueError: If a split asks for more than is drawn, a number is out of range, or the cache file is damaged.
    """
    sizes, drawn = _check_sizes(sizes, drawn)
    if num_particles < 1:
        raise ValueError(f"num_particles={num_particles} must be at least 1")
    parameters = {
        "num_particles": int(num_particles),
        "seed": int(seed),
        "sizes": sizes,
        "drawn": drawn,
        "frames": list(resolve_frames(frames, count_frames(num_steps, save_every))),
        "num_steps": int(num_steps),
        "save_every": int(save_every),
    }
    path = Path(root) / _file_name(parameters)
    if path.exists():
        return _read(path, parameters)
    splits = _generate(**parameters, progress=progress)
    _write(path, splits, parameters)
    return splits


def _check_sizes(sizes: Sequence[int], drawn: Sequence[int]) -> tuple[list[int], list[int]]:
    if len(sizes) != 3 or len(drawn) != 3:
        raise ValueError(f"sizes={tuple(sizes)} and drawn={tuple(drawn)} must have three numbers: train, valid, test")
    for name, size, available in zip(SPLITS, sizes, drawn, strict=True):
        if not 1 <= size <= available:
            raise ValueError(
                f"the {name} split asks for {size} simulations of {available} drawn; "
                "ask for at least 1 and no more than are drawn, or draw more"
            )
    return [int(size) for size in sizes], [int(number) for number in drawn]


def _generate(
    num_particles: int,
    seed: int,
    sizes: Sequence[int],
    drawn: Sequence[int],
    frames: Sequence[int],
    num_steps: int,
    save_every: int,
    progress: bool,
) -> dict[str, Trajectories]:
    rng = np.random.RandomState(seed)
    num_frames = count_frames(num_steps, save_every)
    splits = {}
    for name, size, number in zip(SPLITS, sizes, drawn, strict=True):
        states = draw_initial_states(number, rng, num_particles, num_frames)
        splits[name] = integrate(states[:size], num_steps, save_every, frames, progress)
    return splits


def _file_name(parameters: dict[str, int | list[int]]) -> str:
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:8]
    sizes = "-".join(str(size) for size in parameters["sizes"])
    return f"nbody_particles{parameters['num_particles']}_seed{parameters['seed']}_{sizes}_{digest}.npz"


def _write(path: Path, splits: dict[str, Trajectories], parameters: dict[str, int | list[int]]) -> None:
    arrays = {f"{name}_{field}": getattr(part, field) for name, part in splits.items() for field in FIELDS}
    with replacing(path) as temporary:
        np.savez(temporary, parameters=np.array(json.dumps(parameters, sort_keys=True)), **arrays)


def _read(path: Path, parameters: dict[str, int | list[int]]) -> dict[str, Trajectories]:
    arrays = read_npz(path, "delete it and it is generated again")
    if str(arrays.get("parameters")) != json.dumps(parameters, sort_keys=True) or not _has_shapes(arrays, parameters):
        raise ValueError(f"{path} does not hold the simulations its name promises; delete it and it is generated again")
    return {name: Trajectories(*(arrays[f"{name}_{field}"] for field in FIELDS)) for name in SPLITS}


def _has_shapes(arrays: dict[str, np.ndarray], parameters: dict[str, int | list[int]]) -> bool:
    particles, num_frames = parameters["num_particles"], len(parameters["frames"])
    for name, size in zip(SPLITS, parameters["sizes"], strict=True):
        motion = (size, num_frames, particles, 3)
        for field, shape in zip(FIELDS, (motion, motion, (size, particles)), strict=True):
            array = arrays.get(f"{name}_{field}")
            if array is None or array.shape != shape or array.dtype != np.float64:
                return False
    return True
