"""Simulation of charged particles with the arithmetic of the published N-body benchmark."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

TIME_STEP = 0.001
MAX_FORCE = 0.1 / TIME_STEP
BOX_HALF_WIDTH = 5.0
INITIAL_SPEED = 0.5


@dataclass(frozen=True, eq=False)
class InitialStates:
    """States of S independent systems of N particles at time zero.

    Attributes:
        positions: Positions, float64 `[S, N, 3]`.
        velocities: Velocities, float64 `[S, N, 3]`.
        charges: Charges, -1 or +1, float64 `[S, N]`.
    """

    positions: np.ndarray
    velocities: np.ndarray
    charges: np.ndarray

    def __len__(self) -> int:
        return len(self.charges)

    def __getitem__(self, part: slice) -> InitialStates:
        return InitialStates(self.positions[part], self.velocities[part], self.charges[part])


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Saved frames of S simulations of N particles; F is the number of frames kept.

    Attributes:
        positions: Positions, float64 `[S, F, N, 3]`.
        velocities: Velocities before the kick at the saved positions, float64 `[S, F, N, 3]`.
        charges: Charges, -1 or +1, float64 `[S, N]`.
    """

    positions: np.ndarray
    velocities: np.ndarray
    charges: np.ndarray

    def __len__(self) -> int:
        return len(self.charges)


def count_frames(num_steps: int, save_every: int) -> int:
    """Returns the number of frames that a simulation of `num_steps` steps saves.

    Args:
        num_steps: Number of time steps, the initial kick included; a multiple of `save_every`.
        save_every: A frame is saved after every so many steps; frame `k` is step `save_every * (k + 1)`.

    Raises:
        ValueError: If `num_steps` is not at least two times `save_every`, or not a multiple of it.
    """
    if save_every < 1 or num_steps < 2 * save_every or num_steps % save_every:
        raise ValueError(
            f"num_steps={num_steps} and save_every={save_every} do not fit: num_steps must be a multiple of "
            "save_every (at least 1) and at least twice as large, otherwise no frame is saved"
        )
    return num_steps // save_every - 1


def resolve_frames(frames: Sequence[int] | None, num_frames: int) -> tuple[int, ...]:
    """Returns the frames to keep as a tuple: all of them for None.

    Raises:
        ValueError: If `frames` is empty or names a frame outside `0 .. num_frames - 1`.
    """
    if frames is None:
        return tuple(range(num_frames))
    if not frames or any(not 0 <= frame < num_frames for frame in frames):
        raise ValueError(
            f"frames={tuple(frames)} must name at least one frame, each in 0..{num_frames - 1} "
            f"({num_frames} frames are saved); choose other frames or more steps"
        )
    return tuple(int(frame) for frame in frames)


def reflect_in_box(positions: np.ndarray, velocities: np.ndarray, half_width: float = BOX_HALF_WIDTH) -> None:
    """Reflects, in place, what lies outside the cube `[-half_width, half_width]^3`, and turns it inwards.

    Args:
        positions: Coordinates of any shape; changed in place.
        velocities: The velocity of each coordinate, same shape; changed in place.
        half_width: Half the edge of the cube.
    """
    over = positions > half_width
    positions[over] = 2 * half_width - positions[over]
    velocities[over] = -np.abs(velocities[over])
    under = positions < -half_width
    positions[under] = -2 * half_width - positions[under]
    velocities[under] = np.abs(velocities[under])


def draw_initial_states(
    num: int, rng: np.random.RandomState, num_particles: int = 5, num_frames: int = 49
) -> InitialStates:
    """Draws the initial states of `num` systems, consuming all that the published protocol draws for them.

    Charges are -1 or +1 with equal probability, positions are normal with standard deviation
    `(N / 5) ** (1 / 3)` and reflected in a box, velocities have a uniformly random direction and speed 0.5
    (Satorras et al., "E(n) Equivariant Graph Neural Networks", 2021, after Kipf et al., "Neural Relational
    Inference", 2018). The protocol also draws observation noise of variance zero for each frame: it is drawn
    and dropped, so that the next system sees the same stream.

    Args:
        num: Number of systems S.
        rng: Source of randomness, advanced by the draws.
        num_particles: Number of particles N.
        num_frames: Number of frames that the simulation of one system would save (`count_frames`).

    Raises:
        ValueError: If `num` is negative or `num_particles` below one.
    """
    if num < 0 or num_particles < 1:
        raise ValueError(f"num={num} must be at least 0 and num_particles={num_particles} at least 1")
    charges = np.empty((num, num_particles))
    positions, velocities = np.empty((2, num, 3, num_particles))
    for k in range(num):
        charges[k] = rng.choice([-1.0, 0.0, 1.0], size=num_particles, p=[0.5, 0.0, 0.5])
        positions[k] = rng.randn(3, num_particles)
        velocities[k] = rng.randn(3, num_particles)
        rng.randn(2 * num_frames * 3 * num_particles)
    positions *= (num_particles / 5.0) ** (1 / 3)
    speeds = np.sqrt((velocities**2).sum(axis=1, keepdims=True))
    velocities = velocities * INITIAL_SPEED / speeds
    reflect_in_box(positions, velocities)
    return InitialStates(positions.transpose(0, 2, 1), velocities.transpose(0, 2, 1), charges)


