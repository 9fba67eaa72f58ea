"""Homogeneous spaces of the special Euclidean group that a network can live on (PONITA, section 2)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Space:
    """A space X = SE(d)/H whose points carry the features.

    Attributes:
        name: the name users write.
        dim: dimension d of the positions.
        has_fibre: whether a point carries a direction besides its position, so that features are [N, O, C] with O > 1.
        num_invariants: attributes of a pair of points that share a direction: |r| alone on R^d,
            (o.r, |r - (o.r)o|) on R^d x S^(d-1).
    """

    name: str
    dim: int
    has_fibre: bool
    num_invariants: int


SPACES = {
    "R3": Space("R3", dim=3, has_fibre=False, num_invariants=1),
    "R3xS2": Space("R3xS2", dim=3, has_fibre=True, num_invariants=2),
}


def get_space(name: str) -> Space:
    """Look a space up by name.

    Raises:
        ValueError: for a name that is not among the implemented spaces.
    """
    if name not in SPACES:
        raise ValueError(f"space={name!r} is not implemented; choose one of {sorted(SPACES)}.")
    return SPACES[name]
