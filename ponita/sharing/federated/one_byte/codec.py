"""A number in one byte: a sign and 127 levels, even in their logarithm."""

from __future__ import annotations

import math

#: Codes that are no level: nothing, and a sender that has nothing to say.
ZERO, ABSENT = 0x00, 0x80
LEVELS = 127


class ByteCodec:
    """Bit 7 is the sign, bits 0 to 6 are m = 1 ... 127 of |g| = exp((m - 1) / steps_per_e - offset).

    By default from 3.4e-4 to 2.3e3 in steps of 13 %. Values between two levels (and between zero and the least) are rounded
    to either, by chance, so that the mean of what is decoded is the value; values above the greatest are cut.

    Args:
        steps_per_e: levels in a factor of e.
        offset: minus the logarithm of the least level.

    Attributes:
        encoded: values so far.
        saturated: those that were cut.

    Raises:
        ValueError: unless there are steps.
    """

    def __init__(self, steps_per_e: float = 8.0, offset: float = 8.0) -> None:
        if not steps_per_e > 0:
            raise ValueError(f"steps_per_e={steps_per_e}; expected a positive number.")
        self.steps_per_e, self.offset = steps_per_e, offset
        self.encoded = self.saturated = 0

    def encode(self, g: float, u: float | None = None) -> int:
        """The byte of a number; `ABSENT` where it is not finite.

        Args:
            g: the number.
            u: uniform in [0, 1), for rounding by chance; the nearest level (in the logarithm) where None.
        """
        if not math.isfinite(g):
            return ABSENT
        self.encoded += 1
        level = self._level(abs(g), u)
        return ZERO if level == 0 else level | (0x80 if g < 0 else 0)

    def decode(self, byte: int) -> float:
        """The number of a byte; nan for `ABSENT`.

        Raises:
            ValueError: for what is no byte.
        """
        if not 0 <= byte <= 255:
            raise ValueError(f"{byte} is no byte; expected 0 to 255.")
        if byte in (ZERO, ABSENT):
            return 0.0 if byte == ZERO else math.nan
        size = self._size(byte & 0x7F)
        return -size if byte & 0x80 else size

    @property
    def saturation(self) -> float:
        """Share of the values that were cut; above a hundredth, the codec needs a smaller `offset`."""
        return self.saturated / self.encoded if self.encoded else 0.0

    def _size(self, level: int) -> float:
        return math.exp((level - 1) / self.steps_per_e - self.offset)

    def _level(self, size: float, u: float | None) -> int:
        if size >= self._size(LEVELS):
            self.saturated += size > self._size(LEVELS)
            return LEVELS
        least = self._size(1)
        if size < least:
            return int(size / least > (0.5 if u is None else u))
        place = 1 + self.steps_per_e * (math.log(size) + self.offset)
        if u is None:
            return min(LEVELS, max(1, round(place)))
        below = min(LEVELS - 1, max(1, math.floor(place)))
        low, high = self._size(below), self._size(below + 1)
        return below + int((size - low) / (high - low) > u)
