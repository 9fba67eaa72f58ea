"""Regression of properties of molecules (PONITA, section 4, QM9)."""

from __future__ import annotations

import copy
import json
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch_geometric.data import Batch

from ponita.data.qm9_targets import TARGETS, find_target
from ponita.geometry import EdgeSet, rotate, safe_norm
from ponita.models import Output, Ponita, Properties, PropertyModel
from ponita.tasks.base import Task
from ponita.tasks.graphs import complete_graph, matched_graph
from ponita.tasks.property.errors import PropertyErrors
from ponita.tasks.property.normalization import CHOICES, Fit, fit_atoms, normalize
from ponita.tasks.property.report import Tested, draw_parities, error_report, error_rows
from ponita.tasks.runs import folder_of
from ponita.training import OptimizerConfig


class PropertyTask(Task):
    """Predict scalars and vectors of molecules; the loss is the absolute error in units of each target's spread.

    Contributions of atoms, mean and spread are found on the training set and kept in the checkpoint, so that the loaded
    model returns targets in their units. Labels that molecules do not have are left out of losses and errors.

    Args:
        model: network with as many in_channels as elements, a scalar output for each scalar target, a vector output for
            each vector target, and pooling.
        targets: names among mu, alpha, homo, lumo, gap, r2, zpve, U0, U, H, G, Cv (scalars) and dipole (a vector).
        elements: atomic numbers of the data, in the order of the network's channels.
        graph: "full": all pairs of atoms of a molecule; "radius": those within the network's cut-off; "bonds": covalent
            bonds, found by RDKit, as mode="cloud" wants them.
        atom_references: contributions of atoms that are subtracted from targets that grow with the molecule.
            "least_squares" over the compositions of the training set; "published": free atoms; "none".
        optimizer: learning rate, weight decay and warm-up.
        self_loops: give the network the edges i->i, as the published one has.
        unit: Å of one unit of the network's positions, and of its cut-off.
        augment: rotate every molecule at random in training.
        calibrate_kernels: rescale the convolutions on the first batch before training.
        seed: of the rotations.

    Raises:
        ValueError: for unknown names, or a network that does not fit.
    """

    metric_units: ClassVar[dict[str, str]] = {f"valid/{name}_mae": target.shown for name, target in TARGETS.items()}

    averages_samples = True

    def __init__(
        self,
        model: Ponita,
        targets: list[str],
        elements: list[int] = [1, 6, 7, 8],  # noqa: B006  (not changed; a tuple would be another type in configurations)
        graph: str = "radius",
        atom_references: str = "least_squares",
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008  (a dataclass default is how the CLI knows the keys)
        self_loops: bool = True,
        unit: float = 1.0,
        augment: bool = True,
        calibrate_kernels: bool = True,
        seed: int = 0,
    ) -> None:
        names = _ordered(targets)
        _check_outputs(model.config, names)
        units = [find_target(name).unit for name in names]
        wrapped = PropertyModel(model, elements, names, units, graph, self_loops, unit)
        super().__init__(wrapped, optimizer, augment, calibrate_kernels, seed)
        if atom_references not in CHOICES:
            raise ValueError(f"atom_references={atom_references!r}; expected one of {list(CHOICES)}.")
        self.targets, self.atom_references = names, atom_references
        self.errors = torch.nn.ModuleDict({stage: PropertyErrors(names) for stage in ("valid", "test")})
        self.tested: list[Tested] = []

    def make_edges(self, batch: Batch) -> EdgeSet | Tensor:
        network, loops = self.model.network, self.model.self_loops
        if self.model.graph == "full":
            return complete_graph(network, batch.ptr.diff(), loops)
        if self.model.graph == "radius":
            return matched_graph(network, self.model.edges(batch.pos, batch.batch), batch.num_nodes)
        edge_index = batch.bond_index
        if loops:
            edge_index = torch.cat([edge_index, torch.arange(batch.num_nodes).expand(2, -1)], dim=1)
        return matched_graph(network, edge_index, batch.num_nodes)

    def model_inputs(self, batch: Batch) -> dict[str, Any]:
        return {
            "pos": batch.pos,
            "numbers": batch.numbers,
            "edge_index": self.edges(batch),
            "batch": batch.batch,
            "num_graphs": batch.num_graphs,
        }

    def forward(self, batch: Batch) -> Properties:
        """Scalars [G, S] and vectors [G, V, 3] in the units of the targets."""
        return self.model(**self.model_inputs(batch))

    def prepare(self, first_batch: Batch) -> None:
        train = self.trainer.datamodule.sets["train"]
        normalize(self.model, train.molecules, train.labels, self.atom_references)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        output = self.model.normalized(**self.model_inputs(batch))
        contributions = self.model.contributions(batch.numbers, batch.batch, batch.num_graphs)
        of_scalars, of_vectors = self.model.scale.split([output.scalars.shape[1], output.vectors.shape[1]])
        # Differences of total energies first, in float64; what is left is of order one.
        target = Output(
            ((batch.scalars - contributions) / of_scalars).to(output.scalars),
            batch.vectors / of_vectors.to(batch.vectors)[:, None],
        )
        return {"loss": torch.stack([_mean_error(sample, target) for sample in self._samples(output)]).mean()}

    def _samples(self, output: Output) -> list[Output]:
        """The output of each sample of multi-sample dropout."""
        if self.sampler is None:
            return [output]
        added = self.sampler.deviations()
        return [
            Output(*(part + one for part, one in zip(output, of_sample, strict=True)))
            for of_sample in zip(*added, strict=True)
        ]

    @property
    def network(self) -> Ponita:
        """Of the model."""
        return self.model.network

    def rotate_batch(self, batch: Batch, rotations: Tensor) -> Batch:
        turned = copy.copy(batch)
        turned.pos = rotate(batch.pos, rotations, batch.batch)
        turned.vectors = torch.einsum("gij,gvj->gvi", rotations, batch.vectors)
        return turned

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.errors["valid"].update(self(batch), batch.scalars, batch.vectors)

    def on_validation_epoch_end(self) -> None:
        errors = self.errors["valid"].mae()
        self.errors["valid"].reset()
        self.log("valid/loss", (errors / self.model.scale).nanmean().float(), prog_bar=True, sync_dist=True)
        self.log_dict(self._shown("valid", errors), prog_bar=len(self.targets) == 1, sync_dist=True)

    def on_test_epoch_start(self) -> None:
        train = self.trainer.datamodule.sets["train"]
        self._fit = self._fit_of(train, "least_squares")
        self._mean = self._fit_of(train, "none")
        self.tested = []

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        predicted = self(batch)
        self.errors["test"].update(predicted, batch.scalars, batch.vectors)
        counts = self._composition(batch)
        self.tested.append(
            Tested(
                *(part.cpu() for part in predicted),
                *(part.cpu() for part in (batch.scalars, batch.vectors)),
                self._mean.predict(counts),
                self._fit.predict(counts),
            )
        )

    def on_test_epoch_end(self) -> None:
        errors = self.errors["test"].mae()
        self.errors["test"].reset()
        self.log_dict(self._shown("test", errors), sync_dist=True)
        self.joined = Tested(*map(torch.cat, zip(*self.tested, strict=True)))
        if self.trainer.world_size > 1:
            parts = (self.all_gather(part.to(self.device)).flatten(0, 1).cpu() for part in self.joined)
            self.joined = Tested(*parts)

    def on_test_end(self) -> None:
        if self.trainer.is_global_zero:
            folder = folder_of(self.trainer)
            draw_parities(folder / "parity.png", self.targets, self.joined)
            rows = error_rows(self.targets, self.joined)
            (folder / "errors.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def predict_step(self, batch: Batch, batch_idx: int) -> Properties:
        return self(batch)

    def report(self) -> str:
        return error_report(self.targets, self.joined, f"test set ({self.trainer.datamodule.described})")

    def _fit_of(self, train: Any, choice: str) -> Fit:
        return fit_atoms(self.model, train.molecules, train.labels, choice)

    def _composition(self, batch: Batch) -> Tensor:
        """[G, elements] float64, on the CPU."""
        element = self.model.element_of(batch.numbers)
        counts = torch.zeros(batch.num_graphs, len(self.model.elements), dtype=torch.float64, device=element.device)
        ones = torch.ones_like(element, dtype=torch.float64)
        return counts.index_put_((batch.batch, element), ones, accumulate=True).cpu()

    def _shown(self, stage: str, errors: Tensor) -> dict[str, Tensor]:
        """Errors in the paper's units by the names of metrics, without those of targets that have no labels."""
        values = {
            name: TARGETS[name].per_unit * error.float() for name, error in zip(self.targets, errors, strict=True)
        }
        return {f"{stage}/{name}_mae": value for name, value in values.items() if not value.isnan()}


def _mean_error(output: Output, target: Output) -> Tensor:
    """Mean absolute error of scalars and lengths of errors of vectors, of those that are known."""
    known = ~torch.cat([target.scalars, target.vectors.sum(-1)], dim=1).isnan()
    error = (output.scalars - target.scalars.nan_to_num()).abs()
    length = safe_norm(output.vectors - target.vectors.nan_to_num())
    errors = torch.where(known, torch.cat([error, length], dim=1), 0)
    return errors.sum() / known.sum().clamp(min=1)


def _ordered(targets: list[str]) -> list[str]:
    """Scalars first, then vectors, as the outputs of a network are."""
    return sorted(targets, key=lambda name: find_target(name).vector)


def _check_outputs(config: dict[str, Any], names: list[str]) -> None:
    vectors = sum(find_target(name).vector for name in names)
    for option, expected in (("out_channels", len(names) - vectors), ("out_vector_channels", vectors)):
        if config[option] != expected:
            raise ValueError(f"the targets {names} need a network with {option}={expected}, not {config[option]}.")
