"""What the training set decides of a model of properties, and what can be predicted without one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ponita.data.molecules import Molecules
from ponita.data.qm9_labels import Labelled, composition
from ponita.data.qm9_targets import find_target, free_atoms
from ponita.data.references import least_squares_references, sum_compositions
from ponita.data.structures import make_structures
from ponita.models import PropertyModel

#: What `atom_references` of the task can be.
CHOICES = ("least_squares", "published", "none")


class Fit(NamedTuple):
    """Scalars as contributions of atoms and a constant.

    Attributes:
        references: [elements, S].
        shift: [S] mean of what they leave over.
        spread: [S] standard deviation of it.
    """

    references: Tensor
    shift: Tensor
    spread: Tensor

    def predict(self, composition: Tensor) -> Tensor:
        """[G, elements] atoms of each element -> [G, S] float64."""
        return composition @ self.references + self.shift


def fit_atoms(model: PropertyModel, molecules: Molecules, labels: Labelled, choice: str) -> Fit:
    """Contributions of atoms to the scalars of a training set, where they are unknown NaN.

    Args:
        model: whose elements and names count.
        molecules: of the training set.
        labels: of these.
        choice: "least_squares" over compositions; "published": free atoms, zero for targets the table does not have;
            "none". Targets that do not grow with the molecule have no contributions of atoms.

    Raises:
        ValueError: for an element that the model does not know.
    """
    counts = composition(molecules, model.elements)
    references = np.zeros((len(model.elements), labels.scalars.shape[1]))
    for column, name in enumerate(model.names[: model.num_scalars]):
        if find_target(name).additive and choice != "none":
            values = labels.scalars[:, column]
            found = (
                free_atoms(name, model.elements) if choice == "published" else _least_squares(model, molecules, values)
            )
            references[:, column] = found
    rest = labels.scalars - counts @ references
    columns = (references, np.nanmean(rest, axis=0), np.nanstd(rest, axis=0))
    return Fit(*(torch.from_numpy(column) for column in columns))


def normalize(model: PropertyModel, molecules: Molecules, labels: Labelled, choice: str) -> Fit:
    """Set contributions of atoms, mean and spread of a model that has not been trained; arguments as `fit_atoms`.

    The unit of a vector is the root mean square of its components: a mean would not be equivariant.

    Raises:
        ValueError: also if the labels are all the same.
    """
    fit = fit_atoms(model, molecules, labels, choice)
    of_vectors = torch.from_numpy(np.sqrt(np.nanmean(np.square(labels.vectors), axis=(0, 2))))
    model.set_normalization(fit.references, fit.shift, torch.cat([fit.spread, of_vectors]))
    return fit


def _least_squares(model: PropertyModel, molecules: Molecules, values: np.ndarray) -> list[float]:
    """[elements], by the code that finds reference energies of potentials."""
    structures = make_structures(
        molecules.positions, molecules.numbers, molecules.counts, "the training set", energy=values
    )
    found = least_squares_references(sum_compositions([structures], model.elements))
    return [found.energies[z] for z in model.elements]
