"""All PONITA networks of a space in the weights of the largest, evaluated by the network's own code and kernels.

Every parameter of a smaller `Ponita` is the corner of the largest one's: channels, basis functions, widening and the
monomials of a lower degree are prefixes, blocks the first ones, and no parameter depends on the cut-off or on the grid.
A path is evaluated by the network of its sizes with corners (or, for a mixture, masked weights) in place of its own
parameters, so there is no second implementation of the network.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ponita.models import Ponita, Potential
from ponita.models.ponita import Output
from ponita.nn import PolynomialCutoff, calibrate
from ponita.sharing.search.layers import masked_layer_norm
from ponita.sharing.search.masks import joint_mask
from ponita.sharing.search.ponita_axes import layer_of, ponita_axes
from ponita.sharing.search.space import Architecture, Path, Relaxation, SearchSpace
from ponita.sharing.search.supernet import Axes, Supernet, find_supernet
from ponita.sharing.search.taps import recorded

#: Arguments of `Ponita` whose options nest.
CHOICES = (
    "hidden_channels",
    "num_layers",
    "widening",
    "basis_channels",
    "degree",
    "cutoff",
    "num_orientations",
)
SKELETONS = 64


class PonitaSupernet(Supernet):
    """The networks that a space of arguments of `Ponita` spans.

    Stands where a `Ponita` does, such as in a `Potential`: `activate` says which network it is.

    Args:
        space: choices named as arguments of `Ponita`: hidden_channels, num_layers, widening, basis_channels, degree, cutoff,
            num_orientations. Under a relaxation all are mixed in one forward but num_orientations, since features of
            other grids have another shape.
        **fixed: the other arguments.

    Raises:
        ValueError: for a choice whose options do not share weights, or that is also fixed.
    """

    def __init__(self, space: SearchSpace, /, **fixed: Any) -> None:
        super().__init__(space)
        wrong = [name for name in space if name not in CHOICES]
        if wrong:
            raise ValueError(
                f"choices {wrong} do not nest: their options share no weights. Expected some of {list(CHOICES)}."
            )
        twice = [name for name in space if name in fixed]
        if twice:
            raise ValueError(f"{twice} are chosen and fixed; leave them out of one.")
        if fixed.get("readouts", "all") != "all":
            raise ValueError(
                f"readouts={fixed['readouts']!r}: networks of different depths share read-outs only with 'all'."
            )
        self.fixed = dict(fixed)
        self.network = Ponita(**fixed, **{name: choice.values[-1] for name, choice in space.items()})
        self.register_buffer("calibrated", torch.zeros((), dtype=torch.bool))
        self._axes = {f"network.{name}": axes for name, axes in ponita_axes(self.network, space).items()}
        self._skeletons: OrderedDict[Hashable, _Skeleton] = OrderedDict()

    @property
    def config(self) -> dict[str, Any]:
        """Arguments of the largest network, whose graphs serve all."""
        return self.network.config

    @property
    def stores_pairs(self) -> bool:
        """Whether the largest network reads pairs in place of edges; one with another grid splits them."""
        return self.network.stores_pairs

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.network.dtype

    def axes(self) -> Mapping[str, Axes]:
        return self._axes

    def layer_of(self, name: str) -> int | None:
        return layer_of(name)

    def run(self, path: Path, *inputs: Any, **options: Any) -> Output:
        """`Ponita.forward`."""
        return self._call("forward", path, *inputs, **options)

    def at_points(self, *inputs: Any, path: Path | None = None, **options: Any) -> Output:
        """`Ponita.at_points`."""
        return self._call("at_points", self.path if path is None else path, *inputs, **options)

    def kernel_bases(self, *inputs: Any, **options: Any) -> Any:
        """Those of the largest network."""
        return self.network.kernel_bases(*inputs, **options)

    def taps(self, *inputs: Any, path: Architecture, **options: Any) -> tuple[Output, list[dict[str, Tensor]]]:
        """The output, and of every block the spatial and spherical messages and its output ("S", "F", "U"), [N, O, C].

        Source: the triad that stands for queries, keys and values of AutoDistil (arXiv:2201.12507).
        """
        network = self.network if self._is_largest(path) else self._skeleton(path).network
        with recorded(network) as found:
            return self._call("forward", path, *inputs, **options), found

    def extract(self, architecture: Architecture) -> Ponita:
        network = Ponita(**self.fixed, **self.space.decode(architecture)).to(self.network.grid.device, self.dtype)
        corners = self._corners(architecture)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(corners[name])
        return network.train(self.training)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, the path is the network of all weights, also where the space is restricted to smaller ones."""
        before = self.space, self.path
        self.space = SearchSpace(*self.space.values())
        self.path = self.space.largest()
        try:
            yield
        finally:
            self.space, self.path = before

    def _call(self, method: str, path: Path, *inputs: Any, **options: Any) -> Output:
        if self._is_largest(path):
            return getattr(self.network, method)(*inputs, **options)
        skeleton = self._skeleton(path)
        skeleton.method = method
        state = self._corners(path) if isinstance(path, tuple) else self._masked(path)
        state = {f"network.{name}": value for name, value in state.items()}
        return torch.func.functional_call(skeleton, state, inputs, options)

    def _is_largest(self, path: Path) -> bool:
        return path == tuple(len(choice) - 1 for choice in self.space.values())

    def _corners(self, architecture: Architecture) -> dict[str, Tensor]:
        """Views of the weights of a network."""
        used = self.block(architecture)
        own = self.named_parameters()
        return {name.removeprefix("network."): value[used[name]] for name, value in own if name in used}

    def _masked(self, relaxation: Relaxation) -> dict[str, Tensor]:
        """The weights of the largest network times their survival, and the weights of the layers that mix."""
        masks = {axes: joint_mask(axes, relaxation).to(self.dtype) for axes in set(self._axes.values())}
        state = {
            name.removeprefix("network."): value * masks[self._axes[name]] for name, value in self.named_parameters()
        }
        if "num_layers" in relaxation:
            for layer in range(len(self.network.blocks)):
                share = self._share_of_readout(layer, relaxation["num_layers"])
                for part in ("weight", "bias"):
                    state[f"readouts.{layer}.linear.{part}"] = state[f"readouts.{layer}.linear.{part}"] * share
        if "hidden_channels" in relaxation:
            channels = masks[self._axes["network.blocks.0.norm.weight"]]
            state |= {f"blocks.{layer}.norm.mask": channels for layer in range(len(self.network.blocks))}
        if "cutoff" in relaxation:
            state["window.weights"] = relaxation["cutoff"].to(self.dtype)
        return state

    def _share_of_readout(self, layer: int, weights: Tensor) -> Tensor:
        """Output = sum_d w_d mean_{i<d} readout_i, and the network takes the mean over all of its read-outs."""
        depths = self.space["num_layers"].values
        share = sum(w / depth for w, depth in zip(weights, depths, strict=True) if depth > layer)
        return (len(self.network.blocks) * share).to(self.dtype)

    def _skeleton(self, path: Path) -> _Skeleton:
        """The network whose code and grid evaluate a path; its own weights are not used."""
        mixed = not isinstance(path, tuple)
        option = _grid_option(path) if mixed else None
        key = (option if mixed else path, mixed, self.dtype, self.network.grid.device)
        if key not in self._skeletons:
            values = {name: choice.values[-1] for name, choice in self.space.items()}
            if option is not None:
                values["num_orientations"] = self.space["num_orientations"].values[option]
            network = Ponita(**self.fixed, **(values if mixed else self.space.decode(path)))
            if mixed:
                _let_mix(network, self.space)
            self._skeletons[key] = _Skeleton(network.to(self.network.grid.device, self.dtype).requires_grad_(False))
        self._skeletons.move_to_end(key)
        if len(self._skeletons) > SKELETONS:
            self._skeletons.popitem(last=False)
        return self._skeletons[key]


