"""CUDA graphs: a piece of work of fixed shapes is recorded once and replayed, without a launch from the host for each kernel.

Small systems spend their time on launches, not on the GPU: molecular dynamics of a molecule, or a training step on five of
them. Everything that is recorded reads and writes the same memory every time, so inputs are copied into place before a replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ponita.data.batching import copy_edges, to_device
from ponita.geometry import EdgeSet
from ponita.models import EnergyForces, Potential

WARM_UPS = 3  # calls before the recording, in which kernels are compiled and chosen

Inputs = Mapping[str, Any]
Outputs = tuple[Tensor, ...]


class Captured:
    """Work that was recorded for inputs of fixed shapes.

    Args:
        work: from inputs by name to a tuple of tensors; must not wait for the device.
        example: tensors, an `EdgeSet`, and plain numbers. Later inputs may have other values in the tensors and the
            edges; shapes, numbers of edges and of pairs, and plain numbers stay.
        device: to run on.
        warm_ups: calls before the recording.
        after_warm_ups: called between these and the recording.

    Raises:
        ValueError: for a device without CUDA.
    """

    def __init__(
        self,
        work: Callable[[Inputs], Outputs],
        example: Inputs,
        device: torch.device,
        warm_ups: int = WARM_UPS,
        after_warm_ups: Callable[[], None] = lambda: None,
    ) -> None:
        self._check_device(device)
        self._inputs = {name: _static(value, device) for name, value in example.items()}
        self._replay, self._outputs = _record(lambda: work(self._inputs), device, warm_ups, after_warm_ups)

    def __call__(self, **inputs: Any) -> Outputs:
        """Replay with other values.

        Args:
            **inputs: by the names of the example; what is left out stays as it was.

        Returns:
            What the work returns, in memory of its own.

        Raises:
            ValueError: for a name, shape, dtype or number that the recording does not have.
        """
        for name, value in inputs.items():
            if name not in self._inputs:
                raise ValueError(f"input {name!r} was not recorded; expected some of {list(self._inputs)}.")
            _copy_into(name, self._inputs[name], value)
        self._replay()
        return tuple(output.clone() for output in self._outputs)

    @staticmethod
    def _check_device(device: torch.device) -> None:
        if device.type != "cuda":
            raise ValueError(f"CUDA graphs need a CUDA device, and this is on {device}; call the work as it is.")


def capture_inference(potential: Potential, example: Inputs) -> Callable[..., EnergyForces]:
    """Energies and forces of a potential on structures of one size, as a CUDA graph.

    Weights are read where they are: a change in place counts, but kernels remembered of frozen weights are those at the
    time of the recording, so capture again after training on.

    Args:
        potential: on a CUDA device.
        example: arguments of `Potential.forward`: positions, numbers, an `EdgeSet` as `edge_index`, and, with `batch`,
            `num_graphs`.

    Returns:
        A function of inputs by name, `energy_forces(pos=...)`, that leaves what is not given as it was.

    Raises:
        ValueError: for a potential on the CPU, or edges and numbers of graphs that would be made in every call; when
            called, for shapes other than the example's.
    """
    _check_inputs(example)
    captured = Captured(lambda inputs: tuple(potential.energy_forces(**inputs)), example, _device_of(potential))
    return lambda **inputs: EnergyForces(*captured(**inputs))


def capture_training_step(
    loss: Callable[[nn.Module, Inputs], Tensor],
    model: nn.Module,
    optimizer: torch.optim.Adam,
    example: Inputs,
    max_norm: float | None = None,
) -> Callable[..., Tensor]:
    """A step of training on batches of one shape, as a CUDA graph: loss, gradients, clipping, optimiser.

    The weights and the optimiser are as before when this returns. Gradients stay in the graph's memory: do not set them
    to None. A schedule reaches the graph through a learning rate that is a tensor on the device.

    Args:
        loss: of the model and inputs by name; must not wait for the device.
        model: on a CUDA device.
        optimizer: `Adam` or `AdamW` of its parameters, made with `capturable=True`.
        example: inputs, with an `EdgeSet` as `edge_index`, and with `num_graphs` where there is a `batch`.
        max_norm: of all gradients together; they are scaled down to it.

    Returns:
        A function of inputs by name that does a step and returns its loss.

    Raises:
        ValueError: for a model on the CPU, another optimiser, or edges that would be made in every step; when called,
            for shapes other than the example's.
    """
    _check_inputs(example)
    _check_optimizer(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    saved = _Saved(parameters, optimizer)

    def step(inputs: Inputs) -> Outputs:
        value = loss(model, inputs)
        value.backward()
        if max_norm is not None:
            nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)
        optimizer.step()
        return (value.detach(),)

    def work(inputs: Inputs) -> Outputs:
        # With no gradients there, the recording makes them in its own memory, and every replay writes them anew.
        optimizer.zero_grad(set_to_none=True)
        return step(inputs)

    captured = Captured(work, example, _device_of(model), after_warm_ups=saved.restore)
    return lambda **inputs: captured(**inputs)[0]


class _Saved:
    """Weights and optimiser as they were before the warm-up."""

    def __init__(self, parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
        self.parameters, self.optimizer = parameters, optimizer
        self.weights = [p.detach().clone() for p in parameters]
        self.state = {p: {k: v.clone() for k, v in optimizer.state[p].items()} for p in optimizer.state}

    @torch.no_grad()
    def restore(self) -> None:
        """Put the values back into the same memory; what Adam made meanwhile starts from zero."""
        for parameter, weight in zip(self.parameters, self.weights, strict=True):
            parameter.copy_(weight)
        for parameter, state in self.optimizer.state.items():
            before = self.state.get(parameter, {})
            for name, value in state.items():
                value.copy_(before[name]) if name in before else value.zero_()


def _record(
    work: Callable[[], Outputs], device: torch.device, warm_ups: int, after_warm_ups: Callable[[], None]
) -> tuple[Callable[[], None], Outputs]:
    """Warm up on a stream of its own, as a recording demands, then record; how to replay, and where the results are."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(warm_ups):
                work()
            after_warm_ups()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = work()
    return graph.replay, outputs


