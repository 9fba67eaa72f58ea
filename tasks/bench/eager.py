"""The published network in ordinary autograd, storing what the published code stores: what speed is measured against.

For every directed edge, self-loops included, it materialises the invariants [E, O, 2], their tensor powers [E, O, 14],
the hidden layer and the basis, and in every layer the kernel, the gathered features and the messages [E, O, C]. There
are no pairs, no registered operators, nothing is remembered. For the published rMD17 network and batch, autograd keeps
416 MiB for an energy and 826 MiB for a force loss (the published code: 411 and 909).
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from ponita import Output, Ponita


class EagerReference(nn.Module):
    """The fibre-bundle network of PONITA (Bekkers et al., ICLR 2024) on R3xS2, literally.

    Args:
        config: arguments of `ponita.Ponita`.
        grid: [O, 3] directions.

    Raises:
        ValueError: for a network without directions, or with spline kernels.
    """

    def __init__(self, config: dict, grid: Tensor) -> None:
        super().__init__()
        if config["space"] != "R3xS2" or config["kernel"] != "mlp":
            raise ValueError(
                f"space={config['space']!r}, kernel={config['kernel']!r}; the eager reference is the published network, "
                "which has space='R3xS2' and kernel='mlp'."
            )
        self.config = dict(config)
        hidden, channels = config["hidden_channels"], config["basis_channels"]
        self.register_buffer("grid", grid)
        self.basis = basis_network(2, hidden, channels, config["degree"])
        self.fiber_basis = basis_network(1, hidden, channels, config["degree"])
        width_in, width_out = (config[f"{k}_channels"] + config[f"{k}_vector_channels"] for k in ("in", "out"))
        self.embedding = nn.Linear(width_in, hidden, bias=False)
        self.blocks = nn.ModuleList(EagerBlock(config) for _ in range(config["num_layers"]))
        first = 0 if config["readouts"] == "all" else config["num_layers"] - 1
        self.readouts = nn.ModuleDict(
            {str(i): nn.Linear(hidden, width_out) for i in range(first, config["num_layers"])}
        )

    def forward(
        self,
        pos: Tensor,
        edge_index: Tensor,
        x: Tensor | None = None,
        vec: Tensor | None = None,
        batch: Tensor | None = None,
        edge_shift: Tensor | None = None,
        num_graphs: int | None = None,
    ) -> Output:
        """Evaluate the network; arguments and results are those of `Ponita.forward`, the edges a plain [2, E]."""
        grid, (sender, receiver) = self.grid.to(pos.dtype), edge_index
        r = pos[sender] - pos[receiver]
        r = r if edge_shift is None else r + edge_shift
        kernel_basis = self.basis(tensor_powers(self._invariants(r, grid), self.config["degree"]))
        kernel_basis = kernel_basis * self._window(r)[:, None, None]
        fiber_basis = self.fiber_basis(tensor_powers((grid @ grid.T)[..., None], self.config["degree"]))

        h = self._lift(x, vec, grid)
        outputs = []
        for i, block in enumerate(self.blocks):
            h = block(h, kernel_basis, fiber_basis, sender, receiver)
            if str(i) in self.readouts:
                outputs.append(self.readouts[str(i)](h))
        return self._read(sum(outputs) / len(outputs), grid, batch, num_graphs)

    def _invariants(self, r: Tensor, grid: Tensor) -> Tensor:
        """[E, O, 2]."""
        along = torch.einsum("ed,od->eo", r, grid)
        across = r[:, None, :] - along[..., None] * grid
        smoothing = self.config["axis_smoothing"]
        length = across.norm(dim=-1) if smoothing == 0 else (across.square().sum(-1) + smoothing**2).sqrt()
        return torch.stack([along, length], dim=-1)

    def _window(self, r: Tensor) -> Tensor:
        """[E]; ones where there is no cut-off, which the published code multiplies by as well."""
        cutoff, p = self.config["cutoff"], 6
        if cutoff is None:
            return r.new_ones(r.shape[0])
        u = r.norm(dim=-1) / cutoff
        window = 1 - (p + 1) * (p + 2) / 2 * u**p + p * (p + 2) * u ** (p + 1) - p * (p + 1) / 2 * u ** (p + 2)
        return window * (u < 1)

    def _lift(self, x: Tensor | None, vec: Tensor | None, grid: Tensor) -> Tensor:
        """[N, O, C]: scalars repeated over the directions, then vectors along them."""
        parts = [] if x is None else [x[:, None, :].expand(-1, grid.shape[0], -1)]
        parts += [] if vec is None else [torch.einsum("nvd,od->nov", vec, grid)]
        return self.embedding(torch.cat(parts, dim=-1))

    def _read(self, y: Tensor, grid: Tensor, batch: Tensor | None, num_graphs: int | None) -> Output:
        scalars, vectors = y.split([self.config["out_channels"], self.config["out_vector_channels"]], dim=-1)
        values = scalars.mean(1), torch.einsum("nov,od->nvd", vectors, grid) / grid.shape[0]
        if self.config["pooling"] is None:
            return Output(*values)
        batch = torch.zeros(y.shape[0], dtype=torch.long, device=y.device) if batch is None else batch
        num_graphs = int(batch.max()) + 1 if num_graphs is None else num_graphs
        sums = [v.new_zeros(num_graphs, *v.shape[1:]).index_add(0, batch, v) for v in values]
        if self.config["pooling"] == "mean":
            counts = torch.bincount(batch, minlength=num_graphs).clamp(min=1)
            sums = [s / counts.view(-1, *[1] * (s.dim() - 1)) for s in sums]
        return Output(*sums)


class EagerBlock(nn.Module):
    """Spatial convolution, spherical convolution, bias, norm, two linear layers, residual."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        hidden, channels = config["hidden_channels"], config["basis_channels"]
        self.kernel = nn.Linear(channels, hidden, bias=False)
        self.fiber_kernel = nn.Linear(channels, hidden, bias=False)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.norm = nn.LayerNorm(hidden)
        self.linear_1 = nn.Linear(hidden, config["widening"] * hidden)
        self.linear_2 = nn.Linear(config["widening"] * hidden, hidden)
        self.layer_scale = None if config["layer_scale"] is None else nn.Parameter(torch.ones(hidden))

    def forward(self, h: Tensor, basis: Tensor, fiber_basis: Tensor, sender: Tensor, receiver: Tensor) -> Tensor:
        message = self.kernel(basis) * h[sender]
        # Not index_add, which keeps the messages for its backward pass, as the published code does not.
        spatial = torch.zeros_like(h).scatter_add(0, receiver[:, None, None].expand_as(message), message)
        spherical = torch.einsum("noc,opc->npc", spatial, self.fiber_kernel(fiber_basis)) / h.shape[1]
        update = self.linear_2(nn.functional.gelu(self.linear_1(self.norm(spherical + self.bias))))
        return h + (update if self.layer_scale is None else self.layer_scale * update)


