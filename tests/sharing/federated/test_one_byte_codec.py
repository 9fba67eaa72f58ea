"""Numbers as bytes, random directions from numbers, and steps that shrink."""

import math

import pytest
import torch

from ponita.sharing.federated.one_byte import ABSENT, ByteCodec, Gain, gaussian, mix, rademacher
from ponita.sharing.federated.one_byte.noise import CHUNK, uniform

CPU = torch.device("cpu")


def test_every_level_has_a_byte_of_its_own():
    codec = ByteCodec()
    values = {byte: codec.decode(byte) for byte in range(256) if byte not in (0, ABSENT)}
    assert len(set(values.values())) == 254
    assert all(
        codec.encode(value) == codec.encode(value, 0.999999) == byte
        for byte, value in values.items()
        if byte & 0x7F < 127
    )
    assert codec.encode(0.0) == 0 and codec.decode(0) == 0.0 and math.isnan(codec.decode(ABSENT))
    assert {codec.encode(bad) for bad in (math.nan, math.inf, -math.inf)} == {ABSENT}
    sizes = [abs(values[byte]) for byte in (1, 127)]
    assert sizes == pytest.approx([math.exp(-8), math.exp(126 / 8 - 8)])
    with pytest.raises(ValueError, match="no byte"):
        codec.decode(256)


def test_the_nearest_level_is_within_a_sixteenth_of_e():
    codec = ByteCodec()
    for size in torch.logspace(-3.4, 3.3, 500, dtype=torch.float64).tolist():
        for g in (size, -size):
            assert abs(codec.decode(codec.encode(g)) / g - 1) <= math.exp(1 / 16) - 1 + 1e-9


@pytest.mark.parametrize("g", [1e-4, 4e-4, -0.037, 1.23, -900.0])
def test_rounding_by_chance_has_the_value_as_its_mean(g):
    codec, generator = ByteCodec(), torch.Generator().manual_seed(0)
    chances = torch.rand(20000, generator=generator, dtype=torch.float64).tolist()
    decoded = torch.tensor([codec.decode(codec.encode(g, u)) for u in chances], dtype=torch.float64)
    error = float(decoded.std()) / math.sqrt(len(chances))
    assert float(decoded.mean()) == pytest.approx(g, abs=4 * error)


@pytest.mark.parametrize("noise", [rademacher, gaussian])
def test_directions_are_uncorrelated_across_places_seeds_and_tensors(noise):
    n = 100_000
    z = [noise((n,), mix(0, 3, 1, 0, index), CPU, torch.float64) for index in (0, 1)]
    others = [
        noise((n,), mix(*key), CPU, torch.float64)
        for key in [(0, 3, 2, 0, 0), (0, 4, 1, 0, 0), (1, 3, 1, 0, 0), (0, 3, 1, 1, 0)]
    ]
    bound = 4 / math.sqrt(n)
    assert abs(float(z[0].mean())) < bound and abs(float((z[0][1:] * z[0][:-1]).mean())) < bound
    assert float(z[0].square().mean()) == pytest.approx(1, abs=0.02)
    for other in [z[1], *others]:
        assert abs(float((z[0] * other).mean())) < bound
    assert torch.equal(z[0], noise((n,), mix(0, 3, 1, 0, 0), CPU, torch.float64))
    assert noise((3, 5), 1, CPU, torch.float32).shape == (3, 5)


def test_seeds_are_sixty_three_bits_and_depend_on_the_order():
    seeds = {mix(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500 and all(0 <= seed < 1 << 63 for seed in seeds)


def splitmix64(z):
    """The output function of SplitMix64, in whole numbers."""
    mask = (1 << 64) - 1
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


def test_signs_are_the_last_bits_of_splitmix64_at_every_place():
    seed = mix(3, 1, 4)
    signs = rademacher((2 * CHUNK + 10,), seed, CPU, torch.float32)
    for place in [0, 1, 2, 63, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 9]:
        bit = splitmix64((place * 0x9E3779B97F4A7C15 + seed) % (1 << 64)) & 1
        assert float(signs[place]) == 2 * bit - 1
    assert torch.equal(rademacher((4, 5), seed, CPU, torch.float64), signs[:20].double().view(4, 5))
    assert (
        rademacher((), seed, CPU, torch.float32).shape == ()
        and rademacher((0, 3), seed, CPU, torch.float32).numel() == 0
    )


def test_chances_are_uniform_and_depend_on_every_number():
    chances = torch.tensor([uniform(7, step, 0, 1) for step in range(20000)], dtype=torch.float64)
    error = 1 / math.sqrt(len(chances))
    assert 0 <= float(chances.min()) < 1e-3 and 1 - 1e-3 < float(chances.max()) < 1
    assert float(chances.mean()) == pytest.approx(1 / 2, abs=4 * error / math.sqrt(12))
    assert float(chances.square().mean()) == pytest.approx(1 / 3, abs=4 * error * 0.3)
    assert len({uniform(*key) for key in [(7, 0, 0, 0), (8, 0, 0, 0), (7, 1, 0, 0), (7, 0, 1, 0), (7, 0, 0, 1)]}) == 5


def test_steps_shrink_as_the_gain_sequence_says():
    gain = Gain(0.3, power=0.602, delay=20)
    assert gain(0) == 0.3 and gain(20) == pytest.approx(0.3 / 2**0.602) and gain(180) == pytest.approx(0.3 / 10**0.602)
    assert {Gain(0.3)(step) for step in (0, 1, 1000)} == {0.3}


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"lr": 1.0, "power": -1.0}, {"lr": 1.0, "delay": 0.0}])
def test_gains_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match="expected positive numbers"):
        Gain(**options)
