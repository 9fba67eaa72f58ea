"""Attention over the edges into a point, as an option of the convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from ponita.geometry.edges import EdgeSet


class EdgeAttention(nn.Module):
    """Weights of the messages into a point that sum to one, at every orientation (the published rewrite's option).

    Keys of the senders meet queries of the receivers, both linear in the features at the same orientation:
    w[e,o] = softmax over the edges e into i of key(x[j,o]).query(x[i,o]) / sqrt(A).

    Args:
        channels: C.
        attention_channels: A, width of keys and queries.

    Shape:
        x [N, O, C], edges with E edges -> [E, O], in the order of `edges.edge_index`
    """

    def __init__(self, channels: int, attention_channels: int) -> None:
        super().__init__()
        self.key = nn.Linear(channels, attention_channels)
        self.query = nn.Linear(channels, attention_channels)

    def forward(self, x: Tensor, edges: EdgeSet) -> Tensor:
        from torch_geometric.utils import (
            softmax,
        )  # here, since it takes seconds that users of other layers need not wait

        sender, receiver = edges.edge_index
        key, query = self.key(x).index_select(0, sender), self.query(x).index_select(0, receiver)
        logits = (key * query).sum(-1) / self.key.out_features**0.5
        return softmax(logits, receiver, num_nodes=edges.num_nodes)
