"""Training on classes that come in stages: the batches, optimiser, exemplars and alignment of several methods side by side."""

from __future__ import annotations

import copy
import zlib

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from ponita.models import Ponita
from ponita.nn import calibrate
from ponita.sharing.continual import AlignConfig
from ponita.tasks.callbacks import ModelCallback
from ponita.tasks.continual.classes import IncrementalSuperpixelDataModule, UnionBatch
from ponita.tasks.continual.incremental_learner import METHODS, Learner, pooled_features
from ponita.tasks.superpixel import SuperpixelTask
from ponita.training import OptimizerConfig, cosine_factor, parameter_groups

MOMENTUM = 0.9


class StagedTask(SuperpixelTask):
    """Train a network for each method, in stages; what is measured is for the subclass to say.

    See `IncrementalTask` for the arguments.
    """

    def __init__(
        self,
        model: Ponita,
        methods: list[str],
        align: AlignConfig,
        optimizer: OptimizerConfig,
        readout_lr: float,
        gradient_clip: float,
        self_loops: bool,
        augment: bool,
        calibrate_kernels: bool,
        seed: int,
    ) -> None:
        super().__init__(model, optimizer, self_loops, augment, calibrate_kernels, seed)
        if not methods or not set(methods) <= METHODS.keys() or len(set(methods)) != len(methods):
            raise ValueError(f"methods={methods}; expected some of {list(METHODS)}, each once.")
        if not readout_lr > 0 or not gradient_clip > 0:
            raise ValueError(f"readout_lr={readout_lr}, gradient_clip={gradient_clip}; expected positive numbers.")
        self.automatic_optimization = False
        self.readout_lr, self.gradient_clip = readout_lr, gradient_clip
        self.align, self.stage = align, 0
        self.learners = nn.ModuleDict({name: Learner(name, copy.deepcopy(model), align) for name in methods})
        self.model = self.learners[methods[-1]].network

    @property
    def data(self) -> IncrementalSuperpixelDataModule:
        """The stream."""
        return self.trainer.datamodule

    @property
    def num_old(self) -> int:
        """Classes of the stages before."""
        return self.stage * self.data.classes_per_stage

    @property
    def num_seen(self) -> int:
        """And those of this one."""
        return self.data.num_classes(self.stage)

    def setup(self, stage: str) -> None:
        if not isinstance(self.data, IncrementalSuperpixelDataModule):
            raise ValueError(f"data is a {type(self.data).__name__}; expected an IncrementalSuperpixelDataModule.")
        changing = [
            type(callback).__name__ for callback in self.trainer.callbacks if isinstance(callback, ModelCallback)
        ]
        if changing:
            raise ValueError(
                f"{changing[0]} changes one network, and there is one for each method; take it out of trainer.callbacks."
            )
        for learner in self.learners.values():
            learner.memory.budget = self.data.budget
        super().setup(stage)

    def prepare(self, first_batch: Batch) -> None:
        """Calibrate the networks that the base does not."""
        for learner in self.learners.values():
            if self.calibrate_kernels and learner.network is not self.model:
                calibrate(learner.network, self.model_inputs(first_batch))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for what is before the read-outs of all networks, and stochastic gradient descent with momentum for these.

        Adam moves the rows of rare and of frequent classes by the same amount, whatever their gradients; their norms then say
        little of how often a class was seen, and alignment finds little to do.
        """
        config = self.optimizer_config
        heads = [head.weight for learner in self.learners.values() for head in learner.heads]
        apart = {id(weight) for weight in heads}
        groups = parameter_groups(self, config.weight_decay)
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in apart]
        descent = torch.optim.SGD(heads, lr=self.readout_lr, momentum=MOMENTUM, weight_decay=config.weight_decay)
        return [torch.optim.Adam(groups, lr=config.lr), descent]

    def prepare_batch(self, batch: Batch | Tensor) -> Batch | UnionBatch:
        """Of places of an epoch, the batch of each method; all are turned by the same angles."""
        prepare = super().prepare_batch
        if not self.trainer.training:
            return prepare(batch)
        return UnionBatch({name: prepare(self._images(learner, batch)) for name, learner in self.learners.items()})

    def forward(self, batch: Batch) -> Tensor:
        """Logits [G, C] of the classes seen, of the last method."""
        return super().forward(batch)[:, : self.num_seen]

    def losses(self, batch: UnionBatch) -> dict[str, Tensor]:
        border = self.num_old, self.num_seen
        each = {
            name: learner.loss(self.model_inputs(batch[name]), batch[name].y, *border)
            for name, learner in self.learners.items()
        }
        return {"loss": torch.stack(list(each.values())).sum(), **each}

    def on_train_epoch_start(self) -> None:
        if not self.data.stages.begins(self.current_epoch):
            return
        self.stage = self.data.stages.at(self.current_epoch)
        for learner in self.learners.values():
            learner.begin(self.num_old, self.num_seen, self._key("rows", self.stage))
        decay = self.optimizer_config.weight_decay / (self.stage + 1 if self.align.wd_per_stage else 1)
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()
            optimizer.param_groups[0]["weight_decay"] = decay  # a second group does not decay

    def training_step(self, batch: UnionBatch, batch_idx: int) -> None:
        loss = super().training_step(batch, batch_idx)
        rate, optimizers = self._rate(batch_idx), self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for learner in self.learners.values():  # each by its own norm, so that no method feels another
            nn.utils.clip_grad_norm_(learner.network.parameters(), self.gradient_clip)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * optimizer.defaults["lr"]
            optimizer.step()
        for learner in self.learners.values():
            learner.after_step()

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self.data.stages.ends(self.current_epoch):
            for learner in self.learners.values():
                learner.end(self.stage, self.num_old, self.num_seen)
            self._remember()

    def _images(self, learner: Learner, places: Tensor) -> Batch:
        """A training batch of a method."""
        if not learner.method.keeps_all:
            return self.data.union(self.stage, places, learner.memory.indices())
        generator = torch.Generator().manual_seed(self._key("joint", self.global_step))
        rows = torch.randint(self.num_seen * self.data.num_train, places.shape, generator=generator)
        return self.data.sets["train"].__getitems__(rows)

    def _remember(self) -> None:
        """Choose exemplars of the new classes, and drop some of the old ones."""
        keeping = {name: learner for name, learner in self.learners.items() if not learner.method.keeps_all}
        rows, features, labels = self.data.rows(self.stage), {name: [] for name in keeping}, []
        for part in rows.split(self.data.eval_batch_size):
            batch = self._placed(self.data.sets["train"].__getitems__(part))
            labels.append(batch.y.cpu())
            for name, learner in keeping.items():
                features[name].append(pooled_features(learner.network, self.model_inputs(batch)).cpu())
        for name, learner in keeping.items():
            learner.memory.update(rows.tolist(), torch.cat(features[name]), torch.cat(labels))

    def _placed(self, batch: Batch) -> Batch:
        """A batch with its edges, where the networks are."""
        batch.edges = self.make_edges(batch)
        return self.data.transfer_batch_to_device(batch, self.device, 0)

    def _rate(self, batch_idx: int) -> float:
        """The part of the learning rate at a step: half a cosine over the stage, times a warm-up."""
        epochs, steps = self.data.stages.epochs, int(self.trainer.num_training_batches)
        step = self.current_epoch % epochs * steps + batch_idx
        return cosine_factor(step, epochs * steps, self.optimizer_config.warmup_epochs * steps)

    def _key(self, *words: object) -> int:
        return zlib.crc32(" ".join(map(str, (self.seed, *words))).encode())
