"""A tabulated potential in TorchScript: torch's own operators alone, so it runs where this package is not installed.

The operators of `ponita.ops` are registered in Python, and a file that holds them cannot be read by another program.
Here the forward pass of a network with spline kernels is written once more in plain torch, with everything that
depends on weights alone computed before. Only first derivatives are wanted, of energies in displacements, and torch
makes them. All tensors are buffers, so the module moves between devices.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ponita.geometry.invariants import bundle_invariants, safe_norm
from ponita.models import Ponita, Potential
from ponita.nn import ConvNeXtBlock
from ponita.ops.reference import spline_kernel, tap_nodes


class ScriptedPotential(nn.Module):
    """The energy of each atom, as `Potential.atom_energies`, of displacements instead of positions.

    Args:
        potential: frozen, with spline kernels and a cut-off (`Potential.tabulate`).
        head: level of theory; the first where None.

    Attributes:
        shift: [] eV, of a whole structure; not part of the energies of atoms.

    Shape:
        r [E, 3] from the receiver to the sender (Å), senders [E], receivers [E], numbers [N] -> [N] eV, float64. Every
        pair within the cut-off is two edges; there are no self-loops, those that the potential has are added.

    Raises:
        ValueError: for a network of another kind.
    """

    def __init__(self, potential: Potential, head: str | None = None) -> None:
        super().__init__()
        _check(potential.network)
        network, row = potential.network, 0 if head is None else potential.heads.index(head)
        lattice, dtype = network.lattice, network.dtype
        self.window, self.smoothing, self.stride = network.window, float(network.axis_smoothing), int(lattice.stride)
        self.num_orientations = int(network.grid.shape[0])
        with torch.no_grad():
            buffers = {
                "grid": network.grid.to(dtype),
                "origin": lattice.origin.to(dtype),
                "per_length": lattice.per_length.to(dtype),
                "last": torch.tensor(lattice.nodes, dtype=dtype, device=network.grid.device) - 1,
                "steps": tap_nodes(torch.zeros((), dtype=torch.int64, device=network.grid.device), self.stride),
                "embedding": network.lift.embedding.weight.T.contiguous(),
                "element_index": potential.element_of.index,
                "references": potential.reference_energies[row],
                "shift": potential.shift,
                "scale": potential.scale / len(network.readouts),
            }
            for name, value in buffers.items():
                self.register_buffer(name, value.clone())
            self.blocks = nn.ModuleList(_blocks(network, row, potential.self_loops))

    def forward(self, r: Tensor, senders: Tensor, receivers: Tensor, numbers: Tensor) -> Tensor:
        # An unknown element has the index -1, which index_select refuses.
        element = self.element_index.index_select(0, numbers)
        weights, nodes = self.taps(r.to(self.grid.dtype))
        h = self.embedding.index_select(0, element)[:, None].expand(-1, self.num_orientations, -1)
        total = torch.zeros_like(h[:, 0, 0])
        for block in self.blocks:
            h, scalar = block(h, weights, nodes, senders, receivers)
            total = total + scalar
        return self.references.index_select(0, element) + self.scale * total.to(torch.float64)

    def taps(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and places of the coefficients around each sample, [E O, 16] each (`ponita.ops.spline_taps`)."""
        coords = (bundle_invariants(r, self.grid, self.smoothing) - self.origin) * self.per_length
        inside = torch.minimum(coords.clamp(min=0.0), self.last)
        cell = torch.minimum(inside.detach().floor(), self.last - 1)
        t = inside - cell
        s = 1 - t
        ends = (s * s * s, t * t * t)
        basis = torch.stack([ends[0], 4 - 6 * t * t + 3 * ends[1], 4 - 6 * s * s + 3 * ends[0], ends[1]], -1) / 6
        along, across = basis.unbind(-2)
        window = self.window(safe_norm(r, 0.0))[:, None, None, None]
        weights = window * along[..., :, None] * across[..., None, :]
        corner = cell[..., 0] * self.stride + cell[..., 1]
        nodes = corner.to(torch.int64)[..., None] + self.steps
        return weights.reshape(-1, 16), nodes.reshape(-1, 16)


