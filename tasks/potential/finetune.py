"""Adapting a trained potential to other structures: all of it, a part of it, or an adapter."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from torch_geometric.data import Batch

from ponita.data.references import References
from ponita.models import Potential, load
from ponita.sharing.adapters import adapter_report, save_adapter
from ponita.sharing.adapters.sites import check_rank
from ponita.tasks.base import states_of
from ponita.tasks.potential.normalization import check_labels, correct_references, gather
from ponita.tasks.potential.task import PotentialTask
from ponita.tasks.runs import folder_of
from ponita.training import LossWeights, OptimizerConfig

ADAPTER = "adapter"
ALL = ".*"


class FineTuneTask(PotentialTask):
    """Go on training a potential on other structures.

    Before the first step the reference energies are corrected by least squares, as little as they can be, for what the
    potential leaves over of the energies of the training set. Kernels are not calibrated again. With an adapter, what is
    stored is the adapter alone: checkpoints leave out the weights that do not train, and the run ends with a folder
    `adapter`, which `ponita md --ckpt_path` and `ponita.sharing.adapters.load_adapted` read.

    Args:
        checkpoint: of the potential.
        adapter: configuration of an adapter, ours (`ponita.sharing.adapters.MoSConfig`) or of `peft` (`peft.LoraConfig`).
        train: without an adapter, a regular expression of the whole names of the parameters that train: all; `.*readouts.*`,
            the read-outs; `.*norm.*`, the LayerNorms.
        loss_weights: of energies, forces and stress.
        optimizer: learning rate, weight decay and warm-up.
        augment: rotate every structure at random in training.
        test_rotations: average predictions of the test over so many random rotations; 1 leaves structures as they are.
        seed: of the rotations, and of the adapter's first weights.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it is not of a potential, or if nothing would train.
    """

    def __init__(
        self,
        checkpoint: str,
        adapter: PeftConfig | None = None,
        train: str = ALL,
        loss_weights: LossWeights = LossWeights(),  # noqa: B008  (a dataclass default is how the CLI knows the keys)
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008
        augment: bool = True,
        test_rotations: int = 1,
        seed: int = 0,
    ) -> None:
        potential = load(checkpoint)
        if not isinstance(potential, Potential):
            raise ValueError(f"{checkpoint} holds a {type(potential).__name__}; only potentials can be adapted here.")
        if adapter is not None and train != ALL:
            raise ValueError(
                f"train={train!r} is for a training without adapter; name modules_to_save of the adapter instead."
            )
        self.adapted = adapter is not None
        model = _adapt(potential, adapter, seed) if self.adapted else _thaw(potential, train)
        super().__init__(model, loss_weights, optimizer, augment, False, test_rotations, seed)
        self.checkpoint = checkpoint

    @property
    def potential(self) -> Potential:
        return self.model.get_base_model() if self.adapted else self.model

    def prepare(self, first_batch: Batch) -> None:
        data = self.trainer.datamodule
        check_labels(gather(data.sets["train"].parts(), self.potential), self.loss_weights)
        self.references = self.correct_references_on(data.batches("train"))

    @rank_zero_only
    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.adapted:
            text = str(adapter_report(self.model))
            (folder_of(self.trainer) / "adapter.txt").write_text(text + "\n", encoding="utf-8")
            print(text)

    def finish(self, folder: Path) -> None:
        if self.adapted:
            save_adapter(self.model, folder / ADAPTER, self.checkpoint)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if not self.adapted:
            super().on_save_checkpoint(checkpoint)
            return
        self._watch.settle()
        checkpoint["adapter_of"] = self.checkpoint
        for state in states_of(checkpoint).values():
            for name in self._frozen() & state.keys():
                del state[name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.adapted:
            own = self.state_dict()
            for state in states_of(checkpoint).values():
                state.update({name: own[name] for name in self._frozen() - state.keys()})
        super().on_load_checkpoint(checkpoint)

    def _frozen(self) -> set[str]:
        """Names of the parameters that do not train: the checkpoint of the potential holds them."""
        return {name for name, parameter in self.named_parameters() if not parameter.requires_grad}

    @torch.no_grad()
    def correct_references_on(self, batches: Iterable[Batch]) -> dict[str, References]:
        """Change the reference energies by what the potential leaves over, by least squares.

        Args:
            batches: structures with energies, such as all of a training set.
        """
        training = self.model.training
        self.model.eval()
        parts = [self._left_over(batch) for batch in batches]
        self.model.train(training)
        return correct_references(self.potential, *(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _left_over(self, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[G, elements] atoms, [G] eV that the potential leaves over, [G] heads."""
        inputs = self.model_inputs(batch)
        residual = batch.energy - self.model(**inputs).to(batch.energy)
        head = inputs.get("head", torch.zeros(batch.num_graphs, dtype=torch.long))
        counts = nn.functional.one_hot(self.potential.element_of(batch.numbers), len(self.potential.elements))
        sums = counts.new_zeros(batch.num_graphs, counts.shape[1]).index_add_(0, batch.batch, counts)
        return sums.numpy(force=True), residual.numpy(force=True), head.numpy(force=True)


def _adapt(potential: Potential, adapter: PeftConfig, seed: int) -> PeftModel:
    check_rank(potential, adapter)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(potential, adapter)


def _thaw(potential: Potential, train: str) -> Potential:
    chosen = [name for name, _ in potential.named_parameters() if re.fullmatch(train, name)]
    if not chosen:
        names = [name for name, _ in potential.named_parameters()]
        raise ValueError(f"train={train!r} matches no parameter, so nothing would train; names are {names[:4]}...")
    for name, parameter in potential.named_parameters():
        parameter.requires_grad_(name in set(chosen))
    return potential
