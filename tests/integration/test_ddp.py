"""Two processes on the CPU (gloo) train as one does."""

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from support.tiny_runs import POTENTIAL, weights, write_springs
from torch.nn.parallel import DistributedDataParallel

from ponita import Ponita, Potential
from ponita.models import EnergyForces
from ponita.training import LossWeights, energy_force_loss

NUM_ATOMS, NUM_GRAPHS = 5, 4


class ForceLoss(torch.nn.Module):
    """The force loss as the forward of a module, as the strategy of Lightning wraps it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.potential = Potential(
            Ponita(2, hidden_channels=8, basis_channels=8, num_layers=2, num_orientations=6), [1, 6]
        )

    def forward(self, pos, target):
        numbers = torch.tensor([6, 1, 1, 1, 1]).repeat(pos.shape[0])
        batch = torch.arange(pos.shape[0]).repeat_interleave(NUM_ATOMS)
        out = self.potential.energy_forces(pos.flatten(0, 1), numbers, batch=batch, create_graph=True)
        target = EnergyForces(target[:, 0, 0].double(), target.flatten(0, 1))
        return energy_force_loss(out, target, self.potential.scale.float(), LossWeights(energy=0.1))["loss"]


def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, NUM_GRAPHS, NUM_ATOMS, 3, generator=generator)


def gradients(module):
    return {name.removeprefix("module."): p.grad for name, p in module.named_parameters()}


def worker(rank, port, path):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = DistributedDataParallel(ForceLoss())
    pos, target = inputs()[:, rank::2]
    model(pos, target).backward()
    if rank == 0:
        torch.save(gradients(model), path)
    dist.destroy_process_group()


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_force_loss_gradients_equal_those_of_one_process(tmp_path):
    alone = ForceLoss()
    alone(*inputs()).backward()
    mp.spawn(worker, args=(free_port(), tmp_path / "gradients.pt"), nprocs=2)
    shared = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for name, gradient in gradients(alone).items():
        torch.testing.assert_close(shared[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_run_of_two_processes_ends_near_that_of_one(tmp_path):
    """The same graphs a step (2 x 3 against 6), so the same descent up to rounding; augmentation differs by rank."""
    write_springs(tmp_path / "data" / "rmd17")
    args = [*POTENTIAL, "--trainer.max_epochs", "2", "--model.init_args.augment", "false"]
    args += ["--model.init_args.calibrate_kernels", "false"]  # it looks at the first batch, here of another size
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.init_args.batch_size", "3"]
    finals = []
    for folder, extra in (("one", []), ("two", two)):
        command = [sys.executable, "-m", "support.ponita_command", "fit", *args, "--run_dir", folder, *extra]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert result.returncode == 0, result.stdout + result.stderr
        finals.append(weights(tmp_path / folder / "checkpoints" / "last.ckpt"))
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()].count("two") == 1
    for name, value in finals[0].items():
        torch.testing.assert_close(finals[1][name], value, rtol=1e-3, atol=1e-4)
