"""Mean absolute errors of properties."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ponita.models import Properties
from ponita.tasks.potential.metrics import GroupedErrors


class PropertyErrors(nn.Module):
    """Mean absolute errors of scalars, and mean lengths of the errors of vectors, where labels are known.

    Args:
        names: of the scalars, then of the vectors.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.grouped = GroupedErrors(len(names))

    def update(self, predicted: Properties, scalars: Tensor, vectors: Tensor) -> None:
        """Add a batch.

        Args:
            predicted: by the model.
            scalars: [G, S] labels, NaN where unknown.
            vectors: [G, V, 3] the same.
        """
        length = (predicted.vectors - vectors).norm(dim=-1)  # NaN where unknown
        off = torch.cat([predicted.scalars - scalars, length.double()], dim=1)
        known = ~off.isnan()
        target = torch.where(known, 0.0, torch.nan).to(off)
        group = torch.arange(off.shape[1], device=off.device).expand_as(off)
        self.grouped.update(off.nan_to_num().flatten(), target.flatten(), group.flatten())

    def mae(self) -> Tensor:
        """[S + V] in the units of the targets; NaN where no label was known."""
        errors = self.grouped.compute()
        return torch.atleast_1d(torch.where(errors.count > 0, errors.mae, torch.nan))

    def reset(self) -> None:
        """Forget what was added."""
        self.grouped.reset()
