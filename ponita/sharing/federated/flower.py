"""FedAU, and the servers it is compared with, as a strategy of Flower (Message API, flwr 1.27 to 1.x; extra `flower`).

Not by Flower's weighted average: that divides by the sum of the weights of those who replied, which is biased.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from ponita.data.atomic import replacing
from ponita.sharing.federated.servers import Server

LOG = getLogger("flwr")  # that of Flower, so that its commands show our lines between theirs


class ServerStrategy(FedAvg):
    """Lets a `Server` of this package average what Flower's clients send.

    A reply holds the state after local training in one ArrayRecord, and in its MetricRecord "num-examples" and the number of the
    lab under `client_key`: node ids of Flower are drawn anew when a node starts again, a lab's number is not. A lab that did not
    reply, replied with an error or with what is not finite is absent, and that counts.

    Args:
        server: with the roster of all labs.
        names: of the labs by their numbers from 0, as on the roster; the numbers as text where None.
        client_key: of the lab's number.
        checkpoint: file that keeps what the server knows of the labs, read if it is there; written after each round.
        **options: of `flwr.serverapp.strategy.FedAvg`, such as fraction_evaluate.

    Attributes:
        present: names of the labs that took part in the last round.

    Raises:
        ValueError: for names that are not those of the roster.
    """

    def __init__(
        self,
        server: Server,
        *,
        names: Sequence[str] | None = None,
        client_key: str = "lab",
        checkpoint: Path | str | None = None,
        **options: Any,
    ) -> None:
        settings = {"fraction_train": 1.0, "min_train_nodes": 1, "min_available_nodes": 1, "min_evaluate_nodes": 1}
        super().__init__(**{**settings, **options})
        if names is not None and sorted(names) != server.clients:
            raise ValueError(f"names={list(names)}; expected those of the roster {server.clients}.")
        self.server, self.names, self.client_key = server, names, client_key
        self.present: list[str] = []
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self._state: dict[str, Tensor] = {}
        if self.checkpoint is not None and self.checkpoint.is_file():
            server.load_state_dict(torch.load(self.checkpoint, weights_only=True))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Remember what the labs begin with."""
        self._state = {name: value.clone() for name, value in arrays.to_torch_state_dict().items()}
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average; also a round that nobody replied in is a round.

        Raises:
            ValueError: for a reply without its lab's number, two of one lab, or a lab that is not on the roster.
        """
        updates: dict[str, dict[str, Tensor]] = {}
        for reply in replies:
            if reply.has_error():
                LOG.info("round %d, no update: %s", server_round, reply.error.reason)
                continue
            lab = self._lab_of(reply)
            if lab in updates:
                raise ValueError(
                    f"two replies of lab {lab} in round {server_round}; give each node a number of its own."
                )
            updates[lab] = self._update(reply)
        state = self.server.step(self._state, updates)
        self._keep()
        self.present = sorted(set(updates) - set(self.server.rejected))
        return ArrayRecord(state), MetricRecord({"labs": len(self.present), "rejected": len(self.server.rejected)})

    def _lab_of(self, reply: Message) -> str:
        metrics = next(iter(reply.content.metric_records.values()), {})
        if self.client_key not in metrics:
            raise ValueError(
                f"a reply has no {self.client_key!r} among its metrics {sorted(metrics)}; send the number of the lab in the MetricRecord."
            )
        number = int(metrics[self.client_key])
        if self.names is None:
            return str(number)
        if not 0 <= number < len(self.names):
            raise ValueError(f"a reply of lab {number}; expected a number from 0 to {len(self.names) - 1}.")
        return self.names[number]

    def _update(self, reply: Message) -> dict[str, Tensor]:
        """State after local training minus state before; what is no number of the network is left out."""
        after = next(iter(reply.content.array_records.values())).to_torch_state_dict()
        return {
            name: torch.as_tensor(value) - self._state[name] if name in self._state else value
            for name, value in after.items()
            if value.is_floating_point()
        }

    def _keep(self) -> None:
        if self.checkpoint is not None:
            with replacing(self.checkpoint) as temporary:
                torch.save(self.server.state_dict(), temporary)
