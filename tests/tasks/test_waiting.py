"""A training step never waits for the device: what would is done on the CPU before, or looked at later."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from support.tiny_runs import NBODY, weights
from support.waiting import Waits
from torch_geometric.data import Data

from ponita import EdgeSet, Ponita
from ponita.data import collate
from ponita.data.batching import complete_edges, place_edges
from ponita.geometry import checks, fully_connected
from ponita.models import element_index
from ponita.tasks import runs
from ponita.tasks.callbacks import WeightAverage
from ponita.tasks.cli import run
from ponita.tasks.datamodule import GraphDataModule
from ponita.tasks.nbody import NBodyTask
from ponita.tasks.potential import EnergyForceTask
from ponita.training import LossWatch, NonFiniteLossError, finite

META = torch.device("meta")
SIZES = {"hidden_channels": 8, "basis_channels": 8, "num_layers": 2, "widening": 2, "backend": "torch"}
POTENTIALS = {
    "all pairs": {"num_orientations": 12},
    "within a cut-off": {"num_orientations": 6, "cutoff": 4.0},
    "every edge": {"num_orientations": 5},
    "distances": {"space": "R3"},
    "spline": {"num_orientations": 12, "cutoff": 4.0, "kernel": "spline", "lattice": (12, 8)},
}


@pytest.fixture
def as_on_a_device(monkeypatch):
    """Checks that look at values on the CPU do not, and elements are encoded as they are on a GPU."""
    for module in (checks, element_index, finite):
        monkeypatch.setattr(module, "can_look", lambda _: False)
    encode = lambda index, count: (index[:, None] == torch.arange(count)).long()  # noqa: E731
    monkeypatch.setattr(torch.nn.functional, "one_hot", encode)


def trainer(training=True, device="cpu"):
    """What a task asks its trainer for in a step."""
    strategy = SimpleNamespace(root_device=torch.device(device))
    return SimpleNamespace(training=training, global_step=3, global_rank=0, current_epoch=0, strategy=strategy)


def molecules():
    generator = torch.Generator().manual_seed(0)
    return collate(
        [
            Data(
                pos=2 * torch.randn(n, 3, generator=generator),
                numbers=torch.tensor([6, 1, 1, 1, 1][:n]),
                energy=torch.zeros(1, dtype=torch.float64),
                forces=torch.zeros(n, 3),
                sample=torch.tensor([n]),
            )
            for n in (5, 4)
        ]
    )


def potential_task(**network):
    task = EnergyForceTask(Ponita(2, **SIZES, **network), [1, 6])
    task._trainer = trainer()
    return task


def particles():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(5, *shape, generator=generator)

    return collate([Data(pos=draw(3), vec=draw(1, 3), x=draw(1), y=draw(3)) for _ in range(2)])


def nbody_task():
    network = Ponita(
        1, in_vector_channels=1, out_channels=0, out_vector_channels=1, pooling=None, num_orientations=6, **SIZES
    )
    task = NBodyTask(network)
    task._trainer = trainer()
    return task


def waits_of_a_step(task, batch, inside=True):
    with Waits(inside) as waits:
        task.losses(batch)["loss"].backward()
    return waits.names


@pytest.mark.parametrize("name", POTENTIALS)
def test_a_step_of_the_potential_waits_for_nothing(name, as_on_a_device):
    task = potential_task(**POTENTIALS[name])
    batch = task.prepare_batch(molecules())
    batch.edges = with_all_that_is_read(batch.edges)
    # The table's gradient in plain torch counts samples; on a GPU it is a kernel of its own.
    assert not waits_of_a_step(task, batch, inside=name != "spline")
    del batch.edges
    complete_edges.cache_clear()
    searched = "cutoff" in POTENTIALS[name]
    made = {"_local_scalar_dense", "nonzero"} if searched else {"bincount", "repeat_interleave"}
    assert made <= set(waits_of_a_step(task, batch))


def test_a_step_of_the_particles_waits_for_nothing(as_on_a_device):
    task = nbody_task()
    batch = task.prepare_batch(particles())
    batch.edges = with_all_that_is_read(batch.edges)
    assert not waits_of_a_step(task, batch)


def with_all_that_is_read(edges):
    """What `place_edges` makes on the CPU before it moves edges."""
    assert edges.without_loops and edges.graph and edges.without_loops[0].graph
    return edges


def test_the_step_is_the_same_with_edges_made_before():
    task = potential_task(num_orientations=6)
    task.augment = False
    batch = molecules()
    alone = task(batch, create_graph=True)
    prepared = task.prepare_batch(molecules())
    assert isinstance(prepared.edges, EdgeSet)
    together = task(prepared, create_graph=True)
    assert torch.equal(alone.energy, together.energy) and torch.equal(alone.forces, together.forces)


def test_only_training_batches_are_rotated_and_once():
    task, batch = potential_task(num_orientations=6), molecules()
    turned = task.prepare_batch(molecules())
    assert not torch.allclose(turned.pos, batch.pos) and torch.equal(turned.numbers, batch.numbers)
    lengths = [(b.pos[:5] - b.pos[:5].mean(0)).norm(dim=1) for b in (turned, batch)]
    torch.testing.assert_close(*lengths)
    assert torch.equal(task.prepare_batch(molecules()).pos, turned.pos)
    task._trainer = trainer(training=False)
    assert torch.equal(task.prepare_batch(molecules()).pos, batch.pos)


def test_edges_of_complete_graphs_are_made_once():
    edges = complete_edges((5, 4), True)
    assert complete_edges((5, 4), True) is edges and complete_edges((4, 5), True) is not edges
    batch = torch.tensor([0] * 5 + [1] * 4)
    expected = EdgeSet.from_edge_index(fully_connected(batch, loops=True), 9)
    assert torch.equal(edges.pair_index, expected.pair_index) and edges.num_two_way == expected.num_two_way == 16
    assert complete_edges((5, 4), True, pairs=False).num_two_way == 0
    first, second = (potential_task(num_orientations=6).make_edges(molecules()) for _ in range(2))
    assert first is second


def tensors_of(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, EdgeSet):
        for part in vars(value).values():
            yield from tensors_of(part)
    elif isinstance(value, tuple):
        for part in value:
            yield from tensors_of(part)


def test_edges_are_placed_with_all_that_networks_read():
    edges = complete_edges((5, 4), True)
    placed = place_edges(edges, META)
    assert {"graph", "without_loops"} <= vars(placed).keys()
    assert "graph" in vars(placed.without_loops[0])
    assert all(tensor.device == META for tensor in tensors_of(placed))
    assert len(placed.graph) == 8 and placed.graph[2].shape == (10,) and placed.graph[3].shape == (41,)
    between = placed.without_loops[0].graph
    assert between[0].shape == (16,) and between[3].shape == (32,)
    assert place_edges(edges, META) is placed
    assert place_edges(edges, torch.device("cpu")) is edges
    alone = place_edges(complete_edges((5, 4), False, pairs=False), META)
    assert alone.without_loops == (alone, None) and len(alone.graph) == 8


def test_a_batch_is_moved_with_its_edges():
    module = GraphDataModule(2, 2, 0, 0)
    module.trainer = SimpleNamespace(lightning_module=potential_task(num_orientations=6))
    batch = module.on_before_batch_transfer(molecules(), 0)
    assert module.transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch
    moved = module.transfer_batch_to_device(batch, META, 0)
    assert moved.pos.device == META and moved.edges.pair_index.device == META


def test_a_loss_on_a_device_is_looked_at_later(as_on_a_device):
    watch = LossWatch(max_waiting=2)
    watch.look(torch.tensor(math.nan), lambda value: f"step 0 has {value}")
    watch.look(torch.tensor(1.0), str)
    with pytest.raises(NonFiniteLossError, match="step 0 has nan"):
        watch.look(torch.tensor(2.0), str)
    watch.settle()
    watch.look(torch.tensor(math.inf), lambda value: "the last")
    with pytest.raises(NonFiniteLossError, match="the last"):
        watch.settle()
    watch.settle()


def test_a_loss_that_has_arrived_is_looked_at_without_waiting(as_on_a_device, monkeypatch):
    monkeypatch.setattr(finite._Copy, "has_arrived", lambda copy: copy.number != 5.0)
    watch = LossWatch()
    watch.look(torch.tensor(1.0), str)
    watch.look(torch.tensor(5.0), str)
    watch.look(torch.tensor(math.nan), lambda value: "behind one that has not arrived")
    assert len(watch._waiting) == 2
    with pytest.raises(NonFiniteLossError, match="behind"):
        watch.settle()


def test_no_weights_are_kept_after_a_loss_that_was_not_looked_at_in_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(runs.VARIABLE, raising=False)
    monkeypatch.setattr(finite, "can_look", lambda _: False)
    losses = NBodyTask.losses

    def breaks_in_the_last_step_of_an_epoch(self, batch):
        result = losses(self, batch)
        return {"loss": result["loss"] * (math.nan if self.global_step == 5 else 1.0)}

    monkeypatch.setattr(NBodyTask, "losses", breaks_in_the_last_step_of_an_epoch)
    with pytest.raises(NonFiniteLossError, match=r"loss is nan at epoch 1, step 5, batch 2 \(samples"):
        run(["fit", *NBODY])
    kept = list(Path("runs/nbody-quick/checkpoints").iterdir())
    assert {path.name for path in kept} == {"best.ckpt", "last.ckpt"}
    assert all(torch.load(path, weights_only=True)["epoch"] == 0 for path in kept)
    assert all(v.isfinite().all() for path in kept for v in weights(path).values())


@pytest.mark.parametrize("ends", [lambda task: task.on_save_checkpoint({}), lambda task: task.on_train_epoch_end()])
def test_losses_on_their_way_are_waited_for_at_an_end(ends, as_on_a_device):
    task = nbody_task()
    task._watch.look(torch.tensor(math.nan), lambda value: "waited for")
    with pytest.raises(NonFiniteLossError, match="waited for"):
        ends(task)


def test_the_average_of_weights_waits_for_nothing():
    task, callback = potential_task(num_orientations=6), WeightAverage(decay=0.75)
    callback.on_model_ready(trainer(), task)
    average = callback._average_model
    names = []
    for step in range(3):
        with torch.no_grad():
            for parameter in task.parameters():
                parameter.fill_(float(step))
        task.model.shift.fill_(step)
        with Waits() as waits:
            average.update_parameters(task)
        names.append(waits.names)
    assert names[1:] == [[], []]
    expected = 0.75 * (0.75 * 0.0 + 0.25 * 1.0) + 0.25 * 2.0
    assert all(torch.allclose(p, torch.tensor(expected)) for p in average.module.parameters())
    assert float(average.module.model.shift) == 2.0 and int(average.n_averaged) == 3

    resumed = WeightAverage(decay=0.75)
    resumed.on_model_ready(trainer(), task)
    resumed._average_model.load_state_dict(average.state_dict())
    resumed._average_model.update_parameters(task)
    value = next(resumed._average_model.module.parameters()).detach()
    torch.testing.assert_close(value, torch.full_like(value, 0.75 * expected + 0.25 * 2.0))


def test_a_progress_bar_looks_at_a_device_every_few_steps_only():
    task = potential_task(num_orientations=6)
    for device, bar, count in (
        ("cuda", TQDMProgressBar(), 1),
        ("cpu", TQDMProgressBar(), 0),
        ("cuda", None, 0),
        ("cuda", type("Own", (TQDMProgressBar,), {})(), 0),
    ):
        task._trainer = trainer(device=device)
        task._trainer.progress_bar_callback = bar
        callbacks = task.configure_callbacks()
        assert [callback.refresh_rate for callback in callbacks] == [20] * count
