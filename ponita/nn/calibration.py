"""Explicit calibration of the kernels' scale, in place of a first forward that changes the weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ponita.nn.conv import FiberBundleConv, PointCloudConv


def calibrate(model: nn.Module, batch: Any) -> dict[str, dict[str, float]]:
    """Rescale every convolution of a model so that it keeps the standard deviation of its input on one batch.

    Layers are calibrated in the order they run, each on the output of the calibrated layers before it. Nothing is
    random: the same batch gives the same weights on every rank.

    Args:
        model: any module that holds `FiberBundleConv` or `PointCloudConv`.
        batch: a mapping of the model's arguments, or an object (such as a PyG batch) with attributes of their names.

    Returns:
        The factors applied, by layer name and kernel.

    Raises:
        ValueError: if the model has no convolution, or the batch leaves one without signal (no edges).
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, FiberBundleConv | PointCloudConv)}
    if not layers:
        raise ValueError(f"{type(model).__name__} holds no FiberBundleConv or PointCloudConv to calibrate.")
    report: dict[str, dict[str, float]] = {}

    def hook(name: str):
        return lambda module, inputs: report.update({name: module.calibrate(*inputs)})

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            model(**_arguments(model, batch))
    finally:
        for handle in handles:
            handle.remove()
    return report


def _arguments(model: nn.Module, batch: Any) -> dict[str, Any]:
    """The entries of a batch that the model's forward takes."""
    if isinstance(batch, Mapping):
        return dict(batch)
    names = inspect.signature(model.forward).parameters
    return {name: getattr(batch, name) for name in names if getattr(batch, name, None) is not None}
