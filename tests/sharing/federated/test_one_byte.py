"""One byte a sample: equal replicas, the codec, directions, what is lost, and what comes back."""

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.distributed as dist
from support import one_byte_worker
from support.one_byte_worker import SAMPLES, WORLD, data, loss, network, spsa
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ponita import Ponita
from ponita.geometry import fully_connected
from ponita.geometry.symmetry import grid_symmetry
from ponita.sharing.federated.one_byte import (
    ABSENT,
    ByteCodec,
    ByteLog,
    OneByteMixin,
    OneByteSPSA,
    StoreTransport,
    gaussian,
    mix,
    rademacher,
)
from ponita.testing import assert_equivariant

WORKER = Path(one_byte_worker.__file__)
CPU = torch.device("cpu")


def start(*arguments: object) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(WORKER.parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(WORKER), *map(str, arguments)], env=environment)


def ended(processes: list[subprocess.Popen], expected: int = 0) -> None:
    try:
        assert [process.wait(timeout=100) for process in processes] == [expected] * len(processes)
    finally:
        for process in processes:
            process.kill()


class Bus:
    """Machines of one process, one after the other."""

    def __init__(self, roster, lost=()):
        self.roster, self.lost, self.given = roster, set(lost), {}

    def run(self, replicas, steps):
        for _ in range(steps):
            time_ = replicas[0].time
            messages = {}
            for machine, replica in enumerate(replicas):
                sent = []
                transport = Collect(sent)
                before, replica.transport = replica.transport, transport
                with contextlib.suppress(Sent):
                    replica.step(self.losses[machine])
                replica.transport = before
                messages[machine] = bytes([ABSENT]) * SAMPLES if (time_, machine) in self.lost else sent[0]
            for replica in replicas:
                replica.apply(time_, messages)


class Sent(Exception):
    pass


class Collect:
    def __init__(self, sent):
        self.sent = sent

    def exchange(self, step, mine):
        self.sent.append(mine)
        raise Sent


def replicas(steps, lost=(), **options):
    """Three machines after some steps, with the models."""
    models = [network() for _ in range(WORLD)]
    made = [spsa(model, machine, **options) for machine, model in enumerate(models)]
    bus = Bus(range(WORLD), lost)
    bus.losses = [loss(model, machine) for machine, model in enumerate(models)]
    bus.run(made, steps)
    return made, models


def test_processes_have_the_same_bits_and_send_one_byte_a_sample(tmp_path):
    steps = 25
    ended([start("collective", rank, tmp_path, steps, "rademacher") for rank in range(WORLD)])
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD)]
    assert len({one["digest"] for one in found}) == 1
    assert [one["sent"] for one in found] == [steps * SAMPLES] * WORLD
    before = spsa(network(), 0).digest()
    late = spsa(network(), 2, log=ByteLog(tmp_path / "1.log"))
    assert late.digest() == found[0]["digest"] != before and late.log.num_bytes == WORLD * SAMPLES * steps


def test_gaussian_directions_keep_replicas_equal_too():
    made, _ = replicas(8, noise=gaussian)
    assert len({one.digest() for one in made}) == 1
    other, _ = replicas(8)
    assert other[0].digest() != made[0].digest()


def test_a_process_that_dies_for_a_while_comes_back_to_the_same_bits(tmp_path):
    steps = 12
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    (tmp_path / "port").write_text(str(store.port))
    processes = [start("store", rank, tmp_path, steps, 4 if rank == 2 else -1) for rank in range(WORLD)]
    assert processes[2].wait(timeout=60) == 3
    time.sleep(2.5)
    ended([*processes[:2], start("store", 2, tmp_path, steps, 4)])
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD)]
    assert len({one["digest"] for one in found}) == 1 and {one["steps"] for one in found} == {steps}
    entries = dict(ByteLog(tmp_path / "0.log"))
    absent = [step for step, messages in entries.items() if messages[2] == bytes([ABSENT]) * SAMPLES]
    assert absent and absent[0] == 4


