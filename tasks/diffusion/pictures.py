"""The picture of bond lengths and angles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from ponita.data.chemistry import angles, lengths, wasserstein
from ponita.data.molecules import Molecules
from ponita.tasks.pictures import figure


def draw_geometry(molecules: Molecules, reference: Molecules, path: Path, kinds: int = 4) -> None:
    """Distributions of the commonest bond lengths, then angles, of two sets of molecules, with their distance.

    Args:
        molecules: such as samples; of H, C, N, O and F.
        reference: such as training molecules; their commonest kinds are drawn.
        path: PNG to write.
        kinds: panels of bonds, and as many of angles.

    Raises:
        ValueError: for a reference without bonds, and for other elements.
    """
    panels = []
    for measure, unit in ((lengths, "Å"), (angles, "°")):
        ours, theirs = measure(molecules), measure(reference)
        common = sorted(theirs, key=lambda kind: -len(theirs[kind]))[:kinds]
        panels += [(kind, ours.get(kind, np.zeros(0)), theirs[kind], unit) for kind in common]
    if not panels:
        raise ValueError("the reference has no bonds to draw; expected molecules with positions in Å.")
    with figure(path, columns=len(panels), width=2.6, height=2.9) as axes:
        for axis, panel in zip(axes, panels, strict=True):
            _draw(axis, *panel)
        axes[0].legend(frameon=False, fontsize=7)


def _draw(axis: Axes, kind: str, ours: np.ndarray, theirs: np.ndarray, unit: str) -> None:
    """Densities on common bins over the middle 99.8 % of both."""
    both = np.concatenate([ours, theirs])
    low, high = np.quantile(both, [0.001, 0.999])
    bins = np.linspace(low, max(high, low + 1e-3), 50)
    styles = (
        (theirs, {"color": "0.75", "label": "reference"}),
        (ours, {"histtype": "step", "color": "C3", "linewidth": 1.3, "label": "samples"}),
    )
    for values, style in styles:
        if ((values >= bins[0]) & (values <= bins[-1])).any():  # a density of nothing is 0 / 0
            axis.hist(values, bins, density=True, **style)
    axis.set(title=kind, xlabel=f"{unit}   (W = {wasserstein(ours, theirs):.2g} {unit})", yticks=[])
