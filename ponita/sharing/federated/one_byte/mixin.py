"""The optimiser in a LightningModule."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ponita.sharing.federated.one_byte.optimizer import OneByteSPSA


class OneByteMixin:
    """Trains a LightningModule by `OneByteSPSA`: `class Module(OneByteMixin, LightningModule)`.

    A module defines `one_byte()`, which makes the optimiser, and `loss(params, batch)`, the loss of a batch with parameters in
    place of its own (`torch.func.functional_call`). Nothing is differentiated, so with strategy="ddp" no gradients are sent.
    """

    automatic_optimization = False
    spsa: OneByteSPSA | None = None

    def one_byte(self) -> OneByteSPSA:
        """The optimiser, made when training starts."""
        raise NotImplementedError(f"{type(self).__name__} defines no one_byte().")

    def loss(self, params: dict[str, Tensor], batch: Any) -> Tensor:
        """The loss of a batch with these parameters."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss(params, batch).")

    def configure_optimizers(self) -> OneByteSPSA:
        """Made once the process group is there."""
        self.spsa = self.one_byte()
        return self.spsa

    def on_train_epoch_start(self) -> None:
        """The losses that are compared must not differ by chance, as with dropout."""
        self.eval()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = self.spsa.step(lambda params: self.loss(params, batch))
        self.log("train/loss", loss, prog_bar=True)
