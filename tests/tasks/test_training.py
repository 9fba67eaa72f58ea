"""What training does and does not depend on."""

import math
from pathlib import Path

import pytest
import torch
from support.tiny_runs import NBODY, POTENTIAL, weights, write_springs

from ponita.data.nbody import load_nbody
from ponita.tasks import runs
from ponita.tasks.cli import run
from ponita.tasks.nbody import NBodyDataModule, NBodyTask
from ponita.tasks.potential import EnergyForceTask, RMD17DataModule
from ponita.training import NonFiniteLossError, OptimizerConfig, parameter_groups, warmup_cosine


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(runs.VARIABLE, raising=False)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    finals = []
    for folder, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        run(["fit", *NBODY, "--run_dir", folder, "--seed_everything", seed])
        finals.append(weights(Path(folder) / "checkpoints/last.ckpt"))
    name = "model.lift.embedding.weight"
    assert all(torch.equal(finals[0][k], finals[1][k]) for k in finals[0])
    assert not torch.equal(finals[0][name], finals[2][name])


def test_a_non_finite_loss_stops_the_run_names_the_batch_and_keeps_the_checkpoint(monkeypatch):
    losses = NBodyTask.losses

    def breaks_in_the_second_epoch(self, batch):
        result = losses(self, batch)
        return {"loss": result["loss"] * (math.nan if self.current_epoch == 1 and 5 in batch.sample else 1.0)}

    monkeypatch.setattr(NBodyTask, "losses", breaks_in_the_second_epoch)
    with pytest.raises(NonFiniteLossError, match=r"loss is nan at epoch 1, step \d+, batch \d+ \(samples \[.*5.*\]"):
        run(["fit", *NBODY])
    last = Path("runs/nbody-quick/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["epoch"] == 0
    assert all(v.isfinite().all() for v in weights(last).values())


def test_augmentation_rotates_graphs_but_not_what_is_learned():
    load_nbody(
        "data/nbody", sizes=(4, 2, 2), drawn=(4, 2, 2), num_steps=500, save_every=50, frames=range(2, 6), progress=False
    )
    data = NBodyDataModule(
        sizes=(4, 2, 2), drawn=(4, 2, 2), num_steps=500, save_every=50, input_frame=2, target_frame=5, batch_size=4
    )
    data.setup("fit")
    batch = data.first_batch()
    task = nbody_task()
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]).expand(4, 3, 3)  # in the group of the octahedron
    turned = task.rotate_batch(batch, quarter)
    assert not torch.equal(turned.pos, batch.pos) and torch.equal(turned.x, batch.x)
    torch.testing.assert_close(turned.y, batch.y @ quarter[0].T)
    torch.testing.assert_close(task.losses(turned)["loss"], task.losses(batch)["loss"], rtol=1e-4, atol=0)


def nbody_task():
    from ponita import Ponita

    network = Ponita(
        1, in_vector_channels=1, out_channels=0, out_vector_channels=1, pooling=None, hidden_channels=8,
        basis_channels=8, num_layers=2, num_orientations=6,
    )  # fmt: skip
    return NBodyTask(network)


def test_statistics_and_losses_of_the_potential_are_those_of_the_recipe():
    write_springs(Path("data/rmd17"))
    published = ["--model.init_args.loss_weights.energy", "0.002"]
    cli = run(["fit", *POTENTIAL, "--trainer.max_epochs", "1", *published])
    task, train = cli.model, cli.datamodule.sets["train"]
    assert isinstance(task, EnergyForceTask) and isinstance(cli.datamodule, RMD17DataModule)
    torch.testing.assert_close(task.model.shift, train.energies.mean())
    torch.testing.assert_close(task.model.scale.float(), train.forces.square().mean().sqrt())

    batch = cli.datamodule.first_batch()
    losses = task.losses(batch)
    predicted, scale = task(batch), task.model.scale
    energy = ((predicted.energy - batch.energy) / scale).square().mean() / 500
    forces = ((predicted.forces - batch.forces) / scale).square().sum(1).mean() / 3
    torch.testing.assert_close(losses["loss"].detach(), energy + forces, rtol=1e-5, atol=0)
    assert len(train) == 24 and len(cli.datamodule.sets["valid"]) == 6 and len(cli.datamodule.sets["test"]) == 20


def test_decay_is_on_matrices_only():
    task = nbody_task()
    decayed, free = parameter_groups(task, 0.1)
    assert decayed["weight_decay"] == 0.1 and free["weight_decay"] == 0
    assert all(p.dim() == 2 for p in decayed["params"]) and all(p.dim() == 1 for p in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(task.parameters()))


def test_schedule_warms_up_and_ends_near_zero_without_a_wasted_step():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_cosine(optimizer, warmup_steps=10, total_steps=100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.2) and rates[4] == pytest.approx(2 * 0.5 * 0.5 * (1 + math.cos(math.pi * 0.04)))
    assert rates[50] == pytest.approx(1.0) and 0 < rates[-1] < 1e-3
    assert OptimizerConfig().warmup_epochs == 0
