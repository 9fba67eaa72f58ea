"""The options of a network that exclude each other, checked before anything is built."""

from __future__ import annotations

from typing import Any

from ponita.geometry import Space

ALLOWED: dict[str, tuple] = {
    "mode": ("bundle", "cloud"),
    "invariants": ("paper", "complete"),
    "readouts": ("all", "last"),
    "pooling": ("sum", "mean", None),
    "kernel": ("mlp", "fused", "spline"),
}
POSITIVE = ("hidden_channels", "basis_channels", "num_layers", "widening")
#: Nodes of the spline along both invariants. About 0.16 Å apart at 5 Å, which resolves what networks learn.
LATTICES = {"circle": (64, 64), "sphere": (64, 32)}


def check_options(config: dict[str, Any], space: Space) -> None:
    """Raise ValueError for an option that is unknown, out of range, or does not go with the others.

    Args:
        config: arguments of `Ponita` by name.
        space: what `config["space"]` names.
    """
    for name, allowed in ALLOWED.items():
        if config[name] not in allowed:
            raise ValueError(f"{name}={config[name]!r} is not implemented; expected one of {list(allowed)}.")
    for name in POSITIVE:
        if config[name] < 1:
            raise ValueError(f"{name}={config[name]}; expected at least 1.")
    if config["conditioning_channels"] < 0:
        raise ValueError(f"conditioning_channels={config['conditioning_channels']}; expected at least 0.")
    if config["attention_channels"] is not None and config["attention_channels"] < 1:
        raise ValueError(f"attention_channels={config['attention_channels']}; expected at least 1, or None.")
    _check_channels(config, space)
    _check_mode(config, space)
    if config["kernel"] == "spline":
        _check_spline(config, space)


def default_lattice(space: Space) -> tuple[int, int] | None:
    """Nodes of the spline kernels of a space; None where it has none."""
    return LATTICES.get(space.fibre)


def _check_channels(config: dict[str, Any], space: Space) -> None:
    for kind in ("in", "out"):
        scalars, vectors = config[f"{kind}_channels"], config[f"{kind}_vector_channels"]
        if scalars < 0 or vectors < 0 or scalars + vectors == 0:
            raise ValueError(
                f"{kind}_channels={scalars}, {kind}_vector_channels={vectors}; expected at least one channel."
            )
        if vectors and not space.has_fibre:
            other = "R2xS1" if space.dim == 2 else "R3xS2"
            raise ValueError(
                f"{kind}_vector_channels={vectors} on a space without directions; use space={other!r} for vectors."
            )


def _check_mode(config: dict[str, Any], space: Space) -> None:
    cloud, separable = config["mode"] == "cloud", config["separable"]
    if cloud and not space.has_fibre:
        raise ValueError(f"mode='cloud' on space {space.name}, whose points have no orientation; use mode='bundle'.")
    if cloud and not separable:
        raise ValueError(
            "separable=False with mode='cloud', which has no grid to factorise over; leave separable=True."
        )
    if not separable and not space.has_fibre:
        raise ValueError(f"separable=False on space {space.name}, whose points have no orientation.")
    if config["invariants"] == "complete" and space.fibre == "sphere" and not cloud and separable:
        raise ValueError(
            "invariants='complete' with a separable kernel on the sphere, which sees no more than the paper's; use "
            "separable=False, mode='cloud' or space='SE3'."
        )


def _check_spline(config: dict[str, Any], space: Space) -> None:
    reach = config["radius"] if config["cutoff"] is None else config["cutoff"]
    if default_lattice(space) is None or reach is None:
        raise ValueError(
            f"kernel='spline' with space={space.name!r}, cutoff={config['cutoff']}, radius={config['radius']}; it needs a "
            "space with directions (R2xS1, R3xS2) and a finite reach: set cutoff."
        )
    if config["mode"] == "cloud" or not config["separable"] or config["conditioning_channels"]:
        raise ValueError(
            "kernel='spline' interpolates in two invariants; mode='cloud', separable=False and conditioning have more: use "
            "kernel='mlp'."
        )