class _Skeleton(nn.Module):
    """Makes any method of a network its forward."""

    def __init__(self, network: Ponita) -> None:
        super().__init__()
        self.network, self.method = network, "forward"

    def forward(self, *inputs: Any, **options: Any) -> Output:
        return getattr(self.network, self.method)(*inputs, **options)


class _MaskedNorm(nn.LayerNorm):
    """Layer normalisation over the channels that survive."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("mask", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return masked_layer_norm(x, self.mask, self.weight, self.bias, self.eps)


class _MixedCutoff(nn.Module):
    """A mixture of windows, which is the mixture of what the convolutions return."""

    def __init__(self, cutoffs: tuple[float, ...]) -> None:
        super().__init__()
        self.windows = nn.ModuleList(map(PolynomialCutoff, cutoffs))
        self.register_buffer("weights", torch.ones(len(cutoffs)))

    def forward(self, distance: Tensor) -> Tensor:
        return sum(weight * window(distance) for weight, window in zip(self.weights, self.windows, strict=True))


def _let_mix(network: Ponita, space: SearchSpace) -> None:
    """Put in the layers that depend on a mixture by more than their weights."""
    if "hidden_channels" in space:
        for block in network.blocks:
            block.norm = _MaskedNorm(block.norm.normalized_shape[0])
    if "cutoff" in space:
        network.window = _MixedCutoff(space["cutoff"].values)


def _grid_option(relaxation: Relaxation) -> int | None:
    weights = relaxation.get("num_orientations")
    if weights is None:
        return None
    if int((weights != 0).sum()) != 1:
        raise ValueError(
            f"num_orientations has weights {[round(w, 3) for w in weights.tolist()]}: features of different grids have different shapes and "
            "cannot be mixed. Draw one grid, and put all weight on it."
        )
    return int(weights.argmax())


def calibrate_supernet(model: nn.Module, batch: Any) -> dict[str, dict[str, float]]:
    """Rescale the kernels of the largest network, once; every path then uses them as they are.

    Args:
        model: a supernet, or a model that holds one.
        batch: as for `ponita.nn.calibrate`.

    Raises:
        ValueError: if the model holds no supernet, and as `ponita.nn.calibrate`.
    """
    supernet = supernet_of(model)
    with supernet.whole():
        report = calibrate(model, batch)
    supernet.calibrated.fill_(True)
    return report


def supernet_of(model: nn.Module) -> PonitaSupernet:
    """The supernet that a model holds.

    Raises:
        ValueError: if it holds none, or one of other networks.
    """
    found = find_supernet(model)
    if not isinstance(found, PonitaSupernet):
        raise ValueError(f"{type(model).__name__} holds a {type(found).__name__}; expected a PonitaSupernet.")
    return found


def extract_potential(potential: Potential, architecture: Architecture) -> Potential:
    """A potential of its own, with the network of an architecture and the supernet's normalisation.

    Args:
        potential: whose network is a `PonitaSupernet`.
        architecture: in its space.
    """
    network = supernet_of(potential).extract(architecture)
    alone = Potential(network, potential.elements, potential.self_loops, potential.heads).to(potential.shift.device)
    alone.reference_energies.copy_(potential.reference_energies)
    alone.shift.copy_(potential.shift)
    alone.scale.copy_(potential.scale)
    return alone.train(potential.training)
