"""What labels are called in a file, in which units they are, and what they become inside: eV, eV/Å, eV/Å³ in tension."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ponita.data.units import unit_factor

#: Names that are tried where a key is not given, in this order.
DEFAULT_KEYS: dict[str, tuple[str, ...]] = {
    "energy": ("energy", "free_energy"),
    "forces": ("forces", "force"),
    "stress": ("stress",),
    "virial": ("virial", "virials"),
    "group": ("group", "config_type"),
    "head": ("head",),
}


@dataclass
class Keys:
    """Names of labels in a file. What is None is looked for under `DEFAULT_KEYS`, in ASE's calculator results first.

    Attributes:
        energy: total energy of a structure.
        forces: [n, 3].
        stress: 6 numbers in the order xx, yy, zz, yz, xz, xy, or 9, or [3, 3].
        virial: -stress times volume, in units of energy; read where there is no stress.
        group: what a structure belongs to, such as its trajectory.
        head: level of theory of a structure's labels.
    """

    energy: str | None = None
    forces: str | None = None
    stress: str | None = None
    virial: str | None = None
    group: str | None = None
    head: str | None = None

    def names(self, label: str) -> tuple[str, ...]:
        """Names to try for a label."""
        given = getattr(self, label)
        return DEFAULT_KEYS[label] if given is None else (given,)


@dataclass
class Units:
    """Units of a file, by names such as "kcal/mol", "Ha", "bohr", "eV/Angstrom^3", "GPa" (see `ponita.data.units`).

    What is None is what the format says, or eV and Å; forces and stress then follow from energy and length.

    Attributes:
        energy: of energies and virials.
        length: of positions and cells.
        forces: energy/length where None.
        stress: energy/length^3 where None.
        stress_sign: "tension": stress = (1/V) dE/dstrain, as in ASE; "compression": the opposite, as in VASP's output.
    """

    energy: str | None = None
    length: str | None = None
    forces: str | None = None
    stress: str | None = None
    stress_sign: str = "tension"

    def factors(self, energy: str = "eV", length: str = "Angstrom") -> dict[str, float]:
        """What to multiply "energy", "length", "forces" and "stress" by, for eV and Å.

        Args:
            energy: unit where none was declared.
            length: unit where none was declared.

        Raises:
            ValueError: for unknown units, or units of something else.
        """
        if self.stress_sign not in ("tension", "compression"):
            raise ValueError(f"stress_sign={self.stress_sign!r}; expected 'tension' or 'compression'.")
        factors = {
            "energy": unit_factor(self.energy or energy, energy=1),
            "length": unit_factor(self.length or length, length=1),
        }
        of_length = factors["energy"] / factors["length"]
        factors["forces"] = of_length if self.forces is None else unit_factor(self.forces, 1, -1)
        stress = of_length / factors["length"] ** 2 if self.stress is None else unit_factor(self.stress, 1, -3)
        factors["stress"] = stress if self.stress_sign == "tension" else -stress
        return factors


def as_matrix(values: np.ndarray) -> np.ndarray:
    """Stresses or virials as symmetric matrices.

    Args:
        values: [..., 6] in the order xx, yy, zz, yz, xz, xy (as ASE), or [..., 9], or [..., 3, 3].

    Shape:
        [..., 3, 3]

    Raises:
        ValueError: for another shape.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.shape[-1:] == (6,):
        return values[..., [[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    if values.shape[-1:] == (9,):
        values = values.reshape(*values.shape[:-1], 3, 3)
    if values.shape[-2:] != (3, 3):
        raise ValueError(f"a stress or virial has shape {list(values.shape)}; expected 6, 9 or [3, 3] numbers.")
    return 0.5 * (values + values.swapaxes(-1, -2))


def stress_of_virial(virial: np.ndarray, volume: np.ndarray | float) -> np.ndarray:
    """-virial / volume; NaN where there is no volume.

    Args:
        virial: [..., 3, 3] eV.
        volume: [...] Å³.

    Shape:
        [..., 3, 3] eV/Å³
    """
    volume = np.asarray(volume, dtype=np.float64)
    return -virial / np.where(volume > 0, volume, np.nan)[..., None, None]
