"""Prediction of the positions of charged particles (Satorras et al. 2021; PONITA, section 4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch
from torchmetrics import MeanSquaredError

from ponita.geometry import EdgeSet, rotate
from ponita.models import Ponita
from ponita.tasks.base import Task
from ponita.tasks.graphs import complete_graph
from ponita.tasks.nbody.pictures import draw_trajectories
from ponita.tasks.pictures import format_table
from ponita.tasks.runs import folder_of
from ponita.training import OptimizerConfig


class NBodyTask(Task):
    """Predict positions one time unit later: pos + a vector of the network; loss and metric are the squared error.

    Args:
        model: network with in_channels=1 (charge), in_vector_channels=1 (velocity), out_channels=0,
            out_vector_channels=1, pooling=None.
        optimizer: learning rate, weight decay and warm-up.
        self_loops: give the network the edges i->i, as the published one has.
        augment: rotate every system at random in training.
        calibrate_kernels: rescale the convolutions on the first batch before training.
        seed: of the rotations.

    Raises:
        ValueError: if the network's inputs or outputs are others.
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
        expected = {
            "in_channels": 1,
            "in_vector_channels": 1,
            "out_channels": 0,
            "out_vector_channels": 1,
            "pooling": None,
        }
        for name, value in expected.items():
            if model.config[name] != value:
                raise ValueError(f"NBodyTask needs a network with {name}={value}, not {model.config[name]}.")
        self.self_loops = self_loops
        self.valid_mse, self.test_mse, self.linear_mse = MeanSquaredError(), MeanSquaredError(), MeanSquaredError()
        self.tested: list[Tensor] = []

    def make_edges(self, batch: Batch) -> EdgeSet | Tensor:
        return complete_graph(self.model, batch.ptr.diff(), self.self_loops)

    def model_inputs(self, batch: Batch) -> dict[str, Any]:
        return {
            "pos": batch.pos,
            "edge_index": self.edges(batch),
            "x": batch.x,
            "vec": batch.vec,
            "batch": batch.batch,
        }

    def forward(self, batch: Batch) -> Tensor:
        """Predicted positions [N, 3]."""
        return batch.pos + self.model(**self.model_inputs(batch)).vectors[:, 0]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": torch.nn.functional.mse_loss(self(batch), batch.y)}

    def rotate_batch(self, batch: Batch, rotations: Tensor) -> Batch:
        batch = batch.clone()
        for name in ("pos", "vec", "y"):
            batch[name] = rotate(batch[name], rotations, batch.batch)
        return batch

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.valid_mse(self(batch), batch.y)
        self.log("valid/mse", self.valid_mse, prog_bar=True, batch_size=batch.num_graphs)

    def on_test_epoch_start(self) -> None:
        self.tested = []

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        predicted = self(batch)
        linear = batch.pos + batch.vec[:, 0] * self.trainer.datamodule.duration
        self.test_mse(predicted, batch.y)
        self.linear_mse(linear, batch.y)
        self.tested.append(predicted.cpu())
        self.log("test/mse", self.test_mse, batch_size=batch.num_graphs)
        self.log("test/linear_mse", self.linear_mse, batch_size=batch.num_graphs)

    def on_test_end(self) -> None:
        if self.trainer.is_global_zero and self.trainer.world_size == 1:
            data = self.trainer.datamodule.sets["test"]
            predicted = torch.cat(self.tested).view_as(data.positions[: len(data), -1])
            draw_trajectories(
                folder_of(self.trainer) / "trajectories.png", data, predicted, self.trainer.datamodule.duration
            )

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self(batch)

    def report(self) -> str:
        model, linear = (float(self.trainer.callback_metrics[f"test/{name}"]) for name in ("mse", "linear_mse"))
        return format_table(
            [
                ("charged particles, test set", "MSE", "relative to linear motion"),
                ("linear motion", f"{linear:.5f}", "1.0"),
                ("PONITA", f"{model:.5f}", f"{linear / model:.1f} times better"),
            ]
        )