def integrate(
    states: InitialStates,
    num_steps: int = 5000,
    save_every: int = 100,
    frames: Sequence[int] | None = None,
    progress: bool = False,
    *,
    chunk_size: int | None = None,
    num_threads: int | None = None,
) -> Trajectories:
    """Integrates the motion of every system from its initial state.

    The force on particle i is `sum_j q_i q_j r_ij / |r_ij|^3`, `r_ij = x_i - x_j`, each component clipped to +-100.
    The scheme is symplectic Euler with time step 0.001: a kick at the initial positions, then drifts and kicks in turn.
    Every floating-point operation is that of the published program, in its order, so that on the same
    machine with the same numpy the result has the same bits, whatever the chunk size and number of threads.

    Args:
        states: Initial states of S systems of N particles.
        num_steps: Number of time steps of a full simulation.
        save_every: Frame `k` is the state after `save_every * (k + 1)` drifts.
        frames: Frames to keep, in the order wanted; None for all. Steps after the last of them are not computed.
        progress: Show a progress bar.
        chunk_size: Number of systems that one thread integrates together; None for what fits the processor's cache.
        num_threads: Number of threads; None for one per processor.

    Raises:
        ValueError: If steps and frames do not fit (see `count_frames`, `resolve_frames`), or a size is below one.
    """
    kept = resolve_frames(frames, count_frames(num_steps, save_every))
    num_threads = (os.cpu_count() or 1) if num_threads is None else num_threads
    num, num_particles = states.charges.shape
    chunk_size = _choose_chunk_size(num, num_particles, num_threads) if chunk_size is None else chunk_size
    if chunk_size < 1 or num_threads < 1:
        raise ValueError(f"chunk_size={chunk_size} and num_threads={num_threads} must be at least 1")
    positions, velocities = np.empty((2, num, len(kept), num_particles, 3))

    def run(start: int) -> None:
        part = slice(start, start + chunk_size)
        _integrate_chunk(states[part], save_every, kept, positions[part], velocities[part])

    starts = range(0, num, chunk_size)
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in tqdm(pool.map(run, starts), total=len(starts), desc="simulating", disable=not progress):
            pass
    return Trajectories(positions, velocities, states.charges.copy())


def simulate(
    num_simulations: int,
    rng: np.random.RandomState,
    num_particles: int = 5,
    num_steps: int = 5000,
    save_every: int = 100,
    frames: Sequence[int] | None = None,
    progress: bool = False,
) -> Trajectories:
    """Draws and integrates `num_simulations` systems of charged particles.

    Args:
        num_simulations: Number of systems S.
        rng: Source of randomness; advanced as by the published program, whichever frames are kept.
        num_particles: Number of particles N.
        num_steps: Number of time steps of a full simulation.
        save_every: Frame `k` is the state after `save_every * (k + 1)` drifts.
        frames: Frames to keep; None for all.
        progress: Show a progress bar.

    Raises:
        ValueError: See `draw_initial_states` and `integrate`.
    """
    num_frames = count_frames(num_steps, save_every)
    kept = resolve_frames(frames, num_frames)
    states = draw_initial_states(num_simulations, rng, num_particles, num_frames)
    return integrate(states, num_steps, save_every, kept, progress)


