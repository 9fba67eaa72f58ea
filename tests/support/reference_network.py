"""The published network written out line by line, as the oracle for the checkpoint importer.

Nothing here is shared with the library: both sides are written from the description of the published code, so an
agreement between them is evidence. The code favours the literal over the fast. Letters: N points, E edges,
O orientations, C channels, B basis functions, d dimension, G graphs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

State = dict[str, Tensor]


def random_reference_state(
    *,
    in_scalars: int,
    in_vectors: int,
    out_scalars: int,
    out_vectors: int,
    hidden: int,
    basis: int,
    layers: int,
    widening: int = 4,
    degree: int = 3,
    bundle: bool = True,
    layer_scale: float | None = None,
    multiple_readouts: bool = True,
    radius: float | None = None,
    attributes: int | None = None,
    attention: int | None = None,
    basis_hidden: int | None = None,
    prefix: str = "",
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> State:
    """Random weights under exactly the names and shapes that the published code saves.

    Weights are normal with variance 1 / fan-in. Biases, norm weights and layer scales are random as well, so that
    dropping or swapping any of them changes the output. `layer_scale` only says whether that entry exists; its
    values are of order one because a true 1e-6 would hide every mistake. `radius` adds the window's two buffers.
    `attributes` is the number of attributes of an edge where it is not that of a bundle (2) or of distances (1): 3 for
    a conditioned bundle, and for a point cloud, which has `bundle=False`. `attention` is the width of keys and queries.
    `basis_hidden` is the width inside the basis networks where it is not `hidden`.
    """
    generator = torch.Generator().manual_seed(seed)
    state: State = {}

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        state[f"{name}.weight"] = normal(outputs, inputs) / math.sqrt(inputs)
        if bias:
            state[f"{name}.bias"] = 0.3 * normal(outputs)

    def random_basis(name: str, attributes: int) -> None:
        width = hidden if basis_hidden is None else basis_hidden
        linear(f"{name}.1", sum(attributes**power for power in range(1, degree + 1)), width)
        linear(f"{name}.3", width, basis)

    def layer(name: str) -> None:
        linear(f"{name}.conv.kernel", basis, hidden, bias=False)
        if bundle:
            linear(f"{name}.conv.fiber_kernel", basis, hidden, bias=False)
        if attention is not None:
            linear(f"{name}.conv.key_transform", hidden, attention)
            linear(f"{name}.conv.query_transform", hidden, attention)
        state[f"{name}.conv.bias"] = 0.3 * normal(hidden)
        state[f"{name}.conv.callibrated"] = torch.tensor(True)
        linear(f"{name}.linear_1", hidden, widening * hidden)
        linear(f"{name}.linear_2", widening * hidden, hidden)
        state[f"{name}.norm.weight"] = 1 + 0.3 * normal(hidden)
        state[f"{name}.norm.bias"] = 0.3 * normal(hidden)
        if layer_scale is not None:
            state[f"{name}.layer_scale"] = 0.7 + 0.3 * normal(hidden)

    random_basis("basis_fn", attributes or (2 if bundle else 1))
    if bundle:
        random_basis("fiber_basis_fn", 1)
    if radius is not None:
        state["windowing_fn.p"] = torch.tensor(6.0, dtype=torch.float64)
        state["windowing_fn.r_max"] = torch.tensor(float(radius), dtype=torch.float64)
    linear("x_embedder", in_scalars + in_vectors, hidden, bias=False)
    for index in range(layers):
        layer(f"interaction_layers.{index}")
        if multiple_readouts or index == layers - 1:
            linear(f"read_out_layers.{index}", hidden, out_scalars + out_vectors)
    return {prefix + key: value if value.dtype == torch.bool else value.to(dtype) for key, value in state.items()}


def reference_forward(
    state: State,
    pos: Tensor,
    edge_index: Tensor,
    x: Tensor | None = None,
    vec: Tensor | None = None,
    batch: Tensor | None = None,
    *,
    grid: Tensor | None = None,
    out_vectors: int = 0,
    pooling: str | None,
    degree: int = 3,
    conditioned: bool = False,
    attention_epsilon: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Evaluate a saved state in evaluation mode (the published code calibrates in training mode only).

    A state with fiber weights is the fiber-bundle network and needs `grid` [O, d]; one without is the network on
    distances alone, which has neither vectors nor a grid. In the distance-only case with a radius the published code
    searches its own neighbours; pass every pair of a graph instead, since the window is zero beyond the radius.

    Args:
        state: the saved tensors, with or without the training wrapper's `model.` prefix.
        pos: [N, d] positions. edge_index: [2, E] senders, then receivers. batch: [N] graph numbers, None for one graph.
        x: [N, in_s] scalars. vec: [N, in_v, d] vectors.
        grid: [O, d] unit vectors. out_vectors: how many of the last output channels are vectors.
        pooling: "sum" over each graph, or None for an answer per point. degree: highest power of the attributes.
        conditioned: whether the sender's last scalar is an attribute of the edge as well.
        attention_epsilon: added to the sums of the attention weights; the published code has 1e-6.

    Returns:
        Scalars [N or G, out_s] and vectors [N or G, out_v, d].

    Raises:
        ValueError: if the arguments do not fit the kind of network, or `pooling` is not one of the two.
    """
    state = {key.removeprefix("model."): value for key, value in state.items()}
    bundle = any(key.startswith("fiber_basis_fn.") for key in state)
    if bundle == (grid is None) or (not bundle and (vec is not None or out_vectors)) or pooling not in ("sum", None):
        raise ValueError(
            f"got {'a bundle' if bundle else 'a distance-only'} state with grid {'un' if grid is None else ''}set, "
            f"out_vectors={out_vectors} and pooling={pooling!r}; a bundle needs a grid, a distance-only network takes "
            "neither grid nor vectors, and pooling is 'sum' or None"
        )
    send, recv = _edges_with_self_loops(edge_index, len(pos))
    rel = pos[send] - pos[recv]
    attributes = rel.norm(dim=-1, keepdim=True) if grid is None else _bundle_attributes(rel, grid)
    if conditioned:
        attributes = torch.cat([attributes, x[send, None, -1:].expand(-1, len(grid), -1)], dim=-1)
    kernel_basis = basis_functions(state, "basis_fn", attributes, degree)
    edge_window = window(state, rel.norm(dim=-1))
    kernel_basis = kernel_basis * edge_window.reshape([-1] + [1] * (kernel_basis.dim() - 1))
    fiber_basis = None
    if grid is not None:
        fiber_basis = basis_functions(state, "fiber_basis_fn", (grid @ grid.T)[:, :, None], degree)

    y = blocks_and_readouts(state, _lift(x, vec, grid), kernel_basis, fiber_basis, send, recv, attention_epsilon)
    scalars, vectors = _project(y, grid, out_vectors, pos)
    if pooling is None:
        return scalars, vectors
    return sum_graphs(scalars, batch), sum_graphs(vectors, batch)