def basis_network(num_invariants: int, hidden: int, channels: int, degree: int) -> nn.Sequential:
    """Linear - GELU - linear - GELU on all tensor powers."""
    num_columns = sum(num_invariants**n for n in range(1, degree + 1))
    return nn.Sequential(nn.Linear(num_columns, hidden), nn.GELU(), nn.Linear(hidden, channels), nn.GELU())


def tensor_powers(a: Tensor, degree: int) -> Tensor:
    """[..., d] -> [..., d + d^2 + ... + d^degree]: a, a⊗a, ..., with equal monomials in several columns."""
    powers = [a]
    for _ in range(degree - 1):
        powers.append(torch.einsum("...i,...j->...ij", powers[-1], a).flatten(-2))
    return torch.cat(powers, dim=-1)


def from_ponita(model: Ponita) -> EagerReference:
    """The eager reference with a network's weights: the same function, up to rounding.

    Args:
        model: with kernel="mlp" on R3xS2.

    Raises:
        ValueError: for another kernel or space.
    """
    eager = EagerReference(model.config, model.grid.clone())
    state = {_renamed(k): v.detach().clone() for k, v in model.state_dict().items()}
    for name in ("basis", "fiber_basis"):
        columns = _monomial_of_columns(model, name)
        multiplicity = torch.bincount(columns).to(state[f"{name}.0.weight"])
        state[f"{name}.0.weight"] = (state[f"{name}.0.weight"] / multiplicity)[:, columns]
    eager.to(device=model.grid.device, dtype=model.dtype)
    eager.load_state_dict(state)
    eager.grid = model.grid.clone()  # stays float64, as the network's
    return eager.train(model.training)


def gradients_like(model: Ponita, eager: EagerReference) -> dict[str, Tensor]:
    """The gradients stored in the eager reference, by the names and in the shapes of the network it was made of."""
    stored = {name: p.grad for name, p in eager.named_parameters()}
    gradients = {name: stored[_renamed(name)] for name, _ in model.named_parameters()}
    for basis in ("basis", "fiber_basis"):
        # w14[column] = w9[monomial] / multiplicity, so the gradient in w9 is the mean over the equal columns.
        columns, name = _monomial_of_columns(model, basis), f"{basis}.linear_1.weight"
        multiplicity = torch.bincount(columns)
        folded = gradients[name].new_zeros(gradients[name].shape[0], len(multiplicity))
        gradients[name] = folded.index_add_(1, columns, gradients[name]) / multiplicity
    return gradients


def _monomial_of_columns(model: Ponita, basis: str) -> Tensor:
    """For each column of the tensor powers, the place of its monomial in the network's list."""
    monomials = getattr(model, basis).monomials
    powers = range(1, monomials.degree + 1)
    columns = [c for n in powers for c in product(range(monomials.num_inputs), repeat=n)]
    return torch.tensor([monomials.factors.index(tuple(sorted(c))) for c in columns], device=model.grid.device)


def _renamed(name: str) -> str:
    """A parameter's name here, from its name in `Ponita`."""
    for old, new in (
        ("lift.embedding.", "embedding."),
        ("basis.linear_1.", "basis.0."),
        ("basis.linear_2.", "basis.2."),
        (".conv.", "."),
    ):
        name = name.replace(old, new)
    return name.replace(".linear.", ".") if name.startswith("readouts.") else name
