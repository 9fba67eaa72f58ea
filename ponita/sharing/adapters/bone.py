"""Bone, block affine transformation (Kang and Yin, arXiv 2409.15371 v1-v3): dW = W B + B, block by block."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ponita.sharing.adapters.layers import DeltaLayer
from ponita.sharing.adapters.sites import Site
from ponita.sharing.adapters.source import Source
from ponita.sharing.adapters.tuner import SiteConfig, Tuner, register

GROUPINGS = ("col", "row", "free", "ab")


@dataclass
class BoneConfig(SiteConfig):
    """Block affine updates of weights: W [out, in] is cut in blocks of r x r, and W_ab + (W_ab B + B) is used.

    `peft` has "col" too, as `MissConfig(init_weights="bat")`; the name Bone was later given to what is
    `MissConfig(init_weights=True)` there.

    Args:
        r: size of a block; divides the inputs and the outputs of every site.
        grouping: which blocks share a B. "col": those of the same outputs, r * out numbers. "row": those of the same
            inputs, r * in. "free": all, r^2. "ab": as "row", with a factor and an offset of their own, W A + B, 2 r in.
        dropout: as in `DeltaLayer`.
    """

    r: int = field(default=8)
    grouping: str = field(default="row")
    dropout: float = field(default=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grouping not in GROUPINGS:
            raise ValueError(f"grouping={self.grouping!r}; expected one of {list(GROUPINGS)}.")
        if self.r < 1:
            raise ValueError(f"r={self.r}; expected at least 1.")


class BoneSource(Source):
    """Blocks of every site, zero at the start, so that the update is.

    Args:
        sites: linear.
        r: size of a block.
        grouping: as in `BoneConfig`.

    Raises:
        ValueError: if r does not divide the inputs or the outputs of a site.
    """

    def __init__(self, sites: list[Site], r: int, grouping: str) -> None:
        super().__init__(sites)
        self.r, self.grouping = r, grouping
        self.offsets, self.factors = nn.ParameterList(), nn.ParameterList()
        for site in sites:
            _check_blocks(site, r)
            groups = {
                "col": site.out_features // r,
                "row": site.in_features // r,
                "free": 1,
                "ab": site.in_features // r,
            }
            self.offsets.append(nn.Parameter(torch.zeros(groups[grouping], r, r)))
            if grouping == "ab":
                self.factors.append(nn.Parameter(torch.zeros(groups[grouping], r, r)))

    def delta(self, site: str, weight: Tensor) -> Tensor:
        blocks = weight.unflatten(0, (-1, self.r)).unflatten(2, (-1, self.r)).transpose(1, 2)  # [a, b, r, r]
        offset = self._placed(self.offsets[self.index[site]])
        factor = self._placed(self.factors[self.index[site]]) if self.grouping == "ab" else offset
        return (blocks @ factor + offset).transpose(1, 2).reshape(weight.shape)

    def _placed(self, blocks: Tensor) -> Tensor:
        """[a or 1, b or 1, r, r]: beside the blocks of the weight that use them."""
        return blocks[:, None] if self.grouping == "col" else blocks[None]


class BoneTuner(Tuner):
    """Puts `BoneSource` on linear layers."""

    layer_cls = DeltaLayer

    def make_source(self, config: BoneConfig, sites: list[Site]) -> BoneSource:
        return BoneSource(sites, config.r, config.grouping)

    def layer_options(self, config: BoneConfig) -> dict[str, float]:
        return {"dropout": config.dropout}


def _check_blocks(site: Site, r: int) -> None:
    if not site.in_features or site.in_features % r or site.out_features % r:
        raise ValueError(
            f"blocks of r={r} do not divide {site.name}, which has {site.in_features} inputs and {site.out_features} outputs. "
            "Choose r to divide both, or narrow target_modules."
        )


register(BoneConfig, BoneTuner)
