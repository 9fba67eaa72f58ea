"""Which network weights of the published code are of, and whether that is the one asked for."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ponita.geometry import get_space
from ponita.models.reference_names import Published

# Highest degree that an error proposes, far above any that was trained.
_MAX_DEGREE = 6


class _Kind(NamedTuple):
    """A network that this package can be."""

    description: str
    spaces: tuple[str, ...]
    mode: str
    conditioning_channels: int = 0


#: By whether there is a fibre basis, and the number of invariants of a pair.
_KINDS = {
    (True, 2): _Kind("a bundle of orientations", ("R3xS2", "R2xS1"), "bundle"),
    (True, 3): _Kind("a bundle of orientations conditioned on its last feature", ("R3xS2",), "bundle", 1),
    (False, 1): _Kind("a network on distances", ("R3", "R2"), "bundle"),
    (False, 3): _Kind("a cloud of points with directions", ("R3xS2", "R2xS1"), "cloud"),
}


def check_kind(published: Published, space: str, mode: str, degree: int) -> int:
    """Compare the invariants that the weights were made for with the arguments.

    Args:
        published: content of a checkpoint.
        space: asked for.
        mode: asked for.
        degree: highest power of the invariants.

    Returns:
        The number of conditioning channels.

    Raises:
        ValueError: if they differ, or no network of this package has these invariants.
    """
    get_space(space)
    fiber = published.weights.get("fiber_basis.linear_1.weight")
    num_invariants = _num_invariants(published.weights["basis.linear_1.weight"].shape[1], degree, fiber)
    found = f"{num_invariants} invariants of a pair and {'no' if fiber is None else 'a'} fibre basis"
    kind = _KINDS.get((fiber is not None, num_invariants))
    if kind is None or (published.pools_first and num_invariants == 3):
        raise ValueError(
            f"the weights have {found} at degree={degree}, which is no network of this package. Another degree, or a "
            "network equivariant under translations alone, whose invariants are the components of r?"
        )
    if space not in kind.spaces or mode != kind.mode:
        raise ValueError(
            f"the weights have {found}: {kind.description}, not space={space!r} with mode={mode!r}; pass "
            f"space={' or '.join(map(repr, kind.spaces))} and mode={kind.mode!r}."
        )
    if space == "R2xS1" and published.later is not None:
        raise ValueError(
            f"space='R2xS1' with {published.later}, a name of the rewrites of the published code. In the plane their "
            "second invariant is the sum of the components of r - (o.r) o, which changes under rotations; no space has "
            "it here. Load planar weights of the main code, or train again."
        )
    return kind.conditioning_channels


def check_pooling(published: Published, pooling: str | None) -> None:
    """Raise ValueError if the sum over points would count the bias of the read-out another number of times."""
    bias = next((v for k, v in published.weights.items() if k.startswith("readouts.") and k.endswith("bias")), None)
    if published.pools_first and pooling == "sum" and bias is not None and bool(bias.any()):
        raise ValueError(
            "pooling='sum' with the name `readout`, of a code that sums over points before its read-out: there its "
            "bias counts once a graph, here once a point. Load with pooling=None, add `scalars - bias` up over each "
            "graph and add the bias once."
        )


def _num_invariants(columns: int, degree: int, fiber: Tensor | None) -> int:
    """d, from the d + d^2 + ... + d^degree columns of the basis; the fibre basis has `degree`, for one invariant."""
    counts = {_num_columns(d, degree): d for d in range(1, columns + 1)}
    powers = degree if fiber is None else fiber.shape[1]
    if columns in counts and powers == degree:
        return counts[columns]
    degrees = range(1, _MAX_DEGREE + 1) if fiber is None else (powers,)
    fits = [f"degree={n}" for n in degrees if any(_num_columns(d, n) == columns for d in (1, 2, 3))]
    raise ValueError(
        f"basis_fn.1.weight has {columns} columns{'' if fiber is None else f' and fiber_basis_fn.1.weight {powers}'}, "
        f"which do not go with degree={degree}; pass {' or '.join(fits) or 'the degree it was trained with'}. The "
        "degree is counted as in the main code; its later rewrites count one less (their degree=2 is degree=3 here)."
    )


def _num_columns(num_invariants: int, degree: int) -> int:
    return sum(num_invariants**n for n in range(1, degree + 1))
