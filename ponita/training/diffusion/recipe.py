"""What a trained generator is besides its network: kept in checkpoints, read by samplers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ponita.training.diffusion.atoms import AtomCode
from ponita.training.diffusion.karras import NoiseLevels, Preconditioning
from ponita.training.diffusion.sizes import SizeHistogram


@dataclass(frozen=True)
class Property:
    """A number of a molecule that generation is conditioned on.

    Attributes:
        name: of the label.
        mean: over the training set, in the unit of the labels.
        scale: mean absolute deviation there.
    """

    name: str
    mean: float
    scale: float

    @classmethod
    def of(cls, name: str, values: np.ndarray) -> Property:
        """Statistics of labels.

        Args:
            name: of the label.
            values: [M], NaN where unknown.

        Raises:
            ValueError: unless some are known, and they differ.
        """
        known = values[np.isfinite(values)]
        scale = float(np.abs(known - known.mean()).mean()) if known.size else 0.0
        if not scale > 0:
            raise ValueError(f"{name} is known of {known.size} training molecules, which do not differ in it.")
        return cls(name, float(known.mean()), scale)

    def inputs(self, values: Tensor) -> Tensor:
        """What the network sees of values [G], NaN where there is none: scaled, zero where unknown; and whether known.

        Shape:
            [G, 2], float32
        """
        known = values.isfinite()
        scaled = torch.where(known, (values.double() - self.mean) / self.scale, 0.0)
        return torch.stack([scaled, known.double()], dim=1).float()


@dataclass(frozen=True)
class Recipe:
    """Everything that turns a network into a generator.

    Attributes:
        code: atoms as numbers.
        precondition: of the network.
        levels: of noise in training.
        noise_features: columns that tell the network the noise level, an odd number.
        sizes: of the molecules.
        condition: property that was trained on, or None.
        dim: number of coordinates.
    """

    code: AtomCode = field(default_factory=AtomCode)
    precondition: Preconditioning = field(default_factory=Preconditioning)
    levels: NoiseLevels = field(default_factory=NoiseLevels)
    noise_features: int = 1
    sizes: SizeHistogram | None = None
    condition: Property | None = None
    dim: int = 3

    def __post_init__(self) -> None:
        if self.noise_features < 1 or self.noise_features % 2 == 0:
            raise ValueError(f"noise_features={self.noise_features}; expected an odd number.")

    @property
    def width(self) -> int:
        """D, columns of a state: coordinates and features of atoms."""
        return self.dim + self.code.width

    def in_channels(self, conditional: bool) -> int:
        """Scalars at a point that the network is given: atoms, noise level, and the property."""
        return self.code.width + self.noise_features + 2 * conditional

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self) | {"sizes": None if self.sizes is None else dict(self.sizes.counts)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """What `to_dict` wrote."""
        kinds = {"code": AtomCode, "precondition": Preconditioning, "levels": NoiseLevels, "condition": Property}
        made = {k: kinds[k](**v) if k in kinds and v is not None else v for k, v in values.items()}
        made["code"] = AtomCode(**{**values["code"], "elements": tuple(values["code"]["elements"])})
        made["sizes"] = None if values["sizes"] is None else SizeHistogram(values["sizes"])
        return cls(**made)
