"""Units. Inside the package lengths are in Å, energies in eV, forces in eV/Å; converted where data are read.

Values: CODATA 2022.
"""

from __future__ import annotations

import difflib
import re

EV_PER_KCAL_MOL = 4184 / 96485.33212331001

JOULE = 1 / 1.602176634e-19  # eV
PER_MOL = 1 / 6.02214076e23
HARTREE = 27.211386245981  # eV
BOHR = 0.529177210544  # Å
PASCAL = JOULE * 1e-30  # eV/Å³
GPA = 1e9 * PASCAL

#: Name -> (value in eV and Å, power of energy, power of length).
UNITS: dict[str, tuple[float, int, int]] = {
    "eV": (1.0, 1, 0),
    "meV": (1e-3, 1, 0),
    "J": (JOULE, 1, 0),
    "kJ": (1e3 * JOULE, 1, 0),
    "cal": (4.184 * JOULE, 1, 0),
    "kcal": (4184.0 * JOULE, 1, 0),
    "mol": (1 / PER_MOL, 0, 0),
    "Ha": (HARTREE, 1, 0),
    "Hartree": (HARTREE, 1, 0),
    "hartree": (HARTREE, 1, 0),
    "Eh": (HARTREE, 1, 0),
    "mHa": (1e-3 * HARTREE, 1, 0),
    "Ry": (HARTREE / 2, 1, 0),
    "Rydberg": (HARTREE / 2, 1, 0),
    "Angstrom": (1.0, 0, 1),
    "Ang": (1.0, 0, 1),
    "A": (1.0, 0, 1),
    "Å": (1.0, 0, 1),
    "nm": (10.0, 0, 1),
    "pm": (0.01, 0, 1),
    "m": (1e10, 0, 1),
    "Bohr": (BOHR, 0, 1),
    "bohr": (BOHR, 0, 1),
    "a0": (BOHR, 0, 1),
    "Pa": (PASCAL, 1, -3),
    "MPa": (1e6 * PASCAL, 1, -3),
    "GPa": (GPA, 1, -3),
    "bar": (1e5 * PASCAL, 1, -3),
    "kbar": (1e8 * PASCAL, 1, -3),
}


def unit_factor(text: str, energy: int = 0, length: int = 0) -> float:
    """What one of a unit is in eV and Å.

    Args:
        text: names of `UNITS` joined by * and /, with whole powers: "kcal/mol/Angstrom", "eV/Angstrom^3", "GPa".
        energy: power of energy that the unit must have.
        length: power of length that it must have.

    Raises:
        ValueError: for an unknown name, or a unit of another dimension.
    """
    factor, powers = 1.0, [0, 0]
    for sign, name, power in _parts(text):
        value, of_energy, of_length = _known(name, text)
        exponent = sign * power
        factor *= value**exponent
        powers = [powers[0] + exponent * of_energy, powers[1] + exponent * of_length]
    if powers != [energy, length]:
        raise ValueError(
            f"the unit {text!r} is energy^{powers[0]} length^{powers[1]}; expected energy^{energy} length^{length}, such "
            f"as {_example(energy, length)!r}."
        )
    return factor


def _parts(text: str) -> list[tuple[int, str, int]]:
    """Signs, names and powers of a product of units."""
    words = re.split(r"([*/])", text.replace(" ", ""))
    parts = []
    for operator, word in zip(["*", *words[1::2]], words[::2], strict=True):
        match = re.fullmatch(r"([^\d^*/-][^\^*/-]*?)(?:\^?(-?\d+))?", word)
        if match is None:
            raise ValueError(f"the unit {text!r} cannot be read; expected names joined by * and /, such as 'kcal/mol'.")
        name, power = (word, None) if word in UNITS else match.groups()
        parts.append((-1 if operator == "/" else 1, name, int(power or 1)))
    return parts


def _known(name: str, text: str) -> tuple[float, int, int]:
    if name in UNITS:
        return UNITS[name]
    folded = {known.lower(): known for known in UNITS}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    hint = f"; did you mean {folded[near[0]]!r}?" if near else "."
    raise ValueError(f"the unit {name!r} of {text!r} is unknown{hint} Known are {', '.join(UNITS)}.")


def _example(energy: int, length: int) -> str:
    examples = {(1, 0): "eV", (0, 1): "Angstrom", (1, -1): "eV/Angstrom", (1, -3): "eV/Angstrom^3"}
    return examples.get((energy, length), "eV")
