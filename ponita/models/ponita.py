"""The PONITA network (Bekkers et al., ICLR 2024), and its distance-only form PNITA on R^3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ponita.geometry import EdgeSet, get_space, safe_norm
from ponita.geometry.checks import (
    check_batch,
    check_displacements,
    check_features,
    check_orientations,
    check_positions,
    check_reach,
)
from ponita.models.options import check_options, default_lattice
from ponita.models.points import Points, bundle_points, cloud_points, product_points
from ponita.nn import (
    Basis,
    ConvNeXtBlock,
    FiberBundleConv,
    KernelBasis,
    Lift,
    LoopBasis,
    PointCloudConv,
    PolynomialCutoff,
    Readout,
    pool,
)
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
    """Message passing in position-orientation space, on any of its homogeneous spaces.

    In bundle mode features are functions on a grid of orientations at every point, [N, O, C]. Kernels depend on the
    invariants of a pair alone, so the network is equivariant under translations and under the rotations that permute the
    grid, exactly; under other rotations up to the resolution of the grid. In cloud mode every point has an orientation of
    its own, from the data, and equivariance is exact; as it is on "R2" and "R3", where there are none.

    The network uses the edges it is given. The published one always has self-loops: pass them for the same results.

    Args:
        in_channels: scalars at a point.
        in_vector_channels: vectors at a point.
        hidden_channels: C.
        out_channels: scalars to return.
        out_vector_channels: vectors to return.
        num_layers: number of blocks.
        space: "R2", "R3" (distances only, PNITA), "R2xS1" (= SE(2)), "R3xS2", or "SE3" (frames; tells mirror images apart).
        num_orientations: O, size of the grid (see `Space.make_grid`). 12 and 20 are exact under the 60 rotations of the
            icosahedron; on "SE3" 12, 24 or 60, the rotations of a solid. Not used on "R2", "R3" and in cloud mode.
        mode: "bundle": a grid of orientations at every point. "cloud": one orientation at every point, given to
            `forward`, or one point for every directed edge, oriented along it.
        basis_channels: B, number of basis functions of the kernels.
        degree: degree of the monomials of the invariants.
        cutoff: length (units of the positions) at which kernels vanish; no window where None.
        widening: width of the hidden layer of a block in multiples of C.
        layer_scale: initial scale of a block's update, learned per channel; none where None.
        readouts: "all": the mean of a read-out after every block; "last".
        pooling: "sum" or "mean" over the points of each graph, or None for outputs at points.
        kernel: "mlp": the kernel network is evaluated for every pair, as published. "fused": the same, and no layer keeps
            its kernels for the backward pass, which costs a projection there and saves memory. "spline": it is evaluated at the
            nodes of a lattice and interpolated by a C2 spline, in training too, which costs a fraction on a CPU; needs
            two invariants (bundles on "R2xS1" and "R3xS2") and a cutoff (or a radius).
        backend: backend of the operators.
        axis_smoothing: length (units of the positions) over which the kink of |r - (o.r)o| on the axis of an
            orientation is rounded, so that energies are smooth there. The published network has 0.
        lattice: nodes of the spline along both invariants; 64 x 32, or 64 x 64 in the plane, where None.
        radius: length of the farthest pair that a spline kernel serves; the cutoff where None.
        invariants: "paper", or "complete": with what tells all different pairs apart, such as the relative azimuth and
            the handedness of two directions (see `Space.full_invariants`).
        separable: in bundle mode, one kernel over positions after one over orientations, as published. False: a kernel
            of a pair and both orientations, O times the work.
        conditioning_channels: numbers of a graph that the kernels depend on too, such as a noise level.
        attention_channels: width of the keys and queries of attention over the edges into a point; none where None.

    Raises:
        ValueError: for a value that is not among those named here, or options that exclude each other.
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
        lattice: tuple[int, int] | None = None,
        radius: float | None = None,
        invariants: str = "paper",
        separable: bool = True,
        conditioning_channels: int = 0,
        attention_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.space = get_space(space)
        check_options(self.config, self.space)
        lattice = default_lattice(self.space) if lattice is None else lattice
        self.config["lattice"] = None if lattice is None else list(lattice)
        self.pooling, self.axis_smoothing, self.backend = pooling, axis_smoothing, backends.check(backend)

        self.register_buffer("grid", self.space.make_grid(1 if mode == "cloud" else num_orientations))
        self.register_load_state_dict_post_hook(_after_load)
        self._note_symmetry()

        self.window = None if cutoff is None else PolynomialCutoff(cutoff)
        self._make_bases(hidden_channels, basis_channels, degree)
        components = self.space.vector_components
        self.lift = Lift(in_channels, in_vector_channels, hidden_channels, components)
        conv = FiberBundleConv if self.fiber_basis is not None else PointCloudConv
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(
                conv(hidden_channels, basis_channels, self.backend, attention_channels, kernel == "fused"),
                hidden_channels,
                widening,
                layer_scale,
                self.backend,
            )
            for _ in range(num_layers)
        )
        first_readout = 0 if readouts == "all" else num_layers - 1
        self.readouts = nn.ModuleDict(
            {
                str(i): Readout(hidden_channels, out_channels, out_vector_channels, components)
                for i in range(first_readout, num_layers)
            }
        )

    def _make_bases(self, hidden_channels: int, basis_channels: int, degree: int) -> None:
        config, space = self.config, self.space
        complete = config["invariants"] == "complete"
        factorised = config["mode"] == "bundle" and config["separable"]
        num_invariants = space.num_invariants if factorised else space.num_full_invariants(complete)
        sizes = (hidden_channels, basis_channels, degree, self.backend)
        self.basis = KernelBasis(num_invariants + config["conditioning_channels"], *sizes)
        has_fiber_kernel = factorised and space.has_fibre
        self.fiber_basis = KernelBasis(space.num_fiber_invariants(complete), *sizes) if has_fiber_kernel else None
        self.lattice = self._make_lattice() if config["kernel"] == "spline" else None
        self._lattice_memo, self._fiber_memo = Memo(), Memo()

    def forward(
        self,
        pos: Tensor,
        edge_index: Tensor | EdgeSet,
        x: Tensor | None = None,
        vec: Tensor | None = None,
        batch: Tensor | None = None,
        edge_shift: Tensor | None = None,
        num_graphs: int | None = None,
        orientations: Tensor | None = None,
        condition: Tensor | None = None,
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
            orientations: [N, d] unit vectors, or [N, 3, 3] rotations on "SE3": the orientation of each point in cloud
                mode. Where None there, every directed edge is a point that looks along it.
            condition: [G, conditioning_channels] of each graph.

        Returns:
            `Output` of [G, ...] tensors, or [N, ...] with pooling=None.

        Raises:
            ValueError: for inputs of a wrong shape, dtype or range, and on the CPU also for values that are not
                finite and for points that coincide.
        """
        scalars, vectors = self.at_points(pos, edge_index, x, vec, batch, edge_shift, orientations, condition)
        return self._pool(scalars, vectors, batch, num_graphs)

    def at_points(
        self,
        pos: Tensor,
        edge_index: Tensor | EdgeSet,
        x: Tensor | None = None,
        vec: Tensor | None = None,
        batch: Tensor | None = None,
        edge_shift: Tensor | None = None,
        orientations: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> Output:
        """The outputs before pooling, [N, ...]; arguments as those of `forward`."""
        self._check_inputs(pos, x, vec, batch)
        points = self._points(pos, edge_index, edge_shift, orientations)
        bases = self.kernel_bases(points, self._per_pair(condition, points, batch))
        axes = points.axes(self.space)
        h = self.lift(points.of_nodes(x), points.of_nodes(vec), axes)
        outputs = []
        for i, block in enumerate(self.blocks):
            h = block(h, *bases, points.edges)
            if str(i) in self.readouts:
                outputs.append(self.readouts[str(i)](h, axes))
        parts = [torch.stack(part).mean(0) for part in zip(*outputs, strict=True)]
        if points.node is not None:
            parts = [pool(part, points.node, pos.shape[0], "mean") for part in parts]
        return Output(*parts)

    def _points(
        self, pos: Tensor, edges: Tensor | EdgeSet, edge_shift: Tensor | None, orientations: Tensor | None
    ) -> Points:
        """Where the features live, by the mode."""
        if self.config["mode"] == "cloud":
            if isinstance(edges, EdgeSet):
                raise ValueError("cloud mode makes edges of its own; pass edge_index [2, E], not an EdgeSet.")
            if orientations is not None:
                check_orientations(orientations, self.space, "orientations")
            return cloud_points(pos, edges, edge_shift, orientations)
        if orientations is not None:
            raise ValueError("orientations were given, but the network has a grid of them; use mode='cloud'.")
        if not isinstance(edges, EdgeSet):
            edges = EdgeSet.from_edge_index(edges, pos.shape[0], edge_shift)
        elif edges.num_nodes != pos.shape[0]:
            raise ValueError(f"the EdgeSet is of {edges.num_nodes} points; expected {pos.shape[0]}, the rows of pos.")
        grid = self.grid.to(self.dtype)
        if not self.config["separable"]:
            return product_points(pos, edges, edge_shift, grid)
        # The nearest point of a lattice is not exactly the kernel at zero, and conditions differ between graphs.
        split_loops = self.lattice is None and not self.config["conditioning_channels"]
        return bundle_points(pos, edges, edge_shift, grid, self.stores_pairs, split_loops)

    def kernel_bases(self, points: Points, condition: Tensor | None = None) -> tuple[Basis, ...]:
        """Basis functions of all pairs, [P, O, B] or another `Basis`, and, with a fibre kernel, of orientations [O, O, B].

        Args:
            points: where the features live.
            condition: [P, 1, conditioning_channels] or None.
        """
        if points.apart:
            check_displacements(points.r, points.edges, points.node)
        window = None if self.window is None else self.window(safe_norm(points.r))
        complete = self.config["invariants"] == "complete"
        invariants = points.invariants(self.space, complete, self.axis_smoothing)
        if self.lattice is not None:
            basis = self._spline_basis(points, invariants, window)
        else:
            basis = self._pair_basis(points, invariants, window, condition)
        if self.fiber_basis is None:
            return (basis,)
        grid = points.orientations
        fiber = self._fiber_memo(
            lambda: self.fiber_basis(self.space.fiber_invariants(grid, complete)), self.grid, self.fiber_basis
        )
        return basis, fiber

    def _pair_basis(
        self, points: Points, invariants: Tensor, window: Tensor | None, condition: Tensor | None
    ) -> Tensor | LoopBasis:
        if condition is not None:
            invariants = torch.cat([invariants, condition.expand(*invariants.shape[:2], -1)], dim=-1)
        basis = self.basis(invariants)
        if window is not None:
            basis = basis * window[:, None, None]
        if points.multiplicity > 1:
            basis = basis / points.multiplicity
        if points.loops is None:
            return basis
        zero, one = points.r.new_zeros(1, self.space.dim), points.orientations[:1]
        at_zero = self.basis(self.space.pair_invariants(zero, one, self.axis_smoothing))
        return LoopBasis(basis, at_zero, points.loops[:, None, None].to(basis.dtype))

    def _spline_basis(self, points: Points, invariants: Tensor, window: Tensor | None) -> SplineBasis:
        check_reach(points.r, self.lattice.radius, self.window is not None)
        nodes = self._lattice_memo(lambda: self.lattice.coefficients(self.basis), self.basis)
        return SplineBasis(nodes, *self.lattice.taps(invariants, window), self.lattice.stride)

    def _per_pair(self, condition: Tensor | None, points: Points, batch: Tensor | None) -> Tensor | None:
        """[P, 1, K]: the condition of the graph that a pair belongs to."""
        width = self.config["conditioning_channels"]
        if (condition is None) != (width == 0):
            given = "missing" if condition is None else "given"
            raise ValueError(f"condition is {given}, but the network has conditioning_channels={width}.")
        if condition is None:
            return None
        if condition.dim() != 2 or condition.shape[1] != width:
            raise ValueError(f"condition has shape {list(condition.shape)}; expected [G, {width}].")
        receiver = points.edges.pair_index[1]
        node = receiver if points.node is None else points.node.index_select(0, receiver)
        graph = torch.zeros_like(node) if batch is None else batch.index_select(0, node)
        return condition.index_select(0, graph)[:, None]

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

    def average_over_grids(self, num_grids: int) -> nn.Module:
        """The mean of the outputs over rotated copies of the grid, with the same weights: closer to equivariant.

        See `ponita.models.average.GridAverage`.
        """
        from ponita.models.average import GridAverage

        return GridAverage(self, num_grids)

    def _make_lattice(self) -> KernelLattice:
        config, smoothing = self.config, self.axis_smoothing
        radius = config["radius"] if config["cutoff"] is None else config["cutoff"]
        across = (-radius, radius) if self.space.fibre == "circle" else (0.0, (radius**2 + smoothing**2) ** 0.5)
        return KernelLattice(config["lattice"], radius, across)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of the inputs."""
        return self.lift.embedding.weight.dtype

    def set_grid(self, grid: Tensor) -> None:
        """Evaluate on other orientations, with the same weights.

        Args:
            grid: [O, d] unit vectors, or [O, 3, 3] rotations on "SE3".

        Raises:
            ValueError: on a space without orientations, in cloud mode, or for rows that are not orientations.
        """
        if self.config["mode"] == "cloud":
            raise ValueError("a network in cloud mode has no grid; its orientations come with the points.")
        check_orientations(grid, self.space)
        self.grid = grid.to(self.grid)
        self.config["num_orientations"] = grid.shape[0]
        self._note_symmetry()

    def _note_symmetry(self) -> None:
        """Whether the reverse edge's kernel can be read from the pair's: on R^d always, else on antipodal grids."""
        self.stores_pairs = self.space.reverses(self.grid) and self.config["attention_channels"] is None

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


def _after_load(model: Ponita, incompatible_keys: object) -> None:
    model._note_symmetry()
