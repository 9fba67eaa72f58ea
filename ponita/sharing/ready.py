"""What replicas and continual learners ask of a model before they begin: that its weights are there, and which bits they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter


def assert_ready(model: nn.Module) -> None:
    """Raise ValueError for a model whose parameters are made, or whose kernels are calibrated, only when it first runs."""
    missing = [name for name, p in model.named_parameters() if isinstance(p, UninitializedParameter)]
    if missing:
        raise ValueError(
            f"{missing[:3]} have no values yet; run the model once on a batch before its weights are shared."
        )


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of the bytes of tensors, in their order: equal only if every bit is."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return found.hexdigest()
