"""What the backward functions of registered operators read: saved tensors, the graph both ways round, the options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ponita.geometry.edges import transpose


def save_inputs(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
    """Keep tensors (or None for one) and the graph's tensors for `saved`, all other arguments as `ctx.options`."""
    tensors = [value for value in inputs if value is None or isinstance(value, Tensor)]
    graph = next((value for value in inputs if _is_graph(value)), ())
    ctx.options = [v for v in inputs if not (v is None or isinstance(v, Tensor) or _is_graph(v))]
    ctx.num_tensors = len(tensors)
    ctx.no_gradients = [[None] * len(value) if _is_graph(value) else None for value in inputs]
    ctx.save_for_backward(*tensors, *graph)


def saved(ctx: Any) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
    """The tensors; the graph; and the graph with its edges turned round."""
    everything = ctx.saved_tensors
    graph = everything[ctx.num_tensors :]
    return everything[: ctx.num_tensors], graph, transpose(graph)


def pad(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
    """Gradients of the leading floating arguments, None for the rest."""
    return (*gradients, *ctx.no_gradients[len(gradients) :])


def _is_graph(value: Any) -> bool:
    """Whether an argument is a list of tensors; lists of flags are options."""
    return isinstance(value, list | tuple) and all(isinstance(item, Tensor) for item in value)
