"""Classification of digits from superpixels (PONITA, section 4)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Batch
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from ponita.geometry import EdgeSet, random_rotations, rotate
from ponita.models import Ponita
from ponita.tasks.base import Task
from ponita.tasks.graphs import matched_graph
from ponita.tasks.pictures import format_table
from ponita.tasks.runs import folder_of
from ponita.tasks.superpixel.pictures import draw_confusion
from ponita.training import OptimizerConfig

NUM_CLASSES = 10
AS_GIVEN, ROTATED = "as given", "each turned at random"


class SuperpixelTask(Task):
    """Tell digits from their superpixels; the loss is the cross entropy, the metric the share that is right.

    The test is done twice: on the graphs as they are, and on each turned by a random angle, which is a function of the
    seed alone. The difference is what the network does not know about rotations.

    Args:
        model: network on a plane with in_channels=1 (grey), out_channels=10, and pooling.
        optimizer: learning rate, weight decay and warm-up.
        self_loops: give the network the edges i->i, as the published one has.
        augment: turn every graph at random in training.
        calibrate_kernels: rescale the convolutions on the first batch before training.
        seed: of the rotations.

    Raises:
        ValueError: if the network's space, inputs or outputs are others.
    """

    def __init__(
        self,
        model: Ponita,
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008  (a dataclass default is how the CLI knows the keys)
        self_loops: bool = True,
        augment: bool = True,
        calibrate_kernels: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(model, optimizer, augment, calibrate_kernels, seed)
        _check_network(model)
        self.self_loops = self_loops
        self.valid_accuracy = MulticlassAccuracy(NUM_CLASSES, average="micro")
        names = (AS_GIVEN, ROTATED)
        self.confusion = torch.nn.ModuleDict({name: MulticlassConfusionMatrix(NUM_CLASSES) for name in names})
        self.tested: dict[str, Tensor] = {}

    def make_edges(self, batch: Batch) -> EdgeSet | Tensor:
        edge_index, num_nodes = batch.edge_index, batch.pos.shape[0]
        if self.self_loops:
            edge_index = torch.cat([edge_index, torch.arange(num_nodes).expand(2, -1)], dim=1)
        return matched_graph(self.model, edge_index, num_nodes)

    def model_inputs(self, batch: Batch) -> dict[str, Any]:
        return {
            "pos": batch.pos,
            "edge_index": self.edges(batch),
            "x": batch.x,
            "batch": batch.batch,
            "num_graphs": batch.num_graphs,
        }

    def forward(self, batch: Batch) -> Tensor:
        """Logits [G, 10]."""
        return self.model(**self.model_inputs(batch)).scalars

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        logits = self(batch)
        wrong = (logits.argmax(1) != batch.y).float().mean()
        return {"loss": F.cross_entropy(logits, batch.y), "error": wrong}

    def rotate_batch(self, batch: Batch, rotations: Tensor) -> Batch:
        turned = copy.copy(batch)
        turned.pos = rotate(batch.pos, rotations, batch.batch)
        return turned

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self(batch)
        self.valid_accuracy(logits, batch.y)
        self.log("valid/accuracy", self.valid_accuracy, prog_bar=True, batch_size=batch.num_graphs)
        self.log("valid/loss", F.cross_entropy(logits, batch.y), batch_size=batch.num_graphs, sync_dist=True)

    def on_test_epoch_start(self) -> None:
        self._generator = torch.Generator().manual_seed(self.seed + self.global_rank)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        turns = random_rotations(batch.num_graphs, dim=2, generator=self._generator, dtype=batch.pos.dtype)
        turned = self.rotate_batch(batch, turns.to(batch.pos.device))
        for name, graphs in ((AS_GIVEN, batch), (ROTATED, turned)):
            self.confusion[name].update(self(graphs), batch.y)

    def on_test_epoch_end(self) -> None:
        self.tested = {name: matrix.compute() for name, matrix in self.confusion.items()}
        for matrix in self.confusion.values():
            matrix.reset()
        for suffix, name in (("", AS_GIVEN), ("_rotated", ROTATED)):
            right = self.tested[name].diagonal().sum() / self.tested[name].sum()
            self.log(f"test/accuracy{suffix}", right.float())

    def on_test_end(self) -> None:
        if self.trainer.is_global_zero:
            draw_confusion(folder_of(self.trainer) / "confusion.png", self.tested)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities [G, 10]."""
        return self(batch).softmax(1)

    def report(self) -> str:
        metrics = self.trainer.callback_metrics
        rows = [(f"digits, {self.trainer.datamodule.described}", "accuracy", "error")]
        for suffix, name in (("", AS_GIVEN), ("_rotated", ROTATED)):
            right = float(metrics[f"test/accuracy{suffix}"])
            rows.append((f"test images {name}", f"{right:.2%}", f"{1 - right:.2%}"))
        return format_table(rows)


def _check_network(model: Ponita) -> None:
    if model.space.dim != 2:
        raise ValueError(f"SuperpixelTask needs a network on a plane, space='R2xS1' or 'R2', not {model.space.name!r}.")
    expected = {"in_channels": 1, "in_vector_channels": 0, "out_channels": NUM_CLASSES, "out_vector_channels": 0}
    for name, value in expected.items():
        if model.config[name] != value:
            raise ValueError(f"SuperpixelTask needs a network with {name}={value}, not {model.config[name]}.")
    if model.config["pooling"] is None:
        raise ValueError("SuperpixelTask needs a network with pooling='sum' or 'mean', not None: a digit is a graph.")
