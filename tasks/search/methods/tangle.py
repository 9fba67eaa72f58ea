"""One forward of mixed weights, whose mixture is learned."""

from __future__ import annotations

import torch

from ponita.sharing.search import Limit
from ponita.sharing.search.bilevel import BilevelTrainer
from ponita.sharing.search.searchers import Found
from ponita.sharing.search.tangle import RelaxationSampler
from ponita.tasks.search.methods.base import Epochs, Method, Search, Trained
from ponita.tasks.search.problem import PotentialProblem
from ponita.training import warmup_cosine


class Tangle(Method):
    """Weights and the logits of every choice in turn, in one forward (TangleNAS, arXiv:2312.10440).

    A part of the training set is kept for the logits. Candidates are the options of largest logits and draws by the learned
    weights.

    Args:
        kind: of the relaxation: "drnas", "darts" or "gdas".
        arch_lr: learning rate of the logits.
        arch_share: of the training set, for the logits.
        arch_warmup_epochs: in which only the weights are trained.
        epochs, lr, warmup_epochs: as for `Method`.
    """

    def __init__(
        self,
        kind: str = "drnas",
        arch_lr: float = 1e-2,
        arch_share: float = 0.2,
        arch_warmup_epochs: int = 2,
        epochs: int = 40,
        lr: float = 5e-3,
        warmup_epochs: float = 2.0,
    ) -> None:
        super().__init__(epochs, lr, warmup_epochs)
        if not 0 < arch_share < 1:
            raise ValueError(f"arch_share={arch_share}; expected a share between 0 and 1 of the training set.")
        self.kind, self.arch_lr, self.arch_share = kind, arch_lr, arch_share
        self.arch_warmup_epochs = arch_warmup_epochs

    def train(self, problem: PotentialProblem, progress: bool = True) -> Trained:
        task = problem.new_task()
        sampler = RelaxationSampler(problem.space, self.kind, seed=problem.seed)
        number = len(problem.data.sets["train"])
        order = torch.randperm(number, generator=torch.Generator().manual_seed(problem.seed)).tolist()
        kept = max(1, round(self.arch_share * number))
        optimizer = torch.optim.Adam(task.parameters(), lr=self.lr)
        steps = max(1, -(-(number - kept) // problem.data.batch_size))
        trainer = BilevelTrainer(
            task,
            problem.losses,
            optimizer,
            sampler,
            Epochs(problem, order[:kept]),
            torch.optim.Adam(sampler.parameters(), lr=self.arch_lr, betas=(0.5, 0.999), weight_decay=1e-3),
            self.arch_warmup_epochs,
            grad_clip=1.0,
            scheduler=warmup_cosine(optimizer, self.warmup_epochs * steps, self.epochs * steps),
        )
        self.fit(problem, trainer, progress, order[kept:])
        chosen = problem.space.decode(sampler.argmax())
        return Trained([(problem.space, task)], sampler, [f"Options of the largest logits: {chosen}."])

    def search(
        self, problem: PotentialProblem, trained: Trained, search: Search, limit: Limit | None, progress: bool = True
    ) -> Found:
        generator, sampler = torch.Generator().manual_seed(search.seed), trained.sampler
        probs = sampler.probabilities()
        further = (problem.space.sample(generator, probs) for _ in range(100 * search.candidates))
        return self.among((sampler.argmax(), *further), problem, trained, search, limit, progress)
