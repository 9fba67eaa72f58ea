"""Charged particles: the bits of the published protocol, its physics, and the cache file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ponita.data import nbody
from ponita.data.nbody import InitialStates, Trajectories, draw_initial_states, integrate, load_nbody, simulate
from ponita.data.nbody_simulation import reflect_in_box, sum_first_axis

DT = 0.001
Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]
SMALL = {"sizes": (2, 1, 1), "drawn": (3, 2, 1), "frames": (1, 2), "num_steps": 40, "save_every": 10, "progress": False}


def drawn_alone(rng: np.random.RandomState, n: int) -> Drawn:
    """One system by the protocol: charges `[n, 1]`, positions and velocities `[3, n]`; no noise yet."""
    charges = rng.choice([-1, 0, 1], size=(n, 1), p=[0.5, 0, 0.5])
    x = rng.randn(3, n) * (1.0 * (n / 5) ** (1 / 3))
    v = rng.randn(3, n)
    v = v * 0.5 / np.sqrt((v**2).sum(axis=0)).reshape(1, n)
    for c in range(3):
        for i in range(n):
            if x[c, i] > 5:
                x[c, i], v[c, i] = 2 * 5 - x[c, i], -abs(v[c, i])
            if x[c, i] < -5:
                x[c, i], v[c, i] = -2 * 5 - x[c, i], abs(v[c, i])
    return charges, x, v


def force_alone(x: np.ndarray, charges: np.ndarray) -> np.ndarray:
    n = x.shape[1]
    squares = (x.T**2).sum(axis=1)
    l2 = squares.reshape(n, 1) + squares.reshape(1, n) - 2 * np.dot(x.T, x)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = 1.0 * charges.dot(charges.T) / np.power(l2, 3.0 / 2.0)
    np.fill_diagonal(size, 0)
    force = np.empty((3, n))
    for c in range(3):
        for i in range(n):
            force[c, i] = (size[i] * (x[c, i] - x[c])).sum()
            force[c, i] = min(max(force[c, i], -0.1 / DT), 0.1 / DT)
    return force


def simulated_alone(rng: np.random.RandomState, n: int, num_steps: int, save_every: int) -> Drawn:
    """One simulation by the protocol, step by step: positions and velocities `[F, n, 3]`, charges `[n]`."""
    charges, x, v = drawn_alone(rng, n)
    positions, velocities = [], []
    v = v + DT * force_alone(x, charges)
    for i in range(1, num_steps):
        x = x + DT * v
        if i % save_every == 0:
            positions.append(x.T)
            velocities.append(v.T)
        v = v + DT * force_alone(x, charges)
    noise = [0 * rng.randn(len(positions), 3, n).transpose(0, 2, 1) for _ in range(2)]
    return np.array(positions) + noise[0], np.array(velocities) + noise[1], charges[:, 0]


def assert_same_bits(found: Trajectories, expected: list[Drawn]) -> None:
    for array, parts in zip(
        (found.positions, found.velocities, found.charges), zip(*expected, strict=True), strict=True
    ):
        assert array.dtype == np.float64
        assert np.array_equal(array, np.stack(parts))


def two_particles(distance: float, product: float, velocity: float = 0.0) -> InitialStates:
    """Two particles on the x axis around the origin, with opposite velocities along y."""
    positions = np.array([[[distance / 2, 0, 0], [-distance / 2, 0, 0]]])
    velocities = np.array([[[0, velocity, 0], [0, -velocity, 0]]])
    return InitialStates(positions, velocities, np.array([[1.0, product]]))


def energy(trajectories: Trajectories) -> np.ndarray:
    """Total energy `[S, F]`."""
    x, q = trajectories.positions, trajectories.charges
    total = (trajectories.velocities**2).sum(axis=(-1, -2)) / 2
    for i in range(q.shape[1]):
        for j in range(i):
            total += (q[:, i] * q[:, j])[:, None] / np.linalg.norm(x[:, :, i] - x[:, :, j], axis=-1)
    return total


@pytest.mark.parametrize("n", [1, 2, 5, 7, 9, 20])
def test_simulations_have_the_bits_of_the_protocol(n: int) -> None:
    alone, together = np.random.RandomState(n), np.random.RandomState(n)
    expected = [simulated_alone(alone, n, num_steps=80, save_every=20) for _ in range(4)]
    assert_same_bits(simulate(4, together, n, num_steps=80, save_every=20), expected)
    assert alone.randn() == together.randn()


def test_a_full_simulation_has_the_bits_of_the_protocol() -> None:
    found = simulate(1, np.random.RandomState(43))
    assert found.positions.shape == found.velocities.shape == (1, 49, 5, 3)
    assert_same_bits(found, [simulated_alone(np.random.RandomState(43), 5, 5000, 100)])


@pytest.mark.parametrize("seed", [43, 7])
def test_splits_follow_each_other_in_one_stream(tmp_path: Path, seed: int) -> None:
    rng = np.random.RandomState(seed)
    expected = [simulated_alone(rng, 5, 40, 10) for _ in range(6)]
    expected = [(positions[1:], velocities[1:], charges) for positions, velocities, charges in expected]
    found = load_nbody(tmp_path, **SMALL, seed=seed)
    assert list(found) == ["train", "valid", "test"]
    assert_same_bits(found["train"], expected[:2])
    assert_same_bits(found["valid"], expected[3:4])
    assert_same_bits(found["test"], expected[5:])


def test_initial_states_are_reflected_in_the_box() -> None:
    alone, together = np.random.RandomState(0), np.random.RandomState(0)
    charges, x, v = drawn_alone(alone, 200)
    states = draw_initial_states(1, together, 200, num_frames=0)
    assert np.array_equal(states.charges[0], charges[:, 0])
    assert np.array_equal(states.positions[0], x.T)
    assert np.array_equal(states.velocities[0], v.T)
    again = np.random.RandomState(0)
    again.random_sample(200)
    assert (np.abs(again.randn(3, 200)) * 40 ** (1 / 3) > 5).any(), "nothing was outside: the test says nothing"


def test_reflection_turns_inwards_what_is_outside() -> None:
    positions = np.array([6.0, 6.0, -5.5, -5.5, 5.0, -5.0])
    velocities = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    reflect_in_box(positions, velocities)
    assert positions.tolist() == [4.0, 4.0, -4.5, -4.5, 5.0, -5.0]
    assert velocities.tolist() == [-1.0, -1.0, 1.0, 1.0, 1.0, -1.0]


@pytest.mark.parametrize(("chunk_size", "num_threads"), [(1, 1), (5, 3), (23, 1), (100, 2), (None, 3)])
def test_result_does_not_depend_on_chunks_and_threads(chunk_size: int | None, num_threads: int) -> None:
    states = draw_initial_states(23, np.random.RandomState(1))
    reference = integrate(states, 60, 20, chunk_size=7, num_threads=2)
    found = integrate(states, 60, 20, chunk_size=chunk_size, num_threads=num_threads)
    assert np.array_equal(found.positions, reference.positions)
    assert np.array_equal(found.velocities, reference.velocities)


def test_frames_are_those_of_the_whole_run_in_the_order_wanted() -> None:
    rng, same = np.random.RandomState(2), np.random.RandomState(2)
    every = simulate(3, rng, num_steps=50, save_every=10)
    some = simulate(3, same, num_steps=50, save_every=10, frames=(2, 0))
    assert np.array_equal(some.positions, every.positions[:, [2, 0]])
    assert np.array_equal(some.velocities, every.velocities[:, [2, 0]])
    assert rng.randn() == same.randn()


@pytest.mark.parametrize("count", [*range(1, 41), 127, 128, 129, 136, 143, 144, 300])
def test_sum_has_the_order_of_numpy(count: int) -> None:
    terms = np.random.default_rng(count).normal(size=(50, count))
    assert np.array_equal(sum_first_axis(terms.T.copy()), terms.sum(axis=-1))


def test_momentum_is_conserved() -> None:
    found = simulate(20, np.random.RandomState(3), num_steps=300, save_every=100)
    momenta = found.velocities.sum(axis=2)
    np.testing.assert_allclose(momenta[:, 1], momenta[:, 0], atol=1e-13)
    assert np.abs(found.velocities[:, 1] - found.velocities[:, 0]).max() > 0.1


def test_energy_of_repelling_particles_is_nearly_conserved() -> None:
    states = draw_initial_states(10, np.random.RandomState(4))
    found = integrate(InitialStates(states.positions, states.velocities, np.ones((10, 5))))
    total, kinetic = energy(found), (found.velocities**2).sum(axis=(-1, -2)) / 2
    np.testing.assert_allclose(total, total[:, -1:].repeat(49, axis=1), rtol=0.01)
    assert (kinetic[:, -1] > 1.5 * kinetic[:, 0]).all()


def test_opposite_charges_circle_around_each_other() -> None:
    # Distance 1, reduced mass 1/2: the angular velocity squared is 2.
    found = integrate(two_particles(1.0, -1.0, velocity=0.5 * 2**0.5))
    angle = 2**0.5 * DT * 100 * np.arange(1, 50)
    circle = 0.5 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=-1)
    np.testing.assert_allclose(found.positions[0, :, 0], circle, atol=3e-3)
    np.testing.assert_allclose(found.positions[0, :, 1], -circle, atol=3e-3)


@pytest.mark.parametrize("product", [1.0, -1.0])
def test_force_is_clipped(product: float) -> None:
    found = integrate(two_particles(0.01, product), num_steps=2, save_every=1)
    assert found.velocities[0, 0].tolist() == [[product * 100 * DT, 0, 0], [-product * 100 * DT, 0, 0]]


def test_one_particle_moves_on_a_straight_line() -> None:
    found = simulate(3, np.random.RandomState(5), num_particles=1, num_steps=400, save_every=100)
    np.testing.assert_allclose(np.linalg.norm(found.velocities, axis=-1), 0.5)
    assert (found.velocities == found.velocities[:, :1]).all()
    np.testing.assert_allclose(found.positions[:, 2] - found.positions[:, 0], 0.2 * found.velocities[:, 0])


def test_no_simulations_give_empty_arrays() -> None:
    found = simulate(0, np.random.RandomState(0))
    assert found.positions.shape == (0, 49, 5, 3)


def test_second_load_reads_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_nbody(tmp_path / "new", **SMALL)
    monkeypatch.setattr(nbody, "integrate", None)
    second = load_nbody(tmp_path / "new", **SMALL)
    assert len(list((tmp_path / "new").iterdir())) == 1
    for name, part in first.items():
        for field in ("positions", "velocities", "charges"):
            assert np.array_equal(getattr(second[name], field), getattr(part, field))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 44},
        {"num_particles": 4},
        {"drawn": (4, 2, 1)},
        {"sizes": (1, 1, 1)},
        {"frames": (2, 1)},
        {"num_steps": 60},
        {"save_every": 8},
    ],
)
def test_other_parameters_have_another_file(tmp_path: Path, change: dict[str, object]) -> None:
    load_nbody(tmp_path, **SMALL)
    load_nbody(tmp_path, **{**SMALL, **change})
    assert len(list(tmp_path.iterdir())) == 2


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_text(path: Path) -> None:
    path.write_text("no archive")


def replace_by_other_arrays(path: Path) -> None:
    np.savez(path, positions=np.zeros(3))


def change_seed(path: Path) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    arrays["parameters"] = np.array(json.dumps({**json.loads(str(arrays["parameters"])), "seed": 0}, sort_keys=True))
    np.savez(path, **arrays)


def drop_a_simulation(path: Path) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "train_positions": arrays["train_positions"][:1]})


@pytest.mark.parametrize(
    "damage", [truncate, empty, replace_by_text, replace_by_other_arrays, change_seed, drop_a_simulation]
)
def test_damaged_file_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    load_nbody(tmp_path, **SMALL)
    (path,) = tmp_path.iterdir()
    damage(path)
    with pytest.raises(ValueError, match="delete it") as caught:
        load_nbody(tmp_path, **SMALL)
    assert str(path) in str(caught.value)


def test_failed_generation_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbody, "FIELDS", ("positions", "absent"))
    with pytest.raises(AttributeError):
        load_nbody(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (4, 1, 1)}, "train split asks for 4 simulations of 3 drawn"),
        ({"sizes": (2, 1, 0)}, "test split asks for 0"),
        ({"sizes": (2, 1)}, "three numbers"),
        ({"frames": (1, 3)}, r"0\.\.2"),
        ({"frames": (-1,)}, r"0\.\.2"),
        ({"frames": ()}, "at least one frame"),
        ({"num_steps": 45}, "multiple of save_every"),
        ({"num_steps": 10}, "twice as large"),
        ({"save_every": 0}, "save_every=0"),
        ({"num_particles": 0}, "num_particles=0"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_nbody(tmp_path, **{**SMALL, **change})
    assert list(tmp_path.iterdir()) == []


def test_bad_numbers_of_simulations_chunks_and_threads_are_named() -> None:
    rng = np.random.RandomState(0)
    with pytest.raises(ValueError, match="num=-1"):
        simulate(-1, rng)
    with pytest.raises(ValueError, match="num_particles=0"):
        simulate(1, rng, num_particles=0)
    states = draw_initial_states(1, rng)
    with pytest.raises(ValueError, match="chunk_size=0"):
        integrate(states, chunk_size=0)
    with pytest.raises(ValueError, match="num_threads=0"):
        integrate(states, num_threads=0)


def test_progress_is_shown_when_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    states = draw_initial_states(2, np.random.RandomState(0))
    integrate(states, 4, 2)
    assert capsys.readouterr().err == ""
    integrate(states, 4, 2, progress=True)
    assert "simulating" in capsys.readouterr().err
