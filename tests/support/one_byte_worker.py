"""A process of a one-byte training: a small regression with data of its own."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ponita.sharing.federated.one_byte import (
    ByteLog,
    OneByteSPSA,
    StoreTransport,
    TorchDistTransport,
    gaussian,
    rademacher,
)

WORLD, SAMPLES = 3, 2


def network() -> nn.Module:
    """The same first weights everywhere; two layers of one shape."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))


def data(machine: int) -> tuple[Tensor, Tensor]:
    """Points that only this machine has."""
    generator = torch.Generator().manual_seed(100 + machine)
    x = torch.randn(64, 4, generator=generator)
    return x, (x[:, :1] * x[:, 1:2] - x[:, 2:3]).tanh()


def loss(model: nn.Module, machine: int):
    """Mean squared error on the data of a machine."""
    x, y = data(machine)
    return lambda params: nn.functional.mse_loss(torch.func.functional_call(model, params, (x,)), y)


def spsa(net: nn.Module, machine: int, **options: object) -> OneByteSPSA:
    """As all processes have it."""
    settings = {"lr": 1e-2, "samples": SAMPLES, "run": 7, "machine": machine, "seed": machine, **options}
    return OneByteSPSA(net.named_parameters(), **settings)


def collective(rank: int, folder: Path, steps: int, noise: str) -> None:
    """Train with all_gather; write the digest and the log."""
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    transport = TorchDistTransport()
    log = ByteLog(folder / f"{rank}.log")
    chosen = {"rademacher": rademacher, "gaussian": gaussian}[noise]
    model = network()
    made = spsa(model, rank, transport=transport, log=log, noise=chosen)
    for _ in range(steps):
        made.step(loss(model, rank))
    made.verify()
    (folder / f"{rank}.json").write_text(json.dumps({"digest": made.digest(), "sent": transport.sent}))
    dist.barrier()
    dist.destroy_process_group()


def through_a_store(rank: int, folder: Path, steps: int, dies_at: int) -> None:
    """Train through a store; a process that is told to die does so, and started again goes on from its log."""
    port = int((folder / "port").read_text())
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60))
    transport = StoreTransport(store, rank, range(WORLD), patience=1.0)
    model = network()
    made = spsa(model, rank, transport=transport, log=ByteLog(folder / f"{rank}.log"))
    made.replay(transport.since(made.time))
    while made.time < steps:
        if made.time == dies_at and not (folder / f"{rank}.died").exists():
            (folder / f"{rank}.died").write_text("")
            sys.exit(3)
        made.step(loss(model, rank))
    (folder / f"{rank}.json").write_text(json.dumps({"digest": made.digest(), "steps": len(made.log)}))
    store.set(f"done/{rank}", "1")
    if rank == 0:  # decides; leaves last
        store.wait([f"done/{other}" for other in range(1, WORLD)], timedelta(seconds=60))


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, rank, folder, steps, option = sys.argv[1:]
    if kind == "collective":
        collective(int(rank), Path(folder), int(steps), option)
    else:
        through_a_store(int(rank), Path(folder), int(steps), int(option))
