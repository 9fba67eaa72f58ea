"""The optimiser in a LightningModule."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor

from ponita.sharing.federated.one_byte.optimizer import OneByteSPSA
from ponita.sharing.federated.one_byte.transport import LocalTransport, TorchDistTransport, Transport


class OneByteMixin:
    """Trains a LightningModule by `OneByteSPSA`: `class Module(OneByteMixin, LightningModule)`.

    A module defines `one_byte(machine, transport)`, which makes the optimiser, and `loss(params, batch)`, the loss of a batch with
    parameters in place of its own (`torch.func.functional_call`). Nothing is differentiated, so with strategy="ddp" no gradients
    are sent: processes send bytes, and each sees its own part of the data. At the end of every epoch their weights are compared.

    A run goes on from a checkpoint of Lightning, where the log of its bytes has no file or a new one, or from the first weights
    and a log.
    """

    automatic_optimization = False
    spsa: OneByteSPSA | None = None

    def one_byte(self, machine: int, transport: Transport) -> OneByteSPSA:
        """The optimiser, made when training starts.

        Args:
            machine: rank of this process.
            transport: to the others.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no one_byte(machine, transport).")

    def loss(self, params: dict[str, Tensor], batch: Any) -> Tensor:
        """The loss of a batch with these parameters."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss(params, batch).")

    def configure_optimizers(self) -> OneByteSPSA:
        """Made here, where there is a process group if there will be one."""
        transport = TorchDistTransport() if dist.is_initialized() else LocalTransport()
        self.spsa = self.one_byte(transport.machine, transport)
        if self.spsa.transport is not transport and dist.is_initialized():
            raise ValueError("one_byte() left out the transport that it was given; the processes would go apart.")
        return self.spsa

    def on_train_epoch_start(self) -> None:
        """The losses that are compared must not differ by chance, as with dropout."""
        self.eval()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        # Through Lightning's wrapper, which counts the steps.
        loss = self.optimizers().step(closures=lambda params: self.loss(params, batch))
        self.log("train/loss", loss, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        """Replicas that differ end the training."""
        self.spsa.verify()
