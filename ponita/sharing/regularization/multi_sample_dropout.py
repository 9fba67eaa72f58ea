"""Several dropout masks of the same features in one step (multi-sample dropout, Inoue, arXiv 1905.09788)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ponita.models.ponita import Output, Ponita
from ponita.nn import Readout, pool


def check_dropout(samples: int, p: float) -> None:
    """Raise ValueError unless there is at least one sample, and p is a probability below 1."""
    if samples < 1 or not 0 <= p < 1:
        raise ValueError(f"samples={samples}, p={p}; expected at least one sample, and 0 <= p < 1.")


class MultiSampleHead(nn.Module):
    """A head that is run on M masks of its features; the loss is the mean of the samples' losses.

    The trunk runs once and no weights are added. Averaging the outputs before the loss would be another, weaker regulariser:
    of a squared error it leaves out the variance of the samples.

    Args:
        head: any module of features [G, C].
        samples: M.
        p: probability that a feature is dropped.

    Shape:
        [G, C] -> [M, G, ...] in training, [1, G, ...] otherwise

    Raises:
        ValueError: for less than one sample, or p outside [0, 1).
    """

    def __init__(self, head: nn.Module, samples: int = 8, p: float = 0.5) -> None:
        super().__init__()
        check_dropout(samples, p)
        self.head, self.samples, self.p = head, samples, p

    def forward(self, h: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return self.head(h)[None]
        return self.head(nn.functional.dropout(h.expand(self.samples, *h.shape), self.p))

    def loss(self, h: Tensor, target: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Mean over the samples of function(output, target), a scalar."""
        return torch.stack([function(output, target) for output in self(h)]).mean()


class ReadoutSampler:
    """Multi-sample dropout of the read-outs of a network, in training.

    The network returns the mean of the samples, and `deviations` what each adds to it, so a loss can be averaged over
    samples, while forces are the gradient of the mean energy, taken once. The force loss then lacks the variance that forces
    have over the samples, which would cost M backward passes.

    There is one mask for each sample, graph and channel, shared by points and orientations: each sample is as
    equivariant as the network. Read-outs are linear, so this is dropout of the features that are pooled over a graph.

    Args:
        network: in bundle mode; its read-outs get hooks, which `remove` takes away.
        samples: M.
        p: probability that a channel is dropped.

    Raises:
        ValueError: for less than one sample, p outside [0, 1), or a network in cloud mode.
    """

    def __init__(self, network: Ponita, samples: int = 8, p: float = 0.5) -> None:
        check_dropout(samples, p)
        if network.config["mode"] == "cloud":
            raise ValueError("in cloud mode a read-out does not know which graph a point is of; use mode='bundle'.")
        self.samples, self.p = samples, p
        self._mode = network.config["pooling"]
        self._graph: Tensor | None = None
        self._drawn: list[tuple[Tensor, Tensor]] = []
        self._handles = [readout.register_forward_hook(self._hook) for readout in network.readouts.values()]

    def begin(self, graph: Tensor, num_graphs: int, generator: torch.Generator | None = None) -> None:
        """Before the network is run on a batch in training.

        Args:
            graph: [N] graph of each point.
            num_graphs: G.
            generator: of the masks, on the CPU.
        """
        self._graph, self._num_graphs, self._generator = graph, num_graphs, generator
        self._drawn = []

    def deviations(self) -> Output:
        """What the samples of the last run add to the mean that the network returned: [M, G, S] and [M, G, V, d].

        Where nothing was sampled (in evaluation, or without `begin`), a single sample of zero that fits any output.
        """
        if not self._drawn:
            return Output(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, 1))
        parts = [torch.stack(part).mean(0) for part in zip(*self._drawn, strict=True)]
        self._graph, self._drawn = None, []
        return Output(*(part - part.mean(0) for part in parts))

    def remove(self) -> None:
        """Leave the network as it was."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, readout: Readout, inputs: tuple[Tensor, Tensor], output: object) -> object:
        if self._graph is None or not readout.training or self.p == 0:
            return output
        x, axes = inputs
        shape = (self.samples, self._num_graphs, x.shape[-1])
        kept = torch.rand(shape, generator=self._generator) >= self.p
        masks = kept.to(x) / (1 - self.p)
        outputs = [readout.forward(x * mask.index_select(0, self._graph)[:, None], axes) for mask in masks]
        scalars, vectors = (torch.stack(part) for part in zip(*outputs, strict=True))
        self._drawn.append(tuple(self._pooled(part) for part in (scalars, vectors)))
        return scalars.mean(0), vectors.mean(0)

    def _pooled(self, values: Tensor) -> Tensor:
        """[M, N, ...] to [M, G, ...]."""
        if self._mode is None:
            return values
        return torch.stack([pool(sample, self._graph, self._num_graphs, self._mode) for sample in values])
