"""Phonons of a crystal with a trained potential, through ASE: band structure, density of states, a picture of both.

    python examples/phonons.py --ckpt_path RUN/checkpoints/best.ckpt --element Cu [--supercell 4] [--out phonons.png]
    python examples/phonons.py --ckpt_path RUN/checkpoints/best.ckpt --structure primitive_cell.cif

Give the primitive cell: every atom of it is displaced along every axis, both ways, in the supercell. The cell and the atoms
are relaxed before (`--no-relax` leaves them), everything is in float64, and imaginary frequencies are shown as negative
ones. The supercell should be wider than the potential reaches, its cut-off times the layers; with a smaller one,
frequencies are right where waves fit into it, and interpolated elsewhere.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize import BFGS
from ase.phonons import Phonons
from ase.spectrum.band_structure import BandStructure

from ponita.interfaces.ase import PonitaCalculator
from ponita.tasks.pictures import figure

DISPLACEMENT = 0.01  # Å
MILLI = 1e3


class Spectrum(NamedTuple):
    """Attributes:
    bands: along the path of the lattice; energies in eV.
    energies: [K] meV, where the density of states is given.
    density: [K] states per meV and cell.
    acoustic: [3] meV, frequencies at gamma nearest to zero, with force constants as they were found.
    """

    bands: BandStructure
    energies: np.ndarray
    density: np.ndarray
    acoustic: np.ndarray


def relax(atoms: Atoms, fmax: float = 1e-4, steps: int = 200) -> None:
    """Let cell and atoms go to the nearest minimum, keeping the symmetry that forces and stresses have.

    Args:
        atoms: with a calculator; moved.
        fmax: eV/Å that forces, and the stress times the volume in their units, must fall below.
        steps: that may be taken.

    Raises:
        ValueError: if they do not suffice.
    """
    if not BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=fmax, steps=steps):
        raise ValueError(
            f"the crystal is not relaxed after {steps} steps; is the potential trained on such structures? Relax it with "
            "`ponita relax` and look, or use --no-relax."
        )


def spectrum(atoms: Atoms, calculator: Calculator, supercell: tuple[int, int, int], points: int = 120) -> Spectrum:
    """Force constants by finite displacements, and what follows.

    Args:
        atoms: primitive cell, without forces on its atoms.
        calculator: in float64.
        supercell: cells along each vector.
        points: on the path through the Brillouin zone.
    """
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # ASE stores the forces of every displacement, and would read old ones
        phonons = Phonons(atoms, calculator, supercell=supercell, delta=DISPLACEMENT, name=str(Path(folder) / "forces"))
        phonons.run()
        phonons.read(method="standard", acoustic=False)
        at_gamma = MILLI * phonons.band_structure([[0.0, 0.0, 0.0]], verbose=False)[0]
        phonons.read(method="standard", acoustic=True)
    bands = phonons.get_band_structure(atoms.cell.bandpath(npoints=points), verbose=False)
    density = phonons.get_dos(kpts=(12, 12, 12), verbose=False).sample_grid(npts=300, width=MILLI**-1 / 2)
    acoustic = at_gamma[np.argsort(np.abs(at_gamma))[:3]]
    return Spectrum(bands, MILLI * density.get_energies(), density.get_weights() / MILLI, acoustic)


def draw(found: Spectrum, path: Path, title: str) -> None:
    """Bands and density of states side by side.

    Args:
        found: what `spectrum` returned.
        path: PNG to write.
        title: of the bands.
    """
    places, ticks, labels = found.bands.path.get_linear_kpoint_axis()
    energies = MILLI * found.bands.energies[0]
    with figure(path, columns=2) as (bands, density):
        bands.plot(places, energies, color="C0", linewidth=1.2)
        bands.set_xticks(ticks, [label.replace("G", "Γ") for label in labels])
        bands.set(xlim=(places[0], places[-1]), ylabel="phonon energy (meV)", title=title)
        bands.grid(alpha=0.3)
        density.plot(found.density, found.energies, color="C0", linewidth=1.2)
        density.set(xlabel="states per meV and cell", ylim=bands.get_ylim(), xlim=(0, None), title="density of states")
        density.grid(alpha=0.3)


def main(words: Sequence[str] | None = None) -> Spectrum:
    """Relax, displace, print and draw.

    Args:
        words: of the command line; those of the process where None.
    """
    arguments = _parser().parse_args(words)
    calculator = PonitaCalculator(arguments.ckpt_path, dtype="float64")
    atoms = bulk(arguments.element) if arguments.element else read(arguments.structure)
    atoms.calc = calculator
    if arguments.relax:
        relax(atoms)
    repeats = arguments.supercell * 3 if len(arguments.supercell) == 1 else arguments.supercell
    found = spectrum(atoms, calculator, tuple(repeats))
    name = atoms.get_chemical_formula("metal")
    draw(found, arguments.out, f"{name}, {' x '.join(map(str, repeats))} cells")
    energies = MILLI * found.bands.energies
    print(
        f"{name}: cell {np.round(atoms.cell.cellpar(), 4).tolist()}, forces up to {np.abs(atoms.get_forces()).max():.1e} eV/Å"
    )
    print(f"phonons from {energies.min():.2f} to {energies.max():.2f} meV, negative where imaginary")
    print(f"acoustic modes at gamma: {', '.join(f'{e:.1e}' for e in found.acoustic)} meV, zero by the sum rule")
    print(f"picture in {arguments.out}")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", type=Path, required=True, metavar="CKPT", help="checkpoint of a potential")
    crystal = parser.add_mutually_exclusive_group(required=True)
    crystal.add_argument("--structure", type=Path, metavar="FILE", help="primitive cell, in any format of ASE")
    crystal.add_argument("--element", help="such as Cu, in the structure it has by nature")
    parser.add_argument("--supercell", type=int, nargs="+", default=[4], metavar="N", help="cells, one number or three")
    parser.add_argument("--relax", action=argparse.BooleanOptionalAction, default=True, help="cell and atoms before")
    parser.add_argument("--out", type=Path, default=Path("phonons.png"), help="picture to write")
    return parser


if __name__ == "__main__":
    main()
