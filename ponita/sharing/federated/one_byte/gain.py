"""Steps that shrink with their number, known to everyone from that number alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gain:
    """The gain sequence a_k = lr / (1 + k / delay)^power of SPSA; constant where the power is 0.

    It does not ask how many steps there will be, so a run can be made longer, and its log replayed, with the same bits.

    Args:
        lr: of the first step.
        power: alpha.
        delay: A, steps after which the first step is divided by 2^power.

    Raises:
        ValueError: unless lr and delay are positive, and the power is not negative.

    Source: Spall, IEEE Trans. Aerosp. Electron. Syst. 34, 817 (1998), where alpha = 0.602 is advised.
    """

    lr: float
    power: float = 0.0
    delay: float = 1.0

    def __post_init__(self) -> None:
        if not self.lr > 0 or not self.delay > 0 or not self.power >= 0:
            raise ValueError(
                f"lr={self.lr}, power={self.power}, delay={self.delay}; expected positive numbers, and a power of 0 or more."
            )

    def __call__(self, step: int) -> float:
        """The step of a number, from 0."""
        return self.lr / (1 + step / self.delay) ** self.power
