"""One byte a sample: equal replicas, what is lost and what comes back, and that the loss falls."""

import json
import math
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from support.one_byte_replicas import bytes_of, directions, ended, replicas, start
from support.one_byte_worker import SAMPLES, WORLD, data, loss, network, spsa
from torch import nn

from ponita import Ponita
from ponita.geometry import fully_connected
from ponita.geometry.symmetry import grid_symmetry
from ponita.sharing.federated.one_byte import ABSENT, ByteCodec, ByteLog, Gain, LocalTransport, OneByteSPSA, gaussian
from ponita.testing import assert_equivariant


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
    ended(processes[2:], expected=3, others=processes[:2])
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
            z = directions(single, step, machine, sample)
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
    before = made.digest()
    bytes_of(made, loss(model, 0))
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
        z = directions(made, step, 0, 0)
        ahead, behind = (
            made._loss(lambda p: 0.5 * (matrix.T @ p["theta"]).square().sum(), 0, sign) for sign in (1.0, -1.0)
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
    z = directions(made, 0, 0, 0).values()
    assert byte not in (0, ABSENT)
    assert all(torch.equal(p, b + d * change) for p, b, d in zip(model.parameters(), before, z, strict=True))


def test_values_that_are_cut_are_counted_and_said():
    codec = ByteCodec(offset=16.0)
    assert codec.decode(codec.encode(1e9)) == pytest.approx(math.exp(126 / 8 - 16)) and codec.saturation == 1.0
    model = network()
    made = OneByteSPSA(model.named_parameters(), lr=1e-9, codec=ByteCodec(offset=16.0))
    with pytest.warns(UserWarning, match="lower the codec's offset"):
        for _ in range(101):
            made.step(lambda params: 1e6 * params["0.weight"].sum())


def test_layers_of_one_shape_get_directions_of_their_own():
    z = directions(spsa(network(), 0), 0, 0, 0)
    assert not torch.equal(z["0.weight"], z["2.weight"])


def test_a_step_out_of_turn_is_refused():
    made = spsa(network(), 0)
    with pytest.raises(ValueError, match="wait for those of step 0"):
        made.apply(3, {0: b"\x01\x01"})


def test_networks_along_a_direction_are_equivariant():
    torch.manual_seed(0)
    net = Ponita(1, hidden_channels=8, basis_channels=8, num_layers=2, num_orientations=12).double()
    made = OneByteSPSA(net.named_parameters(), lr=1e-3, eps=0.3)
    with torch.no_grad():
        for name, z in directions(made, 0, 0, 0).items():
            made.named[name].add_(0.3 * z)
    pos = torch.randn(5, 3, dtype=torch.float64)
    inputs = {
        "pos": pos,
        "edge_index": fully_connected(torch.zeros(5, dtype=torch.long)),
        "x": torch.ones(5, 1).double(),
    }
    assert_equivariant(net, inputs, rotations=grid_symmetry(12)[:6], tolerance=1e-9)


def test_a_replica_and_its_log_follow_the_gain_of_each_step():
    gain = Gain(0.1, power=1.0, delay=2.0)
    made, _ = replicas(6, lr=gain)
    late = spsa(network(), 2, lr=gain)
    late.replay(made[0].log)
    assert late.digest() == made[0].digest() != replicas(6, lr=0.1)[0][0].digest()
    model = network()
    single = spsa(model, 0, lr=gain)
    single.time = 4
    before, messages = model[0].weight.detach().clone(), {0: bytes([90])}
    single.apply(4, messages)
    change = -(0.1 / 3) * single.codec.decode(90)
    assert torch.equal(model[0].weight, before + directions(single, 4, 0, 0)["0.weight"] * change)
    assert single.param_groups[0]["lr"] == 0.1 / 3 and single.time == 5


def test_what_a_machine_sends_does_not_depend_on_what_it_did_before():
    """So one that was stopped, and goes on from its log, sends what it would have sent."""
    options = {"codec": ByteCodec(steps_per_e=0.3, offset=4.0)}  # with levels so far apart, chance decides the bytes
    made, _ = replicas(5, **options)
    losses = [loss(network(), machine) for machine in range(WORLD)]
    for machine in range(WORLD):
        late = spsa(network(), machine, log=made[0].log, **options)
        torch.manual_seed(1)
        again = [bytes_of(late, losses[machine]) for _ in range(8)]
        torch.manual_seed(2)
        assert {bytes_of(made[machine], losses[machine])} == set(again)


MISTAKES = {
    "lr": ({"lr": 0.0}, "expected positive numbers"),
    "samples": ({"lr": 1.0, "samples": 0}, "at least 1 of both"),
    "machine": ({"lr": 1.0, "machine": 2, "transport": LocalTransport(1)}, "the transport is that of machine 1"),
    "reduce": ({"lr": 1.0, "reduce": "sum"}, r"expected one of \['mean', 'sqrt'\]"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named(case):
    options, message = MISTAKES[case]
    with pytest.raises(ValueError, match=message):
        OneByteSPSA(network().named_parameters(), **options)
    with pytest.raises(ValueError, match="expected samples=1"):
        OneByteSPSA(network().named_parameters(), lr=1.0).step([lambda p: p, lambda p: p])
