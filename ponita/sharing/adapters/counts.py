"""How many numbers adapters train, in closed form."""

from __future__ import annotations


def houlsby_count(width: int, hidden: int, sites: int = 1, tasks: int = 1, share: str = "all") -> int:
    """Of bottlenecks with weights of their own.

    Args:
        width: C.
        hidden: m.
        sites: how many there are.
        tasks: T.
        share: as in `BottleneckConfig`.
    """
    down, up = width * hidden + hidden, hidden * width + width
    downs, ups = (1 if share in ("all", "down") else tasks), (1 if share in ("all", "up") else tasks)
    return sites * (downs * down + ups * up)


def phm_count(inputs: int, outputs: int, n: int, rank: int | None = None, shared_rule: bool = False) -> int:
    """Of one map that is a sum of Kronecker products, its bias included; without the rules where they are shared.

    Args:
        inputs: of the map.
        outputs: of the map.
        n: number of products.
        rank: of the factors.
        shared_rule: the n^3 numbers of the rules are counted elsewhere.
    """
    factors = inputs * outputs // n if rank is None else rank * (inputs + outputs)
    return factors + outputs + (0 if shared_rule else n**3)


def hyper_count(
    width: int, hidden: int, layers: int, positions: int, sizes: tuple[int, int, int], plus: bool, tasks: int = 0
) -> int:
    """Of a network that makes the weights of bottlenecks.

    Args:
        width: C.
        hidden: m.
        layers: L.
        positions: in a block.
        sizes: of embeddings t, of the hidden layer h, of what weights are generated from p.
        plus: Hyperformer++.
        tasks: T; 0 where their embeddings are counted elsewhere.
    """
    t, h, p = sizes
    embeddings = (tasks + layers + (positions if plus else 0)) * t
    network = ((3 if plus else 2) * t * h + h) + (h * p + p) + 2 * p
    generators = 2 * (p + 1) * width * hidden + (p + 1) * (width + hidden)
    return embeddings + network + (1 if plus else positions) * generators


def lora_count(shapes: list[tuple[int, int]], rank: int) -> int:
    """Of low-rank updates of maps (inputs, outputs)."""
    return sum(rank * (inputs + outputs) for inputs, outputs in shapes)