def test_a_machine_that_stays_away_is_left_out_of_the_mean_on_all_others():
    lost = {(step, 2) for step in range(3, 8)}
    made, _ = replicas(12, lost)
    assert len({one.digest() for one in made}) == 1
    model = network()
    again = spsa(model, 0)
    again.replay(made[0].log)
    assert again.digest() == made[0].digest()
    step, messages = made[0].log.entries[4]
    assert messages[2] == bytes([ABSENT]) * SAMPLES
    alone = network()
    single = spsa(alone, 0, lr=1e-2)
    single.time = step
    before = [p.detach().clone() for p in alone.parameters()]
    single.apply(step, messages)
    codec, expected = ByteCodec(), [p.clone() for p in before]
    for machine in (0, 1):
        for sample in range(SAMPLES):
            z = single.directions(step, machine, sample)
            change = -(1e-2 / 4) * codec.decode(messages[machine][sample])
            for value, direction in zip(expected, z.values(), strict=True):
                value += change * direction
    assert all(torch.equal(p, e) for p, e in zip(alone.parameters(), expected, strict=True))


def test_the_loss_falls_by_nine_tenths():
    made, models = replicas(600, lr=0.1)
    x, y = (torch.cat(parts) for parts in zip(*(data(machine) for machine in range(WORLD)), strict=True))
    after = nn.functional.mse_loss(models[0](x), y)
    before = nn.functional.mse_loss(network()(x), y)
    assert float(after.detach()) < 0.1 * float(before.detach())
    assert len({one.digest() for one in made}) == 1


def test_measuring_does_not_touch_the_weights():
    model = network()
    made = spsa(model, 0)
    made.transport = Collect([])
    before = made.digest()
    with pytest.raises(Sent):
        made.step(loss(model, 0))
    assert made.digest() == before


def test_slopes_are_right_on_average():
    torch.manual_seed(0)
    matrix = torch.randn(6, 6, dtype=torch.float64)
    theta = nn.Parameter(torch.randn(6, dtype=torch.float64))
    gradient = (matrix @ matrix.T) @ theta.detach()
    made = OneByteSPSA([("theta", theta)], lr=1.0, eps=1e-2)
    total, number = torch.zeros(6, dtype=torch.float64), 6000
    for step in range(number):
        made.time = step
        z = made.directions(step, 0, 0)
        ahead, behind = (
            made._loss(lambda p: 0.5 * (matrix.T @ p["theta"]).square().sum(), z, sign) for sign in (1.0, -1.0)
        )
        total += (ahead - behind) / (2 * made.eps) * z["theta"] / number
    assert float((total - gradient).norm() / gradient.norm()) < 3 * math.sqrt(6 / number)


def test_a_sender_applies_its_byte_and_not_its_number():
    model = network()
    made = OneByteSPSA(model.named_parameters(), lr=0.1, codec=ByteCodec(steps_per_e=0.5, offset=2.0))
    before = [p.detach().clone() for p in model.parameters()]
    made.step(loss(model, 0))
    byte = made.log.entries[0][1][0][0]
    change = -0.1 * made.codec.decode(byte)
    z = made.directions(0, 0, 0).values()
    assert byte not in (0, ABSENT)
    assert all(torch.equal(p, b + d * change) for p, b, d in zip(model.parameters(), before, z, strict=True))


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


def test_values_that_are_cut_are_counted_and_said():
    codec = ByteCodec(offset=16.0)
    assert codec.decode(codec.encode(1e9)) == pytest.approx(math.exp(126 / 8 - 16)) and codec.saturation == 1.0
    model = network()
    made = OneByteSPSA(model.named_parameters(), lr=1e-9, codec=ByteCodec(offset=16.0))
    with pytest.warns(UserWarning, match="lower the codec's offset"):
        for _ in range(101):
            made.step(lambda params: 1e6 * params["0.weight"].sum())


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


def test_layers_of_one_shape_get_directions_of_their_own():
    z = spsa(network(), 0).directions(0, 0, 0)
    assert not torch.equal(z["0.weight"], z["2.weight"])


