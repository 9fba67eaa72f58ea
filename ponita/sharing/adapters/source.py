"""A weight source holds all weights of one adapter, and says which a site uses."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ponita.sharing.adapters.sites import Site


class Source(nn.Module):
    """Base of the sources. What sites, tasks or rows share is decided here and nowhere else.

    Args:
        sites: that the adapter is put on.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__()
        self.index = {site.name: number for number, site in enumerate(sites)}

    def has(self, site: str) -> bool:
        """Whether the adapter is put on a site."""
        return site in self.index

    def delta(self, site: str, weight: Tensor) -> Tensor:
        """What is added to a weight [out, in]; mergeable."""
        raise NotImplementedError

    def update(self, site: str, h: Tensor) -> Tensor:
        """What is added to an output [..., C]; depends on it, and is not mergeable."""
        raise NotImplementedError