def _choose_chunk_size(num: int, num_particles: int, num_threads: int) -> int:
    """Returns a chunk size that fits the cache, keeps the threads equally busy and numpy's overhead small."""
    most = min(1024, max(16, 100_000 // num_particles**2))
    rounds = -(-num // (most * max(num_threads, 1)))
    return max(-(-num // max(rounds * num_threads, 1)), most // 4)


def _integrate_chunk(
    states: InitialStates, save_every: int, frames: tuple[int, ...], positions: np.ndarray, velocities: np.ndarray
) -> None:
    """Integrates the systems together and writes the frames into `positions` and `velocities` `[S, F, N, 3]`."""
    x = np.ascontiguousarray(states.positions.transpose(2, 1, 0))
    v = np.ascontiguousarray(states.velocities.transpose(2, 1, 0))
    forces, step = _Forces(states.charges), np.empty_like(x)
    for i in range(1, save_every * (max(frames) + 1) + 1):
        np.multiply(forces(x), TIME_STEP, out=step)
        np.add(v, step, out=v)
        np.multiply(v, TIME_STEP, out=step)
        np.add(x, step, out=x)
        if i % save_every == 0:
            for slot, frame in enumerate(frames):
                if save_every * (frame + 1) == i:
                    positions[:, slot], velocities[:, slot] = x.transpose(2, 1, 0), v.transpose(2, 1, 0)


class _Forces:
    """Clipped forces `[3, N, S]` at positions `[3, N, S]`; systems last, so that every operation runs along them."""

    def __init__(self, charges: np.ndarray) -> None:
        num, n = charges.shape
        self.first, self.second = np.triu_indices(n, 1)
        self.products = np.ascontiguousarray((charges[:, self.first] * charges[:, self.second]).T)
        self.rows, self.dots = np.empty((num, 3, n)), np.empty((num, n, n))
        self.squares, self.norms = np.empty((3, n, num)), np.empty((n, num))
        pairs = len(self.first)
        self.upper = self.first * n + self.second
        self.picked = np.empty((num, pairs))
        self.distances, self.scratch = np.empty((2, pairs, num))
        # One more row, of zeros, is the coefficient of a particle with itself.
        self.coefficients = np.zeros((pairs + 1, num))
        self.row_of = np.full((n, n), pairs)
        self.row_of[self.first, self.second] = self.row_of[self.second, self.first] = np.arange(pairs)
        self.spread = np.empty((n, n, num))
        self.terms = np.empty((n, 3, n, num))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self._fill_coefficients(x)
        np.take(self.coefficients, self.row_of, axis=0, out=self.spread, mode="clip")
        np.subtract(x, x.transpose(1, 0, 2)[:, :, None], out=self.terms)
        np.multiply(self.terms, self.spread[:, None], out=self.terms)
        force = sum_first_axis(self.terms)
        np.minimum(force, MAX_FORCE, out=force)
        return np.maximum(force, -MAX_FORCE, out=force)

    def _fill_coefficients(self, x: np.ndarray) -> None:
        """Fills `coefficients` with `q_i q_j / |x_i - x_j|^3` for the pairs i < j; the other half has the same bits."""
        np.copyto(self.rows, x.transpose(2, 0, 1))
        # Both factors share memory: numpy then calls the symmetric product, as the published program does.
        # It may raise the invalid flag for padding that it never returns (OpenBLAS issue 1924).
        with np.errstate(invalid="ignore"):
            np.matmul(self.rows.transpose(0, 2, 1), self.rows, out=self.dots)
        np.multiply(x, x, out=self.squares)
        np.add.reduce(self.squares, axis=0, out=self.norms)
        np.take(self.norms, self.first, axis=0, out=self.distances, mode="clip")
        np.take(self.norms, self.second, axis=0, out=self.scratch, mode="clip")
        np.add(self.distances, self.scratch, out=self.distances)
        np.take(self.dots.reshape(len(self.dots), -1), self.upper, axis=1, out=self.picked, mode="clip")
        np.multiply(self.picked.T, 2.0, out=self.scratch)
        np.subtract(self.distances, self.scratch, out=self.distances)
        np.power(self.distances, 1.5, out=self.scratch)
        np.divide(self.products, self.scratch, out=self.coefficients[:-1])


def sum_first_axis(terms: np.ndarray) -> np.ndarray:
    """Sums over the first axis in the order in which numpy sums a contiguous last axis.

    That order is left to right below eight terms, eight interleaved partial sums up to 128, halves beyond.

    Args:
        terms: Array `[M, ...]`; overwritten.

    Returns:
        The view `terms[0]`, which now holds the sum.
    """
    count = len(terms)
    if count > 128:
        half = count // 2 - count // 2 % 8
        total = sum_first_axis(terms[:half])
        total += sum_first_axis(terms[half:])
        return total
    total, rest = terms[0], 1
    if count >= 8:
        rest = count - count % 8
        for k in range(8, rest, 8):
            terms[:8] += terms[k : k + 8]
        for stride in (1, 2, 4):
            terms[: 8 : 2 * stride] += terms[stride : 8 : 2 * stride]
    for term in terms[rest:]:
        total += term
    return total