def _static(value: Any, device: torch.device) -> Any:
    if isinstance(value, EdgeSet):
        return copy_edges(value.to("cpu"), device)
    return to_device(value.detach(), device) if isinstance(value, Tensor) else value


def _copy_into(name: str, static: Any, value: Any) -> None:
    if isinstance(static, EdgeSet):
        _copy_edges_into(name, static, value)
    elif not isinstance(static, Tensor):
        if value != static:
            raise ValueError(f"{name} is {value!r}; the graph was captured with {static!r}: capture another one.")
    else:
        shape = list(value.shape) if isinstance(value, Tensor) else None
        if shape != list(static.shape) or value.dtype != static.dtype:
            dtype = getattr(value, "dtype", type(value).__name__)
            raise ValueError(
                f"{name} has shape {shape} and dtype {dtype}; the graph was captured for {list(static.shape)} and "
                f"{static.dtype}: capture another one for this shape."
            )
        static.copy_(value.detach(), non_blocking=True)


def _copy_edges_into(name: str, static: EdgeSet, value: Any) -> None:
    if not isinstance(value, EdgeSet):
        raise ValueError(f"{name} is a {type(value).__name__}; expected an EdgeSet, as it was captured with.")
    sizes = [(e.num_nodes, e.num_edges, e.num_pairs, e.num_two_way) for e in (value, static)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{name} has {sizes[0]} points, edges, pairs, and pairs of two edges; the graph was captured for {sizes[1]}: "
            "capture another one."
        )
    new = copy_edges(value.to("cpu"), static.pair_index.device)
    for target, source in zip(_tensors(static), _tensors(new), strict=True):
        target.copy_(source)


def _tensors(edges: EdgeSet) -> Iterator[Tensor]:
    """All tensors that a network may read of edges that `copy_edges` made."""
    between, loops = edges.without_loops
    for part in (edges,) if between is edges else (edges, between):
        yield from (value for value in vars(part).values() if isinstance(value, Tensor))
        yield from part.graph
    if loops is not None:
        yield loops


def _check_inputs(example: Inputs) -> None:
    edges = example.get("edge_index")
    if not isinstance(edges, EdgeSet):
        raise ValueError(
            f"edge_index is a {type(edges).__name__}; expected an EdgeSet, since edges are sorted and matched on the host: "
            "EdgeSet.from_edge_index(edge_index, num_nodes)."
        )
    if example.get("batch") is not None and example.get("num_graphs") is None:
        raise ValueError("num_graphs is missing beside batch; a graph cannot count its own: pass it.")


def _check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    if not isinstance(optimizer, torch.optim.Adam):
        raise ValueError(f"the optimizer is {type(optimizer).__name__}; expected torch.optim.Adam or AdamW.")
    if not all(group["capturable"] for group in optimizer.param_groups):
        raise ValueError("the optimizer counts its steps on the host; make it with capturable=True.")


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
