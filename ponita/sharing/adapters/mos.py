"""MoS, mixture of shards (Wang et al., ICLR 2025, arXiv 2410.00938): low-rank factors drawn from pools of all layers."""

from __future__ import annotations

from dataclasses import dataclass, field

from ponita.sharing.adapters.layers import DeltaLayer
from ponita.sharing.adapters.shards import MoSSource
from ponita.sharing.adapters.sites import Site
from ponita.sharing.adapters.tuner import SiteConfig, Tuner, register

POOLS = ("role", "shape", "dim")


@dataclass
class MoSConfig(SiteConfig):
    """Updates (alpha / r) B A whose rows are put together of shards in pools that many layers share.

    Each layer takes a random subset of the public shards (subset selection), other ones for A than for B (pair
    dissociation), several for each vector (vector sharding), and some that no other layer has (privatisation). What it
    takes is drawn once and stored with the adapter. A pool of L layers holds as many numbers as their LoRA of rank
    `equiv_rank` would.

    Args:
        r: rank of the update of a layer.
        equiv_rank: e, the rank of the LoRA with as many numbers.
        private_rank: p, of the ranks of a layer, those whose shards are its own. Below e; or e = p = r, which is LoRA.
        shards: l, parts of a vector; divides inputs and outputs of every site.
        alpha: scale of the update, over r.
        seed: of the shards drawn and of the pools.
        pool_by: which layers share. "role": those with the same name in their block, as published. "shape": those of
            the same inputs and outputs. "dim": shards of A where inputs are as many, of B where outputs are.
        dropout: as in `DeltaLayer`.

    Raises:
        ValueError: for values that exclude each other; the pools must hold the r - p public vectors of a layer, so
            r <= p + (e - p) L.
    """

    r: int = field(default=4)
    equiv_rank: int = field(default=2)
    private_rank: int = field(default=1)
    shards: int = field(default=4)
    alpha: float = field(default=16.0)
    seed: int = field(default=0)
    pool_by: str = field(default="role")
    dropout: float = field(default=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool_by not in POOLS:
            raise ValueError(f"pool_by={self.pool_by!r}; expected one of {list(POOLS)}.")
        if min(self.r, self.equiv_rank, self.shards) < 1 or self.private_rank < 0:
            raise ValueError(
                f"r={self.r}, equiv_rank={self.equiv_rank}, shards={self.shards}, private_rank={self.private_rank}; expected "
                "at least 1, and private_rank at least 0."
            )
        lora = self.equiv_rank == self.private_rank == self.r
        if not lora and not self.private_rank < self.equiv_rank:
            raise ValueError(
                f"private_rank={self.private_rank} with equiv_rank={self.equiv_rank}; expected private_rank < equiv_rank (or "
                "private_rank = equiv_rank = r, which shares nothing)."
            )
        if self.private_rank > self.r:
            raise ValueError(f"private_rank={self.private_rank} is larger than r={self.r}; expected at most r.")


class MoSTuner(Tuner):
    """Puts `MoSSource` on linear layers."""

    layer_cls = DeltaLayer

    def make_source(self, config: MoSConfig, sites: list[Site]) -> MoSSource:
        ranks = (config.r, config.equiv_rank, config.private_rank)
        return MoSSource(sites, ranks, config.shards, config.alpha, config.seed, config.pool_by)

    def layer_options(self, config: MoSConfig) -> dict[str, float]:
        return {"dropout": config.dropout}


register(MoSConfig, MoSTuner)