def blocks_and_readouts(
    state: State,
    inputs: Tensor,
    kernel_basis: Tensor,
    fiber_basis: Tensor | None,
    send: Tensor,
    recv: Tensor,
    attention_epsilon: float = 0.0,
) -> Tensor:
    """The embedding, the blocks, and the mean of the read-outs there are, before any projection."""
    h = inputs @ state["x_embedder.weight"].T
    readouts = []
    count = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("interaction_layers."))
    for index in range(count):
        name = f"interaction_layers.{index}"
        y = _convolution(state, f"{name}.conv", h, kernel_basis, fiber_basis, send, recv, attention_epsilon)
        y = _layer_norm(y, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"])
        y = _linear(state, f"{name}.linear_2", _gelu(_linear(state, f"{name}.linear_1", y)))
        if f"{name}.layer_scale" in state:
            y = y * state[f"{name}.layer_scale"]
        h = h + y
        if f"read_out_layers.{index}.weight" in state:
            readouts.append(_linear(state, f"read_out_layers.{index}", h))
    return sum(readouts) / len(readouts)


def _edges_with_self_loops(edge_index: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """The published code adds a loop at every point whatever it is given, then keeps each edge once."""
    pairs = {(int(j), int(i)) for j, i in edge_index.T.tolist()} | {(i, i) for i in range(points)}
    send, recv = torch.tensor(sorted(pairs), device=edge_index.device).T
    return send, recv


def _bundle_attributes(rel: Tensor, grid: Tensor) -> Tensor:
    """[E, O, 2]: the part of r along o, and the length of the part across it (in the plane: signed)."""
    along = torch.einsum("ed,od->eo", rel, grid)
    if grid.shape[1] == 2:
        across = rel[:, None, 1] * grid[None, :, 0] - rel[:, None, 0] * grid[None, :, 1]
    else:
        across = (rel[:, None, :] - along[:, :, None] * grid[None, :, :]).norm(dim=-1)
    return torch.stack([along, across], dim=-1)


def _polynomials(a: Tensor, degree: int) -> Tensor:
    """a, a (x) a, a (x) a (x) a, ... flattened: equal monomials stay, no constant (2 inputs give 14 columns)."""
    powers = [a]
    for _ in range(1, degree):
        powers.append((powers[-1][..., :, None] * a[..., None, :]).flatten(-2))
    return torch.cat(powers, dim=-1)


def basis_functions(state: State, name: str, attributes: Tensor, degree: int) -> Tensor:
    """Powers, linear, GELU, linear, GELU: the second activation is there too."""
    hidden = _gelu(_linear(state, f"{name}.1", _polynomials(attributes, degree)))
    return _gelu(_linear(state, f"{name}.3", hidden))


def window(state: State, dists: Tensor) -> Tensor:
    """[E] polynomial cutoff of the distance, or ones where the saved model has no window. It multiplies the basis."""
    if "windowing_fn.r_max" not in state:
        return torch.ones_like(dists)
    p, u = state["windowing_fn.p"], dists / state["windowing_fn.r_max"]
    w = 1 - (p + 1) * (p + 2) / 2 * u**p + p * (p + 2) * u ** (p + 1) - p * (p + 1) / 2 * u ** (p + 2)
    return w * (u < 1)


def _lift(x: Tensor | None, vec: Tensor | None, grid: Tensor | None) -> Tensor:
    """[N, O, in]: scalars repeated over the orientations come first, then each vector's component along o."""
    if grid is None:
        return x
    parts = []
    if x is not None:
        parts.append(x[:, None, :].expand(-1, len(grid), -1))
    if vec is not None:
        parts.append(torch.einsum("nvd,od->nov", vec, grid))
    return torch.cat(parts, dim=-1)


def _convolution(
    state: State,
    name: str,
    h: Tensor,
    kernel_basis: Tensor,
    fiber_basis: Tensor | None,
    send: Tensor,
    recv: Tensor,
    attention_epsilon: float,
) -> Tensor:
    """Kernel times the sender's features summed at the receiver; then the mean over orientations; then the bias."""
    kernel = kernel_basis @ state[f"{name}.kernel.weight"].T
    messages = kernel * h[send]
    if f"{name}.key_transform.weight" in state:
        messages = messages * _attention(state, name, h, send, recv, attention_epsilon)
    y = torch.zeros_like(h).index_add(0, recv, messages)
    if fiber_basis is not None:
        fiber_kernel = fiber_basis @ state[f"{name}.fiber_kernel.weight"].T
        y = torch.einsum("noc,opc->npc", y, fiber_kernel) / h.shape[1]
    return y + state[f"{name}.bias"]


def _attention(state: State, name: str, h: Tensor, send: Tensor, recv: Tensor, epsilon: float) -> Tensor:
    """[E, O, 1]: softmax over the edges into a point, at each orientation; exponents relative to the largest of all."""
    keys, queries = _linear(state, f"{name}.key_transform", h), _linear(state, f"{name}.query_transform", h)
    logits = torch.einsum("eoa,eoa->eo", keys[send], queries[recv]) / math.sqrt(keys.shape[-1])
    weights = torch.exp(logits - logits.max())
    total = torch.stack([weights[recv == point].sum(dim=0) for point in range(len(h))]) + epsilon
    return (weights / total[recv])[:, :, None]


def _project(y: Tensor, grid: Tensor | None, out_vectors: int, pos: Tensor) -> tuple[Tensor, Tensor]:
    """Scalars first, vectors last; scalars are the mean over o, vectors the mean of y o (not corrected for d)."""
    out_scalars = y.shape[-1] - out_vectors
    if grid is None:
        return y, pos.new_zeros(len(pos), 0, pos.shape[1])
    vectors = torch.einsum("nov,od->nvd", y[..., out_scalars:], grid) / len(grid)
    return y[..., :out_scalars].mean(dim=1), vectors


def sum_graphs(values: Tensor, batch: Tensor | None) -> Tensor:
    """Sum, not mean, over the points of each graph."""
    if batch is None:
        return values.sum(dim=0, keepdim=True)
    return torch.stack([values[batch == graph].sum(dim=0) for graph in range(int(batch.max()) + 1)])


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    """A linear layer with its bias."""
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _gelu(x: Tensor) -> Tensor:
    """The exact GELU, with the error function."""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalise over the channels alone, with the biased variance and eps = 1e-5."""
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(dim=-1, keepdim=True) + 1e-5) * weight + bias
