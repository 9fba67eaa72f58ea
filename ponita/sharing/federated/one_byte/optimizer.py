"""Zeroth-order training across machines that send each other one byte a sample."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from ponita.sharing.federated.one_byte.codec import ABSENT, ByteCodec
from ponita.sharing.federated.one_byte.log import ByteLog
from ponita.sharing.federated.one_byte.noise import Noise, mix, rademacher
from ponita.sharing.federated.one_byte.transport import LocalTransport, Messages, Transport
from ponita.sharing.ready import digest

#: From parameters by name to the loss; evaluated without gradients.
Closure = Callable[[dict[str, Tensor]], Tensor]
REDUCE = {"mean": lambda n: n, "sqrt": math.sqrt}
#: Share of cut values above which a warning is given.
MOST_SATURATED = 0.01


class OneByteSPSA(torch.optim.Optimizer):
    """theta -= (lr / n) sum over machines m and samples s of decode(byte) z, with z the direction of (run, step, m, s).

    Each machine measures, for each sample, how the loss of its own data changes along a random direction,
    g = [L(theta + eps z) - L(theta - eps z)] / (2 eps), and sends g as one byte. Everyone makes all directions anew and applies all
    bytes in the same order, its own byte too and not its number: replicas stay equal bit for bit. What is absent does not
    count in n.

    Args:
        named_parameters: to train, in an order that is the same everywhere.
        lr: step.
        eps: radius of the two evaluations.
        samples: directions of each machine in a step.
        noise: makes directions.
        codec: of the bytes.
        transport: to the other machines.
        run: number of the run, the same everywhere.
        machine: number of this machine.
        reduce: "mean": divide by n; "sqrt": by its root, as one published program does.
        log: where what was applied is kept.
        seed: of the rounding by chance, which need not be the same anywhere.

    Raises:
        ValueError: for a step or radius that is not positive, no samples, no parameters, or another `reduce`.

    Source: Zelikman et al., arXiv:2306.10015.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        lr: float,
        eps: float = 1e-3,
        samples: int = 1,
        noise: Noise = rademacher,
        codec: ByteCodec | None = None,
        transport: Transport | None = None,
        run: int = 0,
        machine: int = 0,
        reduce: str = "mean",
        log: ByteLog | None = None,
        seed: int = 0,
    ) -> None:
        self.named = dict(named_parameters)
        if not lr > 0 or not eps > 0 or samples < 1 or not self.named:
            raise ValueError(
                f"lr={lr}, eps={eps}, samples={samples}, {len(self.named)} parameters; expected positive numbers and at least 1 of both."
            )
        if reduce not in REDUCE:
            raise ValueError(f"reduce={reduce!r}; expected one of {list(REDUCE)}.")
        super().__init__([{"params": list(self.named.values()), "lr": lr}], {})
        self.eps, self.samples, self.noise = eps, samples, noise
        self.codec, self.transport = codec or ByteCodec(), transport or LocalTransport(machine)
        self.run, self.machine, self.reduce = run, machine, reduce
        self.log = ByteLog() if log is None else log
        self.chance = torch.Generator().manual_seed(seed)
        self.time = 0
        for step, messages in self.log:
            self._apply(step, messages)
            self.time = step + 1

    @torch.no_grad()
    def step(self, closures: Sequence[Closure] | Closure) -> float:
        """Measure, exchange, apply; the mean loss of this machine, before.

        Args:
            closures: one for each sample, or one for all.

        Raises:
            ValueError: for another number of closures.
        """
        each = [closures] * self.samples if callable(closures) else list(closures)
        if len(each) != self.samples:
            raise ValueError(f"{len(each)} closures; expected samples={self.samples}.")
        losses, mine = [], []
        for sample, closure in enumerate(each):
            z = self.directions(self.time, self.machine, sample)
            ahead, behind = (self._loss(closure, z, sign) for sign in (1.0, -1.0))
            losses.append((ahead + behind) / 2)
            chance = float(torch.rand((), generator=self.chance))
            mine.append(self.codec.encode((ahead - behind) / (2 * self.eps), chance))
        self._warn_of_saturation()
        self.apply(self.time, self.transport.exchange(self.time, bytes(mine)))
        return sum(losses) / len(losses)

    def apply(self, step: int, messages: Messages) -> None:
        """Change the weights by the bytes of a step, and keep these.

        Raises:
            ValueError: for a step that is not the next.
        """
        if step != self.time:
            raise ValueError(f"the bytes are of step {step}; these weights wait for those of step {self.time}.")
        self._apply(step, messages)
        self.log.append(step, messages)
        self.time += 1

    def replay(self, log: Iterable[tuple[int, Messages]]) -> None:
        """Apply the steps of a log that are missing here; no data are needed and nothing is evaluated."""
        for step, messages in log:
            if step >= self.time:
                self.apply(step, messages)

    def digest(self) -> str:
        """SHA-256 of the weights."""
        return digest(self.named.values())

    def verify(self) -> None:
        """Compare the weights with those of all machines that are present.

        Raises:
            RuntimeError: if they differ.
        """
        if not self.transport.agree(self.time, self.digest()):
            raise RuntimeError(
                f"machines differ in their weights before step {self.time}. Start this one again from the first weights and the "
                "log of a machine that is trusted."
            )

    def directions(self, step: int, machine: int, sample: int) -> dict[str, Tensor]:
        """The direction of a sample, by parameter; each has a seed of its own."""
        return {
            name: self.noise(p.shape, mix(self.run, step, machine, sample, index), p.device, p.dtype)
            for index, (name, p) in enumerate(self.named.items())
        }

    def _loss(self, closure: Closure, z: dict[str, Tensor], sign: float) -> float:
        # The weights themselves are not touched: adding and subtracting would not give them back.
        return float(closure({name: p + sign * self.eps * z[name] for name, p in self.named.items()}).detach())

    @torch.no_grad()
    def _apply(self, step: int, messages: Messages) -> None:
        present = [(m, s, b) for m, given in sorted(messages.items()) for s, b in enumerate(given) if b != ABSENT]
        if not present:
            return
        scale = self.param_groups[0]["lr"] / REDUCE[self.reduce](len(present))
        for machine, sample, byte in present:
            change = -scale * self.codec.decode(byte)
            if change:
                for name, z in self.directions(step, machine, sample).items():
                    self.named[name].add_(z * change)

    def _warn_of_saturation(self) -> None:
        if self.codec.encoded >= 100 and self.codec.saturation > MOST_SATURATED:
            warnings.warn(
                f"{self.codec.saturation:.1%} of the slopes are larger than a byte holds: lower the codec's offset, or scale the loss.",
                stacklevel=3,
            )
            self.codec.encoded = self.codec.saturated = 0
