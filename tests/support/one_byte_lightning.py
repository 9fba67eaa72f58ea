"""A one-byte training in Lightning with two processes, each of which leaves what it has seen."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ponita.sharing.federated.one_byte import OneByteMixin, OneByteSPSA
from ponita.sharing.federated.one_byte.transport import Transport
from support.one_byte_worker import data, network

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}


class Regression(OneByteMixin, L.LightningModule):
    """A small network on points that have numbers.

    Args:
        lr: step.
        private: leave the transport out, as a mistake.
    """

    def __init__(self, lr: float = 2e-2, private: bool = False) -> None:
        super().__init__()
        self.net, self.lr, self.private = network(), lr, private
        self.seen: list[int] = []

    def one_byte(self, machine: int, transport: Transport) -> OneByteSPSA:
        options = {} if self.private else {"transport": transport}
        return OneByteSPSA(self.net.named_parameters(), self.lr, samples=2, seed=machine, **options)

    def loss(self, params: dict[str, Tensor], batch: list[Tensor]) -> Tensor:
        x, y, number = batch
        self.seen += number.tolist()
        return nn.functional.mse_loss(torch.func.functional_call(self.net, params, (x,)), y)


def loader() -> DataLoader:
    """Points of two machines, with their numbers."""
    x, y = (torch.cat(parts) for parts in zip(data(0), data(1), strict=True))
    return DataLoader(TensorDataset(x, y, torch.arange(len(x))), batch_size=16, shuffle=True)


def main(path: Path) -> None:
    """Train for some epochs; write digest, bytes and what was seen."""
    module = Regression()

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("backward was called")

    torch.Tensor.backward = torch.autograd.backward = refused
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_steps=10, max_epochs=-1, enable_checkpointing=False, **QUIET
    )
    trainer.fit(module, loader())
    found = {
        "digest": module.spsa.digest(),
        "machine": module.spsa.machine,
        "sent": module.spsa.transport.sent,
        "entries": [[step, {m: b.hex() for m, b in messages.items()}] for step, messages in module.spsa.log],
        "seen": module.seen,
        "global_step": trainer.global_step,
        "gradients": sum(p.grad is not None for p in module.parameters()),
    }
    Path(f"{path}-{trainer.global_rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
