"""Learning one thing after another: exclusive supermasks when the task is known, weight aligning when it is not."""

from ponita.sharing.continual.knn_transfer import KnnTransfer
from ponita.sharing.continual.learning import check_optimizer, learn_task
from ponita.sharing.continual.supermask import SupermaskBank, TopKMask, attach_supermasks

__all__ = ["KnnTransfer", "SupermaskBank", "TopKMask", "attach_supermasks", "check_optimizer", "learn_task"]
