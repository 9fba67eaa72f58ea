"""Samplers: pure functions of a denoiser, from noise to data along dz/ds = (z - D(z; s)) / s.

Karras et al. 2022 (equation 1 with s(t) = 1, sigma(t) = t); Lu et al. 2022 for the multistep solver. States are [N, D]
tensors. A hook that is called with the state and its noise level after every change keeps what is to hold at every step:
mean-free positions, or a part that is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

#: Expected clean data [N, D] of noisy data [N, D] at a noise level, a number.
Denoise = Callable[[Tensor, float], Tensor]
#: What is to hold of a state at a noise level.
Keep = Callable[[Tensor, float], Tensor]
#: Standard normal noise [N, D], with mean-free positions.
Noise = Callable[[], Tensor]
#: Called after each step with its number.
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Churn:
    """Noise that Heun's method adds before a step (Karras et al. 2022, algorithm 2).

    Attributes:
        amount: S_churn, shared out over the steps; the level grows by at most a factor of sqrt(2).
        low: S_min, level below which none is added.
        high: S_max, level above which none is added.
        inflation: S_noise, standard deviation of the noise.
    """

    amount: float = 40.0
    low: float = 0.0
    high: float = math.inf
    inflation: float = 1.0

    def raised(self, sigma: float, num_steps: int) -> float:
        """The level that noise is added up to."""
        if not self.low <= sigma <= self.high:
            return sigma
        return sigma * (1 + min(self.amount / num_steps, math.sqrt(2) - 1))


def leave(state: Tensor, sigma: float) -> Tensor:
    """The hook that changes nothing."""
    return state


def heun(
    denoise: Denoise, start: Tensor, sigmas: Tensor, keep: Keep = leave, progress: Progress | None = None
) -> Tensor:
    """Heun's method, of second order, without noise (Karras et al. 2022, algorithm 1).

    Two evaluations a step, one in the last.

    Args:
        denoise: the denoiser.
        start: [N, D] noise at the level of the first step.
        sigmas: [n + 1] decreasing levels, the last of them zero.
        keep: what is to hold of the state.
        progress: called after each step.

    Shape:
        [N, D]
    """
    return heun_churn(denoise, start, sigmas, lambda: torch.zeros_like(start), Churn(0.0), keep, progress)


def heun_churn(
    denoise: Denoise,
    start: Tensor,
    sigmas: Tensor,
    noise: Noise,
    churn: Churn = Churn(),
    keep: Keep = leave,
    progress: Progress | None = None,
) -> Tensor:
    """Heun's method with noise added before each step (Karras et al. 2022, algorithm 2).

    Args:
        denoise: the denoiser.
        start: [N, D] noise at the level of the first step.
        sigmas: [n + 1] decreasing levels, the last of them zero.
        noise: draws the noise.
        churn: how much.
        keep: what is to hold of the state.
        progress: called after each step.

    Shape:
        [N, D]
    """
    levels = _levels(sigmas)
    state = keep(start, levels[0])
    for i, (sigma, following) in enumerate(pairwise(levels)):
        raised = churn.raised(sigma, len(levels) - 1)
        if raised > sigma:
            added = churn.inflation * math.sqrt(raised**2 - sigma**2)
            state = keep(state + added * noise(), raised)
        slope = (state - denoise(state, raised)) / raised
        moved = keep(state + (following - raised) * slope, following)
        if following > 0:
            second = (moved - denoise(moved, following)) / following
            moved = keep(state + (following - raised) * (slope + second) / 2, following)
        state = moved
        if progress is not None:
            progress(i)
    return state


def dpm(
    denoise: Denoise, start: Tensor, sigmas: Tensor, keep: Keep = leave, progress: Progress | None = None
) -> Tensor:
    """DPM-Solver++(2M), of second order with one evaluation a step: for few steps (Lu et al. 2022, algorithm 2).

    With t = -ln s and h the difference of t in a step: z <- (s'/s) z + (1 - e^-h) ((1 + 1/2r) D - 1/2r D_before), r the
    ratio of the step before to this one. The first and the last step are of first order.

    Args:
        denoise: the denoiser.
        start: [N, D] noise at the level of the first step.
        sigmas: [n + 1] decreasing levels, the last of them zero.
        keep: what is to hold of the state.
        progress: called after each step.

    Shape:
        [N, D]
    """
    levels = _levels(sigmas)
    state, before, step_before = keep(start, levels[0]), None, 0.0
    for i, (sigma, following) in enumerate(pairwise(levels)):
        clean = denoise(state, sigma)
        if following == 0:
            state = keep(clean, following)
        else:
            step = math.log(sigma / following)
            ahead = clean if before is None else clean + (clean - before) * step / (2 * step_before)
            state = keep((following / sigma) * state - math.expm1(-step) * ahead, following)
            step_before = step
        before = clean
        if progress is not None:
            progress(i)
    return state


def _levels(sigmas: Tensor) -> list[float]:
    levels = [float(s) for s in sigmas]
    ordered = all(a > b for a, b in pairwise(levels))
    if len(levels) < 2 or not ordered or levels[-1] != 0:
        raise ValueError(f"the noise levels {levels[:3]} ... {levels[-1:]} of the steps must decrease to zero.")
    return levels
