"""The PONITA network (Bekkers et al., ICLR 2024), and its distance-only form PNITA on R^3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ponita.geometry import (
    EdgeSet,
    bundle_invariants,
    distance_invariants,
    get_space,
    is_antipodal,
    orientation_invariants,
    safe_norm,
    sphere_grid,
)
from ponita.geometry.checks import check_batch, check_displacements, check_features, check_positions, check_reach
from ponita.nn import ConvNeXtBlock, FiberBundleConv, KernelBasis, Lift, PointCloudConv, PolynomialCutoff, Readout, pool
from ponita.nn.memo import Memo
from ponita.nn.precision import KeepsFloat64
from ponita.nn.spline import KernelLattice, SplineBasis
from ponita.ops import backends


class Output(NamedTuple):
    """What a network returns; a width of zero where a kind was not asked for.

    Attributes:
        scalars: [N or G, out_channels].
        vectors: [N or G, out_vector_channels, d].
    """

    scalars: Tensor
    vectors: Tensor


class Ponita(KeepsFloat64):
    """Message passing in position-orientation space.

    Features are functions on a grid of directions at every point, [N, O, C]. Kernels depend on the invariants of a
    pair alone, so the network is equivariant under translations and under the rotations and reflections that permute
    the grid, exactly; under other rotations up to the resolution of the grid. On "R3" there is no grid and
    equivariance is exact.

    The network uses the edges it is given. The published one always has self-loops: pass them for the same results.

    Args:
        in_channels: scalars at a point.
        in_vector_channels: vectors at a point.
        hidden_channels: C.
        out_channels: scalars to return.
        out_vector_channels: vectors to return.
        num_layers: number of blocks.
        space: "R3xS2" or "R3".
        num_orientations: O, size of the grid (see `ponita.geometry.sphere_grid`); 12 and 20 are exact under the 60
            rotations of the icosahedron. Ignored on "R3".
        mode: "bundle": a grid of orientations at every point.
        basis_channels: B, number of basis functions of the kernels.
        degree: degree of the monomials of the invariants.
        cutoff: length (units of the positions) at which kernels vanish; no window where None.
        widening: width of the hidden layer of a block in multiples of C.
        layer_scale: initial scale of a block's update, learned per channel; none where None.
        readouts: "all": the mean of a read-out after every block; "last".
        pooling: "sum" or "mean" over the points of each graph, or None for outputs at points.
        kernel: "mlp": the kernel network is evaluated for every pair, as published. "spline": it is evaluated at the
            nodes of a lattice and interpolated by a C2 spline, in training too, which costs a fraction on a CPU; needs a
            space with directions and a cutoff (or a radius).
        lattice: nodes of the spline along o.r and |r_perp|.
        radius: length of the farthest pair that a spline kernel serves; the cutoff where None.
        backend: backend of the operators.
        axis_smoothing: length (units of the positions) over which the kink of |r - (o.r)o| on the axis of an
            orientation is rounded, so that energies are smooth there. The published network has 0.

    Raises:
        ValueError: for a value that is not among those named here.
    """

    float64_buffers = ("grid",)

    def __init__(
        self,
        in_channels: int,
        in_vector_channels: int = 0,
        hidden_channels: int = 128,
        out_channels: int = 1,
        out_vector_channels: int = 0,
        num_layers: int = 5,
        space: str = "R3xS2",
        num_orientations: int = 20,
        mode: str = "bundle",
        basis_channels: int = 256,
        degree: int = 3,
        cutoff: float | None = None,
        widening: int = 4,
        layer_scale: float | None = None,
        readouts: str = "all",
        pooling: str | None = "sum",
        kernel: str = "mlp",
        backend: str = "auto",
        axis_smoothing: float = 0.1,
        lattice: tuple[int, int] = (64, 32),
        radius: float | None = None,
    ) -> None:
        super().__init__()
        self.config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.space = get_space(space)
        _check_choices(mode=mode, readouts=readouts, pooling=pooling, kernel=kernel)
        _check_channels(self.config, self.space.has_fibre)
        self.pooling, self.axis_smoothing, self.backend = pooling, axis_smoothing, backends.check(backend)
        self.config["lattice"] = list(lattice)

        no_grid = torch.zeros(1, self.space.dim, dtype=torch.float64)
        self.register_buffer("grid", sphere_grid(num_orientations) if self.space.has_fibre else no_grid)
        self.register_load_state_dict_post_hook(_after_load)
        self._note_symmetry()

        self.window = None if cutoff is None else PolynomialCutoff(cutoff)
        self.basis = KernelBasis(self.space.num_invariants, hidden_channels, basis_channels, degree)
        self.fiber_basis = KernelBasis(1, hidden_channels, basis_channels, degree) if self.space.has_fibre else None
        self.lattice = self._make_lattice() if kernel == "spline" else None
        self._lattice_memo, self._fiber_memo = Memo(), Memo()
        self.lift = Lift(in_channels, in_vector_channels, hidden_channels)
        conv = FiberBundleConv if self.space.has_fibre else PointCloudConv
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(conv(hidden_channels, basis_channels, self.backend), hidden_channels, widening, layer_scale)
            for _ in range(num_layers)
        )
        first_readout = 0 if readouts == "all" else num_layers - 1
        self.readouts = nn.ModuleDict(
            {
                str(i): Readout(hidden_channels, out_channels, out_vector_channels)
                for i in range(first_readout, num_layers)
            }
        )

    def forward(
        self,
        pos: Tensor,
        edge_index: Tensor | EdgeSet,
        x: Tensor | None = None,
        vec: Tensor | None = None,
        batch: Tensor | None = None,
        edge_shift: Tensor | None = None,
        num_graphs: int | None = None,
    ) -> Output:
        """Evaluate the network.

        Args:
            pos: [N, d].
            edge_index: [2, E], row 0 the senders j, row 1 the receivers i; or an `EdgeSet` made from it, to sort and
                match a fixed graph once.
            x: [N, in_channels].
            vec: [N, in_vector_channels, d].
            batch: [N] graph of each point; one graph where None.
            edge_shift: [E, d] added to pos[j] - pos[i], in the order of the edges given (periodic images).
            num_graphs: G; counted from `batch` where None.

        Returns:
            `Output` of [G, ...] tensors, or [N, ...] with pooling=None.

        Raises:
            ValueError: for inputs of a wrong shape, dtype or range, and on the CPU also for values that are not
                finite and for points that coincide.
        """
        self._check_inputs(pos, x, vec, batch)
        edges = edge_index
        if not isinstance(edges, EdgeSet):
            edges = EdgeSet.from_edge_index(edges, pos.shape[0], edge_shift)
        elif edges.num_nodes != pos.shape[0]:
            raise ValueError(f"the EdgeSet is of {edges.num_nodes} points; expected {pos.shape[0]}, the rows of pos.")
        if not self.stores_pairs:
            edges = edges.without_pairs()
        bases = self.kernel_bases(displacements(pos, edges, edge_shift), edges)

        grid = self.grid.to(self.dtype)
        h = self.lift(x, vec, grid)
        outputs = []
        for i, block in enumerate(self.blocks):
            h = block(h, *bases, edges)
            if str(i) in self.readouts:
                outputs.append(self.readouts[str(i)](h, grid))
        scalars, vectors = (torch.stack(parts).mean(0) for parts in zip(*outputs, strict=True))
        return self._pool(scalars, vectors, batch, num_graphs)

    def kernel_bases(self, r: Tensor, edges: EdgeSet) -> tuple[Tensor | SplineBasis, ...]:
        """Basis functions of all pairs [P, O, B], or their spline, and, with directions, of orientation pairs [O, O, B].

        Args:
            r: [P, d] displacement of each pair.
            edges: the graph.
        """
        check_displacements(r, edges)
        window = None if self.window is None else self.window(safe_norm(r))
        if not self.space.has_fibre:
            return (_windowed(self.basis(distance_invariants(r)), window),)
        grid = self.grid.to(self.dtype)
        invariants = bundle_invariants(r, grid, self.axis_smoothing)
        weights = tuple(self.fiber_basis.parameters())
        fiber_basis = self._fiber_memo(lambda: self.fiber_basis(orientation_invariants(grid)), self.grid, *weights)
        if self.lattice is None:
            return _windowed(self.basis(invariants), window), fiber_basis
        check_reach(r, self.lattice.radius, self.window is not None)
        nodes = self._lattice_memo(lambda: self.lattice.coefficients(self.basis), *self.basis.parameters())
        return SplineBasis(nodes, *self.lattice.taps(invariants, window), self.lattice.stride), fiber_basis

    def tabulate(
        self,
        nodes: tuple[int, int] = (128, 64),
        *,
        radius: float | None = None,
        rtol: float | None = None,
        batch: Mapping[str, Any] | None = None,
    ) -> Ponita:
        """A frozen copy with spline kernels on a lattice, for inference; its attribute `tabulation` is the error made.

        See `ponita.models.tabulation.tabulate`.
        """
        from ponita.models.tabulation import tabulate

        return tabulate(self, nodes, radius=radius, rtol=rtol, batch=batch)

    def _make_lattice(self) -> KernelLattice:
        config = self.config
        radius = config["radius"] if config["cutoff"] is None else config["cutoff"]
        if not self.space.has_fibre or radius is None:
            raise ValueError(
                f"kernel='spline' with space={self.space.name!r}, cutoff={config['cutoff']}, radius={config['radius']}; it "
                "needs a space with directions and a finite reach: set cutoff."
            )
        return KernelLattice(config["lattice"], radius, self.axis_smoothing)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of the inputs."""
        return self.lift.embedding.weight.dtype

    def set_grid(self, grid: Tensor) -> None:
        """Evaluate on other directions, with the same weights.

        Args:
            grid: [O, d] unit vectors.

        Raises:
            ValueError: on a space without directions, or for rows that are not unit vectors.
        """
        if not self.space.has_fibre:
            raise ValueError(f"space {self.space.name} has no orientation grid.")
        if grid.dim() != 2 or grid.shape[1] != self.space.dim:
            raise ValueError(f"grid has shape {list(grid.shape)}; expected [O, {self.space.dim}].")
        if float((grid.norm(dim=1) - 1).abs().max()) > 1e-4:
            raise ValueError("grid rows are not unit vectors; divide them by their norm.")
        self.grid = grid.to(self.grid)
        self.config["num_orientations"] = grid.shape[0]
        self._note_symmetry()

    def _note_symmetry(self) -> None:
        """Whether the reverse edge's kernel can be read from the pair's: on R^d always, else on antipodal grids."""
        self.stores_pairs = not self.space.has_fibre or is_antipodal(self.grid)

    def _check_inputs(self, pos: Tensor, x: Tensor | None, vec: Tensor | None, batch: Tensor | None) -> None:
        dtype, config, dim = self.dtype, self.config, self.space.dim
        check_positions(pos, dim, dtype, self.space.name)
        check_features("x", x, (pos.shape[0], config["in_channels"]), dtype, "in_channels")
        check_features("vec", vec, (pos.shape[0], config["in_vector_channels"], dim), dtype, "in_vector_channels")
        if batch is not None:
            check_batch(batch, pos.shape[0])

    def _pool(self, scalars: Tensor, vectors: Tensor, batch: Tensor | None, num_graphs: int | None) -> Output:
        if self.pooling is None:
            return Output(scalars, vectors)
        if batch is None:
            batch, num_graphs = torch.zeros(scalars.shape[0], dtype=torch.long, device=scalars.device), 1
        elif num_graphs is None:
            num_graphs = int(batch.max()) + 1
        return Output(*(pool(values, batch, num_graphs, self.pooling) for values in (scalars, vectors)))

    def extra_repr(self) -> str:
        return f"space={self.space.name}, orientations={self.grid.shape[0]}, pooling={self.pooling}"


