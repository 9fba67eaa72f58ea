"""What users ask of a generator: a property, a fragment, sizes."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from ponita.data.molecules import Molecules, make_molecules
from ponita.training.diffusion import AtomCode, Recipe, SizeHistogram


def condition_value(text: str | None, recipe: Recipe) -> float | None:
    """The value of "name=value"; None where nothing is asked.

    Args:
        text: what the user said.
        recipe: of the generator.

    Raises:
        ValueError: for a property that the generator was not trained on, or no number.
    """
    if text is None:
        return None
    name, _, number = text.partition("=")
    known = None if recipe.condition is None else recipe.condition.name
    if name != known:
        trained = "no property" if known is None else f"the property {known}"
        raise ValueError(
            f"--condition {text}: the generator was trained with {trained}; train with data condition {name}."
        )
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"--condition {text}: expected a number behind the name, such as {name}=0.2.")
    return value


def read_fragment(path: Path, code: AtomCode) -> Molecules:
    """One molecule that others are to contain.

    Args:
        path: a file of any format that ASE reads.
        code: atoms that the generator knows.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that cannot be read, or unknown elements.
    """
    from ase.io import read  # with the extra for atoms

    if not path.is_file():
        raise FileNotFoundError(f"no fragment at {path}.")
    try:
        atoms = read(path)
    except Exception as error:  # each format raises its own
        raise ValueError(f"{path} cannot be read as a molecule ({type(error).__name__}: {error}).") from error
    charges = atoms.get_initial_charges().round().astype(int) if code.charges else None
    try:
        fragment = make_molecules(atoms.numbers, atoms.positions, [len(atoms)], charges)
        code.encode(fragment.numbers, fragment.charges)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return fragment


def draw_sizes(
    recipe: Recipe, count: int, atoms: int | None, fragment: Molecules | None, generator: torch.Generator
) -> Tensor:
    """[count] atoms of each molecule: a given number, or as in the training set among those that hold the fragment.

    Args:
        recipe: of the generator.
        count: molecules.
        atoms: a given number, or None.
        fragment: to be contained, or None.
        generator: source of randomness.

    Raises:
        ValueError: for sizes that do not hold the fragment, or that the checkpoint does not know.
    """
    least = 1 if fragment is None else len(fragment.numbers) + 1
    if atoms is not None:
        if atoms < least:
            raise ValueError(f"--atoms {atoms}: molecules with this fragment have at least {least}.")
        return torch.full((count,), atoms)
    if recipe.sizes is None:
        raise ValueError("the checkpoint does not know how large molecules are; set --atoms.")
    allowed = {n: c for n, c in recipe.sizes.counts.items() if n >= least}
    if not allowed:
        raise ValueError(
            f"the fragment has {least - 1} atoms, as many as the largest molecules of training "
            f"({max(recipe.sizes.counts)}); set --atoms."
        )
    return SizeHistogram(allowed).draw(count, generator)