def test_a_log_that_was_cut_ends_before_the_cut(tmp_path):
    made, _ = replicas(5)
    path = tmp_path / "a.log"
    log = ByteLog(path)
    for step, messages in made[0].log:
        log.append(step, messages)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert len(ByteLog(path)) == 4 and path.read_bytes() == whole[: whole.rindex(b"\n", 0, -1) + 1]
    damaged = whole.replace(whole.splitlines()[2][9:20], b'[2, {"0": "0', 1)
    path.write_bytes(damaged)
    assert len(ByteLog(path)) <= 2
    with pytest.raises(ValueError, match="does not follow"):
        log.append(9, {})


def test_a_step_out_of_turn_is_refused():
    made = spsa(network(), 0)
    with pytest.raises(ValueError, match="wait for those of step 0"):
        made.apply(3, {0: b"\x01\x01"})


def test_a_store_counts_late_and_wrong_bytes_as_absent():
    store = dist.HashStore()
    store.set("bytes/0/1", b"\x05\x06\x07")
    leader = StoreTransport(store, 0, [0, 1, 2], patience=0.05)
    nothing = bytes([ABSENT, ABSENT])
    assert leader.exchange(0, b"\x01\x02") == {0: b"\x01\x02", 1: nothing, 2: nothing}
    store.set("bytes/0/2", b"\x09\x09")
    assert StoreTransport(store, 1, [0, 1, 2]).missed(0)[2] == nothing
    assert leader.missed(1) is None
    with pytest.raises(ValueError, match="on the roster"):
        StoreTransport(store, 5, [0, 1])


def test_weights_that_differ_are_noticed():
    store = dist.HashStore()
    store.set("digest/0/1", "something else")
    made = spsa(network(), 0, transport=StoreTransport(store, 0, [0, 1], patience=0.05))
    with pytest.raises(RuntimeError, match="machines differ in their weights before step 0"):
        made.verify()


def test_networks_along_a_direction_are_equivariant():
    torch.manual_seed(0)
    net = Ponita(1, hidden_channels=8, basis_channels=8, num_layers=2, num_orientations=12).double()
    made = OneByteSPSA(net.named_parameters(), lr=1e-3, eps=0.3)
    with torch.no_grad():
        for name, z in made.directions(0, 0, 0).items():
            made.named[name].add_(0.3 * z)
    pos = torch.randn(5, 3, dtype=torch.float64)
    inputs = {
        "pos": pos,
        "edge_index": fully_connected(torch.zeros(5, dtype=torch.long)),
        "x": torch.ones(5, 1).double(),
    }
    assert_equivariant(net, inputs, rotations=grid_symmetry(12)[:6], tolerance=1e-9)


class Module(OneByteMixin, L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = network()

    def one_byte(self):
        return OneByteSPSA(self.net.named_parameters(), lr=2e-2, samples=1)

    def loss(self, params, batch):
        x, y = batch
        return nn.functional.mse_loss(torch.func.functional_call(self.net, params, (x,)), y)


def test_a_lightning_module_is_trained_without_gradients(tmp_path):
    module = Module()
    loader = DataLoader(TensorDataset(*data(0)), batch_size=64)
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(max_epochs=150, accelerator="cpu", default_root_dir=tmp_path, num_sanity_val_steps=0, **options)
    x, y = data(0)
    before = float(nn.functional.mse_loss(module.net(x), y).detach())
    trainer.fit(module, loader)
    assert float(nn.functional.mse_loss(module.net(x), y).detach()) < 0.7 * before
    assert module.spsa.time == 150 and all(p.grad is None for p in module.parameters())


MISTAKES = {
    "lr": ({"lr": 0.0}, "expected positive numbers"),
    "samples": ({"lr": 1.0, "samples": 0}, "at least 1 of both"),
    "reduce": ({"lr": 1.0, "reduce": "sum"}, r"expected one of \['mean', 'sqrt'\]"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named(case):
    options, message = MISTAKES[case]
    with pytest.raises(ValueError, match=message):
        OneByteSPSA(network().named_parameters(), **options)
    with pytest.raises(ValueError, match="expected samples=1"):
        OneByteSPSA(network().named_parameters(), lr=1.0).step([lambda p: p, lambda p: p])
