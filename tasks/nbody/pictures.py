"""Pictures of the charged-particle task."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.axes import Axes
from torch import Tensor

from ponita.tasks.nbody.data import NBodySet
from ponita.tasks.pictures import draw_parity, figure

COLOURS = {1: "tab:red", -1: "tab:blue"}


def draw_trajectories(path: Path, data: NBodySet, predicted: Tensor, duration: float, num_systems: int = 3) -> None:
    """True paths with predicted end points for the first systems, and predicted against true displacements.

    Args:
        path: PNG to write.
        data: the test set; its positions hold the frames between input and target.
        predicted: [S, n, 3] positions at the target frame.
        duration: time from input to target.
        num_systems: how many systems to draw.
    """
    num_systems = min(num_systems, len(data))
    with figure(path, columns=num_systems + 1) as axes:
        for index, axis in enumerate(axes[:-1]):
            _draw_system(axis, data, predicted, index, duration)
        axes[0].legend(frameon=False, fontsize=7)
        start = data.positions[:, 0]
        shown = torch.randperm(start.numel(), generator=torch.Generator().manual_seed(0))[:5000]
        true, ours = ((end - start).flatten()[shown] for end in (data.positions[:, -1], predicted))
        draw_parity(axes[-1], true, ours, "displacement", "length units")


def _draw_system(axis: Axes, data: NBodySet, predicted: Tensor, index: int, duration: float) -> None:
    frames, charges = data.positions[index], data.charges[index]
    linear = frames[0] + duration * data.velocities[index]
    for particle in range(frames.shape[1]):
        colour, first = COLOURS[int(charges[particle])], particle == 0
        true, end = frames[:, particle], predicted[index, particle]
        axis.plot(true[:, 0], true[:, 1], color=colour, linewidth=1.2, label="true path" if first else None)
        axis.plot(*true[0, :2], ".", color=colour, markersize=5)
        axis.plot(*true[-1, :2], "o", mfc="none", color=colour, label="true end" if first else None)
        axis.plot(*end[:2], "x", color="black", markersize=7, label="predicted end" if first else None)
        ends = torch.stack([frames[0, particle], linear[particle]])
        axis.plot(ends[:, 0], ends[:, 1], ":", color="0.6", linewidth=1, label="linear motion" if first else None)
    axis.set(title=f"test system {index} (charge: red +, blue -)", xlabel="x", ylabel="y", aspect="equal")
    axis.set_adjustable("datalim")
