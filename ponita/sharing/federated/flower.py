"""FedAU, and the servers it is compared with, as a strategy of Flower (Message API, flwr 1.27 to 1.x; extra `flower`).

Not by Flower's weighted average: that divides by the sum of the weights of those who replied, which is biased.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from ponita.data.atomic import replacing
from ponita.sharing.federated.servers import Server


class ServerStrategy(FedAvg):
    """Lets a `Server` of this package average what Flower's clients send.

    A reply holds the state after local training in one ArrayRecord, and in its MetricRecord "num-examples" and the number of the
    lab under `client_key`: node ids of Flower are drawn anew when a node starts again, a lab's number is not. A lab that did not
    reply, replied with an error or with what is not finite is absent, and that counts.

    Args:
        server: with the roster of all labs, whose names are the numbers as text.
        client_key: of the lab's number.
        checkpoint: file that keeps what the server knows of the labs, read if it is there; written after each round.
        **options: of `flwr.serverapp.strategy.FedAvg`, such as fraction_evaluate.
    """

    def __init__(
        self, server: Server, *, client_key: str = "lab", checkpoint: Path | str | None = None, **options: Any
    ) -> None:
        settings = {"fraction_train": 1.0, "min_train_nodes": 1, "min_available_nodes": 1, "min_evaluate_nodes": 1}
        super().__init__(**{**settings, **options})
        self.server, self.client_key = server, client_key
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self._state: dict[str, Tensor] = {}
        if self.checkpoint is not None and self.checkpoint.is_file():
            server.load_state_dict(json.loads(self.checkpoint.read_text(encoding="utf-8")))

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
                continue
            lab = self._lab_of(reply)
            if lab in updates:
                raise ValueError(
                    f"two replies of lab {lab} in round {server_round}; give each node a number of its own."
                )
            updates[lab] = self._update(reply)
        state = self.server.step(self._state, updates)
        self._keep()
        present = len(updates) - len(self.server.rejected)
        return ArrayRecord(state), MetricRecord({"labs": present, "rejected": len(self.server.rejected)})

    def _lab_of(self, reply: Message) -> str:
        metrics = next(iter(reply.content.metric_records.values()), {})
        if self.client_key not in metrics:
            raise ValueError(
                f"a reply has no {self.client_key!r} among its metrics {sorted(metrics)}; send the number of the lab in the MetricRecord."
            )
        return str(int(metrics[self.client_key]))

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
                temporary.write_text(json.dumps(self.server.state_dict()), encoding="utf-8")
