"""Learning one thing after another: exclusive supermasks when the task is known, weight aligning when it is not."""

from ponita.sharing.continual.bank import SupermaskBank, attach_supermasks
from ponita.sharing.continual.exemplars import ExemplarMemory, herd
from ponita.sharing.continual.knn_transfer import KnnTransfer
from ponita.sharing.continual.learning import Learning, check_optimizer, learn_task
from ponita.sharing.continual.supermask import TopKMask
from ponita.sharing.continual.weight_aligning import (
    AlignConfig,
    AlignReport,
    align_weights,
    clip_heads,
    distillation_loss,
    grow_head,
    incremental_loss,
)

__all__ = [
    "AlignConfig",
    "AlignReport",
    "ExemplarMemory",
    "KnnTransfer",
    "Learning",
    "SupermaskBank",
    "TopKMask",
    "align_weights",
    "attach_supermasks",
    "check_optimizer",
    "clip_heads",
    "distillation_loss",
    "grow_head",
    "herd",
    "incremental_loss",
    "learn_task",
]
