"""A sheet of structural formulas."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from ponita.data.molecules import Molecules
from ponita.data.workers import Workers
from ponita.interfaces.rdkit.judging import borrowed
from ponita.interfaces.rdkit.perception import MAX_ATOMS, connected, perceive, quiet
from ponita.interfaces.rdkit.verdicts import inspect

#: Pixels of a picture that cairo can draw, along a side.
LARGEST = 32_000

_GREEN, _RED, _GREY = (0.80, 0.93, 0.80), (1.0, 0.72, 0.68), (0.55, 0.55, 0.55)


class Depiction(NamedTuple):
    """A formula: the flat molecule, its unstable atoms, and what stands below it."""

    mol: Chem.Mol
    unstable: list[int]
    caption: str


def depict(molecule: Molecules) -> Depiction:
    """The formula of one molecule; hydrogens are drawn where the molecule is not stable.

    Raises:
        ValueError: for too many atoms.
    """
    verdict = inspect(molecule)
    mol = connected(molecule) if verdict.fault else perceive(molecule)
    mol.RemoveAllConformers()
    stable = bool(verdict.stable.all())
    if verdict.fault:
        mol.UpdatePropertyCache(strict=False)
    unstable = [] if verdict.fault else np.flatnonzero(~verdict.stable).tolist()
    caption = verdict.words + (f", {verdict.fragments} fragments" if verdict.fragments > 1 else "")
    with quiet():
        if stable:
            mol = Chem.RemoveHs(mol)
        rdDepictor.Compute2DCoords(mol)
    return Depiction(mol, unstable, caption)


def draw_grid(
    molecules: Molecules, path: Path | str, *, columns: int = 5, size: int = 220, workers: Workers | None = None
) -> None:
    """Draw molecules as formulas in a PNG, with unstable atoms in red and what is known of each below it.

    Args:
        molecules: to draw, in rows; some dozens.
        path: PNG to write; it appears whole.
        columns: formulas in a row.
        size: of one in pixels.
        workers: processes for RDKit with their time limit; new ones where None.

    Raises:
        ValueError: for no molecules, and for more than a picture can hold.
    """
    if not len(molecules):
        raise ValueError("no molecules to draw; expected at least one.")
    most = columns * (LARGEST // size)
    if len(molecules) > most:
        raise ValueError(
            f"{len(molecules)} molecules to draw; {columns} in a row of {size} pixels hold {most} at most."
        )
    rows = [(molecule,) for molecule in molecules]
    with borrowed(workers) as pool:
        drawn = [outcome.value for outcome in pool.map(depict, rows)]
    empty = Depiction(Chem.Mol(), [], f"no verdict (more than {MAX_ATOMS} atoms, or too slow)")
    drawn = [empty if one is None else one for one in drawn]
    columns = min(columns, len(drawn))
    canvas = rdMolDraw2D.MolDraw2DCairo(columns * size, -(-len(drawn) // columns) * size, size, size)
    options = canvas.drawOptions()
    options.legendFontSize, options.prepareMolsBeforeDrawing = 14, False
    options.setHighlightColour(_RED)
    canvas.DrawMolecules(
        [_prepared(one.mol) for one in drawn],
        legends=[f"{place}: {one.caption}" for place, one in enumerate(drawn)],
        highlightAtoms=[one.unstable for one in drawn],
    )
    canvas.FinishDrawing()
    replace_file(Path(path), canvas.GetDrawingText())


def _prepared(mol: Chem.Mol) -> Chem.Mol:
    with quiet():
        try:
            return rdMolDraw2D.PrepareMolForDrawing(mol, addChiralHs=False, wavyBonds=False)
        except ValueError:  # orders that cannot be kekulised are drawn as they are
            return rdMolDraw2D.PrepareMolForDrawing(mol, kekulize=False, addChiralHs=False, wavyBonds=False)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file at once: under another name first, so no reader meets half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)
