"""Pools of shards, and which of them each layer uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ponita.sharing.adapters.sites import Site, role
from ponita.sharing.adapters.source import Source


class Ranks(NamedTuple):
    """Of a layer's update, of the LoRA with as many numbers, and of what is private to a layer."""

    r: int
    equivalent: int
    private: int


class Pool(nn.Module):
    """Shards of vectors of one width, and the index table of the layers that use them.

    The first rows are public; then come those of each layer, p l of them.

    Args:
        width: of the vectors put together.
        layers: L, how many layers share the pool.
        ranks: r, e and p.
        shards: l, parts of a vector.
        generator: of the shards drawn.

    Attributes:
        rows: [e L l, width / l].
        index: [L, r l] int16 (int32 for large pools), the rows of each layer.
    """

    def __init__(self, width: int, layers: int, ranks: Ranks, shards: int, generator: torch.Generator) -> None:
        super().__init__()
        self.r = ranks.r
        public = (ranks.equivalent - ranks.private) * layers * shards
        self.rows = nn.Parameter(torch.zeros(ranks.equivalent * layers * shards, width // shards))
        own = ranks.private * shards
        index = [
            torch.cat(
                [
                    torch.randperm(public, generator=generator)[: (ranks.r - ranks.private) * shards],
                    public + torch.arange(layer * own, (layer + 1) * own),
                ]
            )
            for layer in range(layers)
        ]
        small = self.rows.shape[0] <= torch.iinfo(torch.int16).max
        self.register_buffer("index", torch.stack(index).to(torch.int16 if small else torch.int32))

    def vectors(self, layer: int) -> Tensor:
        """[r, width]: the vectors of a layer."""
        return self.rows.index_select(0, self.index[layer].long()).reshape(self.r, -1)


class MoSSource(Source):
    """The pools of all sites.

    Args:
        sites: linear.
        ranks: r, e and p.
        shards: l.
        alpha: scale of updates, over r.
        seed: of what is random.
        pool_by: as in `MoSConfig`.

    Raises:
        ValueError: if the shards do not divide a site, or a pool is too small for the rank.
    """

    def __init__(
        self, sites: Sequence[Site], ranks: tuple[int, int, int], shards: int, alpha: float, seed: int, pool_by: str
    ) -> None:
        super().__init__(sites)
        ranks, generator = Ranks(*ranks), torch.Generator().manual_seed(seed)
        self.scale = alpha / ranks.r
        for site in sites:
            _check_site(site, ranks, shards)
        self.down, self.down_place = _pools(sites, KEYS_DOWN[pool_by], "in_features", ranks, shards, generator)
        self.up, self.up_place = _pools(sites, KEYS_UP[pool_by], "out_features", ranks, shards, generator)
        for pool in self.down:
            bound = (pool.rows.shape[1] * shards) ** -0.5
            with torch.no_grad():
                pool.rows.uniform_(-bound, bound, generator=generator)

    def factors(self, site: str) -> tuple[Tensor, Tensor]:
        """A [r, in] and B [r, out] of a site."""
        number = self.index[site]
        (down, layer_down), (up, layer_up) = self.down_place[number], self.up_place[number]
        return self.down[down].vectors(layer_down), self.up[up].vectors(layer_up)

    def delta(self, site: str, weight: Tensor) -> Tensor:
        down, up = self.factors(site)
        return self.scale * (up.mT @ down)


Key = Callable[[Site], object]
KEYS_DOWN: dict[str, Key] = {
    "role": lambda site: (role(site), site.in_features, site.out_features),
    "shape": lambda site: (site.in_features, site.out_features),
    "dim": lambda site: site.in_features,
}
KEYS_UP: dict[str, Key] = {**KEYS_DOWN, "dim": lambda site: site.out_features}


def _pools(
    sites: Sequence[Site], key: Key, width: str, ranks: Ranks, shards: int, generator: torch.Generator
) -> tuple[nn.ModuleList, list[tuple[int, int]]]:
    """A pool for each key, and for each site its pool and its number among those that share it."""
    keys = [key(site) for site in sites]
    layers, seen, numbers = Counter(keys), Counter(), {}
    pools, places = nn.ModuleList(), []
    for site, of_site in zip(sites, keys, strict=True):
        if of_site not in numbers:
            numbers[of_site] = len(pools)
            _check_pool(site, layers[of_site], ranks)
            pools.append(Pool(getattr(site, width), layers[of_site], ranks, shards, generator))
        places.append((numbers[of_site], seen[of_site]))
        seen[of_site] += 1
    return pools, places


def _check_site(site: Site, ranks: Ranks, shards: int) -> None:
    if not site.in_features:
        raise ValueError(
            f"{site.name} is not linear; mixtures of shards are updates of weights. Narrow target_modules."
        )
    if site.in_features % shards or site.out_features % shards:
        raise ValueError(
            f"shards={shards} does not divide {site.name}, which has {site.in_features} inputs and {site.out_features} outputs. "
            "Choose a number that divides both, or narrow target_modules."
        )
    if ranks.r > min(site.in_features, site.out_features):
        raise ValueError(
            f"r={ranks.r} is larger than {site.name} has inputs or outputs ({site.in_features}, {site.out_features}); choose a "
            "smaller r, or narrow target_modules."
        )


def _check_pool(site: Site, layers: int, ranks: Ranks) -> None:
    largest = ranks.private + (ranks.equivalent - ranks.private) * layers
    if ranks.r > largest:
        raise ValueError(
            f"r={ranks.r} needs more public shards than the pool of {site.name} holds: {layers} layers share it, so r is at "
            f"most private_rank + (equiv_rank - private_rank) * {layers} = {largest}. Lower r, raise equiv_rank, or let more "
            "layers share with pool_by='shape' or 'dim'."
        )