class ScriptedBlock(nn.Module):
    """One `ConvNeXtBlock` around a `FiberBundleConv`, with its kernels, and the scalar read out after it.

    Args:
        block: of the network.
        table: [K, C] spatial kernel at the nodes.
        fiber: [O, O, C] kernel of orientations.
        loop: [C] spatial kernel of a self-loop, zero where there are none.
        readout: weights [C] and bias [] of one scalar, zero where the network reads nothing out.

    Shape:
        h [N, O, C], weights and nodes [E O, 16], senders [E], receivers [E] -> [N, O, C], [N]
    """

    def __init__(
        self, block: ConvNeXtBlock, table: Tensor, fiber: Tensor, loop: Tensor, readout: tuple[Tensor, Tensor]
    ) -> None:
        super().__init__()
        self.norm, self.linear_1, self.linear_2 = block.norm, block.linear_1, block.linear_2
        scale = torch.ones_like(loop) if block.layer_scale is None else block.layer_scale
        buffers = {
            "table": table,
            "fiber": (fiber / fiber.shape[0]).permute(2, 0, 1).contiguous(),
            "loop": loop,
            "bias": block.conv.bias,
            "scale": scale,
            "read": readout[0],
            "read_bias": readout[1],
        }
        for name, value in buffers.items():
            self.register_buffer(name, value.detach().clone())

    def forward(
        self, h: Tensor, weights: Tensor, nodes: Tensor, senders: Tensor, receivers: Tensor
    ) -> tuple[Tensor, Tensor]:
        kernel = torch.nn.functional.embedding_bag(nodes, self.table, mode="sum", per_sample_weights=weights)
        messages = kernel.view(-1, h.shape[1], h.shape[2]) * h.index_select(0, senders)
        spatial = (self.loop * h).index_add(0, receivers, messages)
        spherical = torch.bmm(spatial.permute(2, 0, 1), self.fiber).permute(1, 2, 0)
        update = self.norm(spherical + self.bias)
        update = self.linear_2(torch.nn.functional.gelu(self.linear_1(update)))
        h = h + self.scale * update
        return h, h.mean(1) @ self.read + self.read_bias


def _blocks(network: Ponita, row: int, self_loops: bool) -> list[ScriptedBlock]:
    complete, grid = network.config["invariants"] == "complete", network.grid.to(network.dtype)
    coefficients = network.lattice.coefficients(network.basis)
    fiber_basis = network.fiber_basis(network.space.fiber_invariants(grid, complete))
    at_zero = network.space.pair_invariants(grid.new_zeros(1, 3), grid[:1], network.axis_smoothing)
    sample = network.lattice.taps(at_zero, None)
    blocks = []
    for i, block in enumerate(network.blocks):
        table, fiber = block.conv.kernel(coefficients), block.conv.fiber_kernel(fiber_basis)
        loop = spline_kernel(sample[0], table, sample[1], network.lattice.stride)[0, 0]
        if str(i) in network.readouts:
            linear = network.readouts[str(i)].linear
            readout = (linear.weight[row], linear.bias[row])
        else:
            readout = (torch.zeros_like(loop), loop.new_zeros(()))
        blocks.append(ScriptedBlock(block, table, fiber, loop if self_loops else torch.zeros_like(loop), readout))
    return blocks


def _check(network: Ponita) -> None:
    expected = {
        "space": "R3xS2",
        "mode": "bundle",
        "separable": True,
        "kernel": "spline",
        "attention_channels": None,
        "conditioning_channels": 0,
    }
    wrong = [f"{name}={network.config[name]!r}" for name, value in expected.items() if network.config[name] != value]
    wrong += ["cutoff=None"] * (network.config["cutoff"] is None)
    if wrong:
        raise ValueError(
            f"a network with {', '.join(wrong)} cannot be exported; expected one with "
            f"{', '.join(f'{name}={value!r}' for name, value in expected.items())} and a cutoff. Kernels become splines "
            "by Potential.tabulate()."
        )
