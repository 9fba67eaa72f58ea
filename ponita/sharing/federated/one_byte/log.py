"""The bytes of all steps: enough to make every later state of the weights from the first."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from ponita.sharing.federated.one_byte.transport import Messages


class ByteLog:
    """Messages of each step, in memory and, where there is a path, in a file that grows by a line a step.

    A line that was cut by a crash, or does not match its checksum, ends the log: what came before it stands.

    Args:
        path: of the file; read first, if it is there.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.entries: list[tuple[int, Messages]] = []
        if self.path is not None and self.path.is_file():
            self._recover()

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[tuple[int, Messages]]:
        return iter(self.entries)

    def append(self, step: int, messages: Messages) -> None:
        """Keep what was applied in a step.

        Raises:
            ValueError: for a step that does not follow the last one.
        """
        expected = self.entries[-1][0] + 1 if self.entries else step
        if step != expected:
            raise ValueError(f"step {step} does not follow the last one, {expected - 1}; a log has no gaps.")
        self.entries.append((step, dict(messages)))
        if self.path is not None:
            with self.path.open("a", encoding="ascii") as file:
                file.write(_line(step, messages))
                file.flush()

    @property
    def num_bytes(self) -> int:
        """Payload of all steps."""
        return sum(len(message) for _, messages in self.entries for message in messages.values())

    def _recover(self) -> None:
        """Read whole lines, and cut the file behind them."""
        kept = 0
        with self.path.open("rb") as file:
            for line in file:
                entry = _parsed(line)
                if entry is None:
                    break
                self.entries.append(entry)
                kept += len(line)
        with self.path.open("r+b") as file:
            file.truncate(kept)


def _line(step: int, messages: Messages) -> str:
    body = json.dumps([step, {str(machine): message.hex() for machine, message in sorted(messages.items())}])
    return f"{zlib.crc32(body.encode()):08x} {body}\n"


def _parsed(line: bytes) -> tuple[int, Messages] | None:
    checksum, _, body = line.decode("ascii", errors="replace").rstrip("\n").partition(" ")
    if not line.endswith(b"\n") or checksum != f"{zlib.crc32(body.encode()):08x}":
        return None
    step, messages = json.loads(body)
    return step, {int(machine): bytes.fromhex(message) for machine, message in messages.items()}
