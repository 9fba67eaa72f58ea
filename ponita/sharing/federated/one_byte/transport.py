"""How bytes reach the other machines. Every machine gets the same set, in which absence is explicit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist

from ponita.sharing.federated.one_byte.codec import ABSENT

#: Bytes of every machine of the roster, by its number.
Messages = dict[int, bytes]


class Transport(Protocol):
    """Exchanges the bytes of a step.

    Attributes:
        machine: number of this machine.
        sent: bytes that it sent, as payload of steps.
    """

    machine: int
    sent: int

    def exchange(self, step: int, mine: bytes) -> Messages:
        """Bytes of all machines, the same on each of them."""

    def agree(self, step: int, digest: str) -> bool:
        """Whether all machines that are present have the same digest."""


class LocalTransport:
    """One machine.

    Args:
        machine: its number.
    """

    def __init__(self, machine: int = 0) -> None:
        self.machine, self.sent = machine, 0

    def exchange(self, step: int, mine: bytes) -> Messages:
        return {self.machine: mine}

    def agree(self, step: int, digest: str) -> bool:
        return True


class TorchDistTransport:
    """All processes of a group of `torch.distributed`, by all_gather of uint8: who is in the group must be there.

    The number of a machine is its rank.

    Args:
        group: the default one where None.

    Raises:
        ValueError: where there is no group yet.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if not dist.is_initialized():
            raise ValueError(
                "there is no process group yet: call torch.distributed.init_process_group first. In Lightning there is one when "
                "OneByteMixin calls one_byte()."
            )
        self.group, self.machine, self.sent = group, dist.get_rank(group), 0

    def exchange(self, step: int, mine: bytes) -> Messages:
        self.sent += len(mine)
        return dict(enumerate(self._gather(mine)))

    def agree(self, step: int, digest: str) -> bool:
        return len(set(self._gather(bytes.fromhex(digest)))) == 1

    def _gather(self, mine: bytes) -> list[bytes]:
        device = "cuda" if dist.get_backend(self.group) == "nccl" else "cpu"
        own = torch.frombuffer(bytearray(mine), dtype=torch.uint8).to(device)
        gathered = [torch.empty_like(own) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(gathered, own, group=self.group)
        return [tensor.cpu().numpy().tobytes() for tensor in gathered]


class StoreTransport:
    """Machines that may come and go, through a key-value store such as `torch.distributed.TCPStore`.

    The leader waits for the bytes of all on the roster, until `patience` is over, and then decides which counted: whoever came
    too late is absent in that step, on every machine. A machine that is started again replays the decisions it missed
    (`since`) and goes on. The leader is the machine that holds the store; without it nobody goes on, and a new one starts
    from the log.

    Args:
        store: that all reach.
        machine: number of this one.
        roster: numbers of all there are.
        leader: which of them decides.
        patience: seconds that the leader waits for the slowest.

    Raises:
        ValueError: for a machine or leader that is not on the roster.
    """

    def __init__(
        self, store: dist.Store, machine: int, roster: Sequence[int], leader: int = 0, patience: float = 30.0
    ) -> None:
        self.store, self.machine, self.roster = store, machine, sorted(set(roster))
        self.leader, self.patience, self.sent = leader, patience, 0
        if not {machine, leader} <= set(self.roster):
            raise ValueError(f"machine {machine} and leader {leader}; expected both on the roster {self.roster}.")

    def exchange(self, step: int, mine: bytes) -> Messages:
        self.store.set(f"bytes/{step}/{self.machine}", mine)
        self.sent += len(mine)
        if self.machine == self.leader:
            self._decide(step, len(mine))
        return self._decision(step)

    def agree(self, step: int, digest: str) -> bool:
        self.store.set(f"digest/{step}/{self.machine}", digest)
        if self.machine == self.leader:
            found = {self._read(f"digest/{step}/{machine}") for machine in self.roster} - {None}
            self.store.set(f"agreed/{step}", str(len(found) == 1))
        return self.store.get(f"agreed/{step}") == b"True"

    def missed(self, step: int) -> Messages | None:
        """What was decided of a step; None where nothing was yet."""
        return self._decision(step) if self.store.check([f"decided/{step}"]) else None

    def since(self, step: int) -> Iterator[tuple[int, Messages]]:
        """Steps from a number on that are decided, as a log has them: for `OneByteSPSA.replay`."""
        while (messages := self.missed(step)) is not None:
            yield step, messages
            step += 1

    def _decide(self, step: int, length: int) -> None:
        nothing = bytes([ABSENT]) * length
        given = {machine: self._read(f"bytes/{step}/{machine}") for machine in self.roster}
        publish(self.store, step, {m: nothing if b is None or len(b) != length else b for m, b in given.items()})

    def _decision(self, step: int) -> Messages:
        self.store.wait([f"decided/{step}"], timedelta(seconds=10 * self.patience))
        return {int(machine): bytes.fromhex(b) for machine, b in json.loads(self.store.get(f"decided/{step}")).items()}

    def _read(self, key: str) -> bytes | None:
        try:
            self.store.wait([key], timedelta(seconds=self.patience))
        except (RuntimeError, dist.DistStoreError):
            return None
        return self.store.get(key)


def publish(store: dist.Store, step: int, messages: Messages) -> None:
    """Write what counts in a step, for all to read; also what a log says, before machines of an earlier run go on.

    Args:
        store: that all reach.
        step: its number.
        messages: of all machines of the roster.
    """
    store.set(f"decided/{step}", json.dumps({machine: sent.hex() for machine, sent in messages.items()}))
