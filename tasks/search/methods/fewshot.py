"""A supernet that is split where its options disagree."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ponita.sharing.search import SupernetTrainer, UniformSampler
from ponita.sharing.search.fewshot import FewShotTrainer, Leaf, SupernetTree
from ponita.tasks.search.methods.base import Epochs, Method, Trained
from ponita.tasks.search.problem import PotentialProblem
from ponita.training import warmup_cosine


class GradientMatching(Method):
    """Each split gives the options whose gradients disagree weights of their own (few-shot search, arXiv:2203.15207).

    Every leaf is trained for the epochs between two splits, so a training takes as many times longer as there are leaves.

    Args:
        split_at: epochs after which all leaves are split.
        matching_batches: on which gradients are compared.
        min_group: fewest options of a group.
        restart: "final": leaves begin anew after the last split, as published; null: they keep their weights.
        epochs, lr, warmup_epochs: as for `Method`; after the last split the learning rate begins anew.
    """

    def __init__(
        self,
        split_at: Sequence[int] = (10,),
        matching_batches: int = 20,
        min_group: int = 1,
        restart: str | None = None,
        epochs: int = 40,
        lr: float = 5e-3,
        warmup_epochs: float = 2.0,
    ) -> None:
        super().__init__(epochs, lr, warmup_epochs)
        self.split_at, self.matching_batches = list(split_at), matching_batches
        self.min_group, self.restart = min_group, restart

    def train(self, problem: PotentialProblem, progress: bool = True) -> Trained:
        task = problem.new_task()
        tree = SupernetTree(task, torch.optim.Adam(task.parameters(), lr=self.lr), min_group=self.min_group)
        steps = self.steps_per_epoch(problem)
        spans = [b - a for a, b in zip([0, *self.split_at], [*self.split_at, self.epochs], strict=True)]

        def make_trainer(leaf: Leaf) -> SupernetTrainer:
            span = spans[len(leaf.split)] if len(leaf.split) < len(spans) else spans[-1]
            for group in leaf.optimizer.param_groups:
                group["lr"] = group["initial_lr"] = self.lr
            schedule = warmup_cosine(leaf.optimizer, self.warmup_epochs * steps, span * steps)
            sampler = UniformSampler(leaf.space, problem.seed)
            return SupernetTrainer(
                leaf.model,
                problem.losses,
                leaf.optimizer,
                sampler,
                grad_clip=1.0,
                scheduler=schedule,
                progress=progress,
            )

        random = torch.Generator().manual_seed(problem.seed)
        few = FewShotTrainer(tree, make_trainer, self.split_at, self.matching_batches, self.restart, random)
        few.fit(Epochs(problem), self.epochs)
        notes = [f"Leaf of {leaf.space}, split at {', '.join(leaf.split) or 'nothing'}." for leaf in tree.leaves]
        return Trained([(leaf.space, leaf.model) for leaf in tree.leaves], None, notes)