def displacements(pos: Tensor, edges: EdgeSet, edge_shift: Tensor | None = None) -> Tensor:
    """r = pos[j] - pos[i] + shift of each pair's representative j->i.

    Args:
        pos: [N, d].
        edges: the graph.
        edge_shift: [E, d], in the order of the edges the set was made from.

    Shape:
        [P, d]
    """
    sender, receiver = edges.pair_index
    r = pos.index_select(0, sender) - pos.index_select(0, receiver)
    if edge_shift is None:
        return r
    if edge_shift.shape != (edges.num_edges, pos.shape[1]):
        raise ValueError(
            f"edge_shift has shape {list(edge_shift.shape)}; expected [E, d] = [{edges.num_edges}, {pos.shape[1]}]."
        )
    return r + edge_shift.index_select(0, edges.pair_order)


def _after_load(model: Ponita, incompatible_keys: object) -> None:
    model._note_symmetry()


def _windowed(basis: Tensor, window: Tensor | None) -> Tensor:
    return basis if window is None else basis * window[:, None, None]


def _check_choices(mode: str, readouts: str, pooling: str | None, kernel: str) -> None:
    allowed = {
        "mode": ("bundle",),
        "readouts": ("all", "last"),
        "pooling": ("sum", "mean", None),
        "kernel": ("mlp", "spline"),
    }
    for name, value in {"mode": mode, "readouts": readouts, "pooling": pooling, "kernel": kernel}.items():
        if value not in allowed[name]:
            raise ValueError(f"{name}={value!r} is not implemented; expected one of {list(allowed[name])}.")


def _check_channels(config: dict, has_fibre: bool) -> None:
    for name in ("hidden_channels", "basis_channels", "num_layers", "widening"):
        if config[name] < 1:
            raise ValueError(f"{name}={config[name]}; expected at least 1.")
    for kind in ("in", "out"):
        scalars, vectors = config[f"{kind}_channels"], config[f"{kind}_vector_channels"]
        if scalars < 0 or vectors < 0 or scalars + vectors == 0:
            raise ValueError(
                f"{kind}_channels={scalars}, {kind}_vector_channels={vectors}; expected at least one channel."
            )
        if vectors and not has_fibre:
            raise ValueError(
                f"{kind}_vector_channels={vectors} on a space without directions; use space='R3xS2' for vectors."
            )
