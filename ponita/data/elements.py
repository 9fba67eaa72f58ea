"""Chemical elements: symbols, and what an atom's energy is about."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

_NAMES = """
X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr
Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt
Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv
Ts Og
"""
#: Symbol of each atomic number; X is none.
SYMBOLS: tuple[str, ...] = tuple(_NAMES.split())


def atomic_number(name: str | int) -> int:
    """The number of an element given by its symbol, or by its number.

    Raises:
        ValueError: if there is no such element.
    """
    text = str(name).strip()
    number = int(text) if text.isdigit() else (SYMBOLS.index(text) if text in SYMBOLS else 0)
    if not 1 <= number < len(SYMBOLS):
        raise ValueError(f"{name!r} is no element; expected a symbol such as 'Si', or a number from 1 to 118.")
    return number


def formula(numbers: Iterable[int]) -> str:
    """Symbols with counts in the order of Hill: [8, 6, 1, 1, 1, 1] -> "CH4O"."""
    unique, counts = np.unique(np.fromiter(numbers, dtype=np.int64), return_counts=True)
    count = {SYMBOLS[z]: int(n) for z, n in zip(unique, counts, strict=True)}
    first = [symbol for symbol in ("C", "H") if "C" in count and symbol in count]
    order = [*first, *sorted(symbol for symbol in count if symbol not in first)]
    return "".join(symbol + (str(count[symbol]) if count[symbol] > 1 else "") for symbol in order)


def all_electron_energy(numbers: np.ndarray) -> np.ndarray:
    """Total energies of atoms with all their electrons, to about a hundredth (eV).

    Thomas-Fermi theory with the corrections of Scott and Schwinger (Schwinger 1981, Phys. Rev. A 24, 2353):
    E = -0.768745 Z^(7/3) + Z^2 / 2 - 0.269900 Z^(5/3) hartree. No pseudopotential is near it, so it tells in which
    units energies with all electrons are.

    Args:
        numbers: [...] atomic numbers.
    """
    z = np.asarray(numbers, dtype=np.float64)
    return 27.211386 * (-0.768745 * z ** (7 / 3) + 0.5 * z**2 - 0.2699 * z ** (5 / 3))
