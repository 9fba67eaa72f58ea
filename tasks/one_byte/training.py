"""What a machine does: it sends bytes of slopes, or gradients."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import Store
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from tqdm import tqdm

from ponita.data import replacing
from ponita.sharing.federated.one_byte import ByteLog, Gain, OneByteSPSA, StoreTransport
from ponita.sharing.federated.one_byte.evaluation import MODES
from ponita.sharing.federated.one_byte.transport import Transport
from ponita.tasks.one_byte.machines import PATIENCE
from ponita.tasks.one_byte.problem import BatchLoss, OneByteProblem

OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


@dataclass
class OneByte:
    """Settings of a training with one byte a sample.

    Attributes:
        steps: of the training.
        samples: S, directions of each machine in a step, and its bytes.
        lr: of the first step.
        power: of the decay, lr / (1 + step / delay)^power.
        delay: steps of the decay.
        eps: radius of the two evaluations of a sample.
        mode: of the evaluation: "functional", "snapshot" or "lazy".

    Raises:
        ValueError: for numbers that cannot be.
    """

    steps: int = 1000
    samples: int = 4
    lr: float = 1e-2
    power: float = 1.0
    delay: float = 500.0
    eps: float = 1e-2
    mode: str = "functional"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.samples < 1 or not self.eps > 0 or self.mode not in MODES:
            raise ValueError(
                f"onebyte: steps={self.steps}, samples={self.samples}, eps={self.eps}, mode={self.mode!r}; expected at least 1 of both, "
                f"a positive radius, and one of {list(MODES)}."
            )
        self.gain()

    def gain(self) -> Gain:
        """The step of each number of a step."""
        return Gain(self.lr, self.power, self.delay)


@dataclass
class Averaging:
    """Settings of a training with averaged gradients.

    Attributes:
        steps: of the training.
        lr: learning rate.

    Raises:
        ValueError: for numbers that cannot be.
    """

    steps: int = 200
    lr: float = 1e-2

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.lr > 0:
            raise ValueError(f"steps={self.steps}, lr={self.lr}; expected at least one step, and a positive rate.")


@dataclass
class Averaged:
    """State of a training with averaged gradients.

    Attributes:
        steps: that are done.
        weights: of the parameters that train.
        optimizer: state of the optimiser.
        snapshots: weights after some steps.
    """

    steps: int
    weights: Tensor
    optimizer: dict[str, Any]
    snapshots: dict[int, Tensor] = field(default_factory=dict)

    @staticmethod
    def load(path: Path) -> Averaged | None:
        """The state in a file, if there is one."""
        return Averaged(**torch.load(path, weights_only=True)) if path.is_file() else None

    def save(self, path: Path) -> None:
        """Write it."""
        with replacing(path) as temporary:
            torch.save(asdict(self), temporary)


def marks(steps: int) -> list[int]:
    """Steps after which errors are measured: ten in a decade, and the last."""
    spread = {round(10 ** (k / 10)) for k in range(80)}
    return sorted({step for step in spread if step < steps} | {steps})


def log_of(folder: Path, machine: int) -> Path:
    """File of the bytes that a machine applied."""
    return folder / "bytes" / f"machine-{machine}.log"


def new_spsa(
    problem: OneByteProblem, loss: BatchLoss, settings: OneByte, transport: Transport, log: ByteLog | None = None
) -> OneByteSPSA:
    """The optimiser of a machine, or of one that only replays."""
    trained = loss.trained()
    loss.requires_grad_(False)  # forces are differentiated by positions, and no graph of the weights is wanted
    return OneByteSPSA(
        trained.items(),
        settings.gain(),
        settings.eps,
        settings.samples,
        transport=transport,
        run=problem.seed,
        log=log,
        seed=problem.seed,
        mode=settings.mode,
        model=loss,
    )


def send_bytes(
    machine: int, store: Store, problem: OneByteProblem, settings: OneByte, folder: Path, threads: int, progress: bool
) -> None:
    """A machine of a training with one byte a sample; one that was stopped goes on from its log.

    Args:
        machine: its number.
        store: that all machines reach.
        problem: with the frames of this machine.
        settings: of the training.
        folder: of the run.
        threads: of the processor.
        progress: show a bar, on the first machine.
    """
    torch.set_num_threads(threads)
    loss = problem.new_loss()
    transport = StoreTransport(store, machine, range(problem.machines), patience=PATIENCE)
    made = new_spsa(problem, loss, settings, transport, ByteLog(log_of(folder, machine)))
    made.replay(transport.since(made.time))
    bar = _bar("onebyte", made.time, settings.steps, progress and machine == 0)
    for step in bar:
        closures = [problem.closure(loss, machine, step, sample) for sample in range(settings.samples)]
        bar.set_postfix(loss=f"{made.step(closures):.4f}", refresh=False)
    made.verify()


def send_gradients(
    machine: int,
    store: Store,
    problem: OneByteProblem,
    name: str,
    settings: Averaging,
    folder: Path,
    threads: int,
    progress: bool,
) -> None:
    """A machine of a training with averaged gradients; all go on from the last state that was stored.

    Args:
        name: of the optimiser, one of `OPTIMIZERS`; the other arguments are those of `send_bytes`.
    """
    torch.set_num_threads(threads)
    _stay_on_loopback()
    patience = timedelta(seconds=PATIENCE)
    dist.init_process_group("gloo", store=store, rank=machine, world_size=problem.machines, timeout=patience)
    loss, path = problem.new_loss(), folder / f"{name}.pt"
    parameters = list(loss.trained().values())
    optimizer = OPTIMIZERS[name](parameters, lr=settings.lr)
    run = _begin(parameters, optimizer, path)
    kept = set(marks(settings.steps))
    bar = _bar(name, run.steps, settings.steps, progress and machine == 0)
    for step in bar:
        value = loss(problem.batch(machine, step), create_graph=True)
        _average(value, parameters, problem.machines)
        optimizer.step()
        bar.set_postfix(loss=f"{float(value.detach()):.4f}", refresh=False)
        if machine == 0 and step + 1 in kept:
            run.steps, run.weights = step + 1, parameters_to_vector(parameters).detach().clone()
            run.optimizer, run.snapshots[step + 1] = optimizer.state_dict(), run.weights
            run.save(path)
    dist.barrier()
    dist.destroy_process_group()


def _begin(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, path: Path) -> Averaged:
    run = Averaged.load(path)
    if run is None:
        return Averaged(0, parameters_to_vector(parameters).detach().clone(), optimizer.state_dict())
    with torch.no_grad():
        vector_to_parameters(run.weights.clone(), parameters)
    optimizer.load_state_dict(run.optimizer)
    return run


def _average(value: Tensor, parameters: list[nn.Parameter], machines: int) -> None:
    """Give the parameters the mean over machines of the gradients of their losses."""
    gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    sent = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(sent)
    for p, gradient in zip(parameters, (sent / machines).split([p.numel() for p in parameters]), strict=True):
        p.grad = gradient.view_as(p)


def _bar(name: str, done: int, steps: int, shown: bool) -> tqdm:
    return tqdm(range(done, steps), initial=done, total=max(done, steps), desc=name, unit="step", disable=not shown)


def _stay_on_loopback() -> None:
    """gloo would listen where the name of this computer leads."""
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", names[0])
