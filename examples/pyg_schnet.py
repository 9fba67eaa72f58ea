"""Make a SchNet-style model of PyTorch Geometric equivariant: `EquivariantSchNet` is all that changes.

    python examples/pyg_schnet.py

The task is a vector at every atom, the sum of q_j exp(-|r|) r over its neighbours, which turns with the molecule.
SchNet sees distances only, so its three outputs do not turn, and its loss stays near that of answering zero (1). The
other one is exact under the 60 rotations of the icosahedron, and nearly so under all others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import MessagePassing

from ponita.data import PositionOrientation
from ponita.nn import FiberBundleConv, KernelBasis, PolynomialCutoff, Readout

CUTOFF = 4.0
CHARGES = torch.tensor([1.0, -0.6, 0.3])


class CFConv(MessagePassing):
    """Continuous-filter convolution (Schütt et al. 2017): neighbours times a function of the distance, summed."""

    def __init__(self, channels: int, num_rbf: int) -> None:
        super().__init__(aggr="add")
        self.filter = nn.Sequential(nn.Linear(num_rbf, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, x: Tensor, rbf: Tensor, window: Tensor, edge_index: Tensor) -> Tensor:
        return self.propagate(edge_index, x=x, weight=self.filter(rbf) * window)

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        return x_j * weight


class Interaction(nn.Module):
    """Layers at every atom around a convolution."""

    def __init__(self, conv: nn.Module, channels: int) -> None:
        super().__init__()
        self.before, self.conv = nn.Linear(channels, channels, bias=False), conv
        self.after = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, x: Tensor, *conv_inputs: Tensor) -> Tensor:
        return x + self.after(self.conv(self.before(x), *conv_inputs))


class SchNet(nn.Module):
    """Elements and distances in, three numbers an atom out."""

    def __init__(self, channels: int = 32, num_interactions: int = 2, num_rbf: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(CHARGES), channels)
        self.register_buffer("centers", torch.linspace(0, CUTOFF, num_rbf))
        self.window = PolynomialCutoff(CUTOFF)
        self.interactions = nn.ModuleList(
            Interaction(CFConv(channels, num_rbf), channels) for _ in range(num_interactions)
        )
        self.head = nn.Linear(channels, 3)

    def forward(self, data: Data) -> Tensor:
        distance = edge_lengths(data)
        rbf = torch.exp(-2 * (distance[:, None] - self.centers).square())
        x = self.embedding(data.z)
        for interaction in self.interactions:
            x = interaction(x, rbf, self.window(distance)[:, None], data.edge_index)
        return self.head(x)


class EquivariantSchNet(SchNet):
    """The same on a grid of orientations: features [N, O, C], kernels of (o.r, |r_perp|), one vector an atom out."""

    def __init__(self, channels: int = 32, num_interactions: int = 2, basis_channels: int = 16) -> None:
        super().__init__(channels, num_interactions)
        self.basis = KernelBasis(2, channels, basis_channels)
        self.fiber_basis = KernelBasis(1, channels, basis_channels)
        for interaction in self.interactions:
            interaction.conv = FiberBundleConv(channels, basis_channels)
        self.head = Readout(channels, out_channels=0, out_vector_channels=1)

    def forward(self, data: Data) -> Tensor:
        grid = data.orientations[0]
        basis = self.basis(data.edge_invariants) * self.window(edge_lengths(data))[:, None, None]
        fiber_basis = self.fiber_basis(data.fiber_invariants[0])
        x = self.embedding(data.z)[:, None].expand(-1, len(grid), -1)
        for interaction in self.interactions:
            x = interaction(x, basis, fiber_basis, data.edge_index)
        return self.head(x, grid)[1][:, 0]


def edge_lengths(data: Data) -> Tensor:
    """[E]."""
    sender, receiver = data.edge_index
    return (data.pos[sender] - data.pos[receiver]).norm(dim=-1)


def molecules(count: int, generator: torch.Generator) -> Batch:
    """Random ones of five to eight atoms, with their vectors y [N, 3], as one batch."""
    transform = PositionOrientation("R3xS2", num_orientations=12, cutoff=CUTOFF)
    graphs = []
    for _ in range(count):
        n = int(torch.randint(5, 9, (1,), generator=generator))
        z = torch.randint(len(CHARGES), (n,), generator=generator)
        data = transform(Data(pos=1.2 * torch.randn(n, 3, generator=generator), z=z))
        sender, receiver = data.edge_index
        r = data.pos[sender] - data.pos[receiver]
        pull = CHARGES[z[sender], None] * torch.exp(-r.norm(dim=-1, keepdim=True)) * r
        data.y = torch.zeros(n, 3).index_add_(0, receiver, pull)
        graphs.append(data)
    return Batch.from_data_list(graphs)


def train(model: nn.Module, steps: int) -> float:
    """Squared error on new molecules, relative to answering zero."""
    generator = torch.Generator().manual_seed(0)
    batches = [molecules(32, generator) for _ in range(4)]
    unseen = molecules(64, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(steps):
        batch = batches[step % len(batches)]
        loss = (model(batch) - batch.y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float((model(unseen) - unseen.y).square().mean() / unseen.y.square().mean())


def main(steps: int = 100) -> dict[str, float]:
    """Train both; the loss of each by the name of its class."""
    losses = {}
    for model_class in (SchNet, EquivariantSchNet):
        torch.manual_seed(0)
        losses[model_class.__name__] = train(model_class(), steps)
        print(f"{model_class.__name__:18s} relative squared error {losses[model_class.__name__]:.3f}")
    return losses


if __name__ == "__main__":
    main()
