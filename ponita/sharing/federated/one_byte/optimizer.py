"""Zeroth-order training across machines that send each other one byte a sample."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ponita.sharing.federated.one_byte.codec import ABSENT, ByteCodec
from ponita.sharing.federated.one_byte.evaluation import Direction, make_evaluation
from ponita.sharing.federated.one_byte.gain import Gain
from ponita.sharing.federated.one_byte.log import ByteLog
from ponita.sharing.federated.one_byte.noise import Noise, mix, rademacher, uniform
from ponita.sharing.federated.one_byte.transport import LocalTransport, Messages, Transport
from ponita.sharing.ready import digest

#: From parameters by name, or none where the model has them, to the loss; evaluated without gradients.
Closure = Callable[[dict[str, Tensor]], Tensor]
REDUCE = {"mean": lambda n: n, "sqrt": math.sqrt}
#: Share of cut values above which a warning is given.
MOST_SATURATED = 0.01


class OneByteSPSA(torch.optim.Optimizer):
    """theta -= (lr / n) sum over machines m and samples s of decode(byte) z, with z the direction of (run, step, m, s).

    Each machine measures, for each sample, how the loss of its own data changes along a random direction,
    g = [L(theta + eps z) - L(theta - eps z)] / (2 eps), and sends g as one byte. Everyone makes all directions anew and applies all
    bytes in the same order, its own byte too and not its number: replicas stay equal bit for bit. What is absent does not
    count in n. Steps are stable, with directions of -1 and +1, for lr < 2 / (c + (t - c) / n), where c is the greatest curvature
    of the loss and t the sum of all.

    Args:
        named_parameters: to train, in an order that is the same everywhere.
        lr: step, or what gives that of each number of a step (`Gain`); the same everywhere, and for whoever replays the log.
        eps: radius of the two evaluations.
        samples: directions of each machine in a step.
        noise: makes directions.
        codec: of the bytes.
        transport: to the other machines.
        run: number of the run, the same everywhere.
        machine: number of this machine; that of the transport where None.
        reduce: "mean": divide by n; "sqrt": by its root, as one published program does.
        log: where what was applied is kept.
        seed: of the rounding by chance, which need not be the same anywhere.
        mode: how weights are moved for an evaluation, all with the same bits: "functional", closures get moved copies;
            "snapshot", in place, closures get an empty mapping; "lazy", layers move what is read, with an empty mapping.
            `torch.func.functional_call` takes both.
        model: that holds the parameters; for "lazy".
        saved_on: device of the copies of "snapshot".

    Raises:
        ValueError: for a step or radius that is not positive, no samples, no parameters, another `reduce` or `mode`, or a machine
            that is not the transport's.

    Source: Zelikman et al., arXiv:2306.10015.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        lr: float | Callable[[int], float],
        eps: float = 1e-3,
        samples: int = 1,
        noise: Noise = rademacher,
        codec: ByteCodec | None = None,
        transport: Transport | None = None,
        run: int = 0,
        machine: int | None = None,
        reduce: str = "mean",
        log: ByteLog | None = None,
        seed: int = 0,
        mode: str = "functional",
        model: nn.Module | None = None,
        saved_on: torch.device | str | None = None,
    ) -> None:
        self.named = dict(named_parameters)
        self.gain = lr if callable(lr) else Gain(lr)
        if not eps > 0 or samples < 1 or not self.named:
            raise ValueError(
                f"eps={eps}, samples={samples}, {len(self.named)} parameters; expected a positive radius, and at least 1 of both."
            )
        if reduce not in REDUCE:
            raise ValueError(f"reduce={reduce!r}; expected one of {list(REDUCE)}.")
        self.transport = transport or LocalTransport(machine or 0)
        if machine not in (None, self.transport.machine):
            raise ValueError(
                f"machine={machine}, and the transport is that of machine {self.transport.machine}; they must be one."
            )
        super().__init__([{"params": list(self.named.values()), "lr": self.gain(0), "time": 0}], {})
        self.machine, self.run, self.reduce, self.seed = self.transport.machine, run, reduce, seed
        self.eps, self.samples, self.noise, self.codec = eps, samples, noise, codec or ByteCodec()
        self.evaluation = make_evaluation(mode, self.named, model, saved_on)
        self.log = ByteLog() if log is None else log
        for step, messages in self.log:
            self._apply(step, messages)
            self.time = step + 1

    @property
    def time(self) -> int:
        """Number of the next step; part of the state that a checkpoint keeps."""
        return self.param_groups[0]["time"]

    @time.setter
    def time(self, step: int) -> None:
        self.param_groups[0]["time"] = step

    @torch.no_grad()
    def step(self, closures: Sequence[Closure] | Closure, closure: Callable[[], Any] | None = None) -> float:
        """Measure, exchange, apply; the mean loss of this machine, before.

        Args:
            closures: one for each sample, or one for all.
            closure: what Lightning hands to every optimiser; not called.

        Raises:
            ValueError: for another number of closures.
        """
        each = [closures] * self.samples if callable(closures) else list(closures)
        if len(each) != self.samples:
            raise ValueError(f"{len(each)} closures; expected samples={self.samples}.")
        measured = [self.measure(sample, one) for sample, one in enumerate(each)]
        self._warn_of_saturation()
        self.apply(self.time, self.transport.exchange(self.time, bytes(byte for _, byte in measured)))
        return sum(loss for loss, _ in measured) / len(measured)

    @torch.no_grad()
    def measure(self, sample: int, closure: Closure) -> tuple[float, int]:
        """Mean of the two losses of a sample, and the byte of their slope. The weights stay as they are."""
        ahead, behind = (self._loss(closure, sample, sign) for sign in (1.0, -1.0))
        chance = uniform(self.seed, self.time, self.machine, sample)
        return (ahead + behind) / 2, self.codec.encode((ahead - behind) / (2 * self.eps), chance)

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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the step of a checkpoint, whose weights the model has.

        Raises:
            ValueError: where a log has brought weights and time forward already.
        """
        if self.log.entries:
            raise ValueError(
                f"the log has made {len(self.log)} steps of these weights; a checkpoint would count them twice. Go on from the log "
                "and the first weights, or from a checkpoint with a new log."
            )
        super().load_state_dict(state_dict)

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

    def direction(self, step: int, machine: int, sample: int) -> Direction:
        """The direction of a sample: from the name of a parameter to a tensor of its shape; each has a seed of its own."""
        places = {name: index for index, name in enumerate(self.named)}

        def of(name: str) -> Tensor:
            p = self.named[name]
            return self.noise(p.shape, mix(self.run, step, machine, sample, places[name]), p.device, p.dtype)

        return of

    def _loss(self, closure: Closure, sample: int, sign: float) -> float:
        direction = self.direction(self.time, self.machine, sample)
        with self.evaluation.along(direction, sign * self.eps) as params:
            return float(closure(params).detach())

    @torch.no_grad()
    def _apply(self, step: int, messages: Messages) -> None:
        present = [(m, s, b) for m, given in sorted(messages.items()) for s, b in enumerate(given) if b != ABSENT]
        if not present:
            return
        self.param_groups[0]["lr"] = self.gain(step)
        scale = self.param_groups[0]["lr"] / REDUCE[self.reduce](len(present))
        for machine, sample, byte in present:
            change = -scale * self.codec.decode(byte)
            if change:
                direction = self.direction(step, machine, sample)
                for name, p in self.named.items():
                    p.add_(direction(name) * change)

    def _warn_of_saturation(self) -> None:
        if self.codec.encoded >= 100 and self.codec.saturation > MOST_SATURATED:
            warnings.warn(
                f"{self.codec.saturation:.1%} of the slopes are larger than a byte holds: lower the codec's offset, or scale the loss.",
                stacklevel=3,
            )
            self.codec.encoded = self.codec.saturated = 0
