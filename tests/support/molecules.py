"""A few small molecules in the layout of qm9.npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np

#: Elements and rough positions (Å).
METHANE = ("CHHHH", [[0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]])
WATER = ("OHH", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
AMMONIA = ("NHHH", [[0, 0, 0], [0.94, 0, -0.38], [-0.47, 0.81, -0.38], [-0.47, -0.81, -0.38]])
#: Columns of the table of QM9 after the name.
COLUMNS = "A B C mu alpha homo lumo gap r2 zpve u0 u298 h298 g298 cv u0_atom u298_atom h298_atom g298_atom"
NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8}


def write_qm9(root: Path, copies: int = 10) -> Path:
    """Copies of three molecules, each moved a little, with a label `gap` that some lack.

    Args:
        root: folder to write to.
        copies: of each molecule.
    """
    generator = np.random.default_rng(0)
    molecules = [METHANE, WATER, AMMONIA] * copies
    numbers = [[NUMBERS[name] for name in symbols] for symbols, _ in molecules]
    positions = [np.array(xyz, dtype=float) + 5 + 0.02 * generator.normal(size=(len(xyz), 3)) for _, xyz in molecules]
    gap = np.tile([0.5, 0.4, 0.3], copies) + 0.01 * generator.normal(size=len(molecules))
    gap[::5] = np.nan
    root.mkdir(parents=True)
    np.savez(
        root / "qm9.npz",
        id=np.arange(1, len(molecules) + 1),
        n_atoms=np.array([len(one) for one in numbers], dtype=np.uint8),
        numbers=np.concatenate(numbers).astype(np.uint8),
        positions=np.concatenate(positions).astype(np.float32),
        gap=gap,
    )
    return root


def write_original_qm9(root: Path, copies: int = 10) -> Path:
    """The same molecules as the published files, in the folder raw/ where PyTorch Geometric puts them.

    The first is listed as uncharacterised, and ammonia's atoms are given charges. Column c of molecule m is 100 m + c.

    Args:
        root: folder to write to.
        copies: of each molecule.
    """
    raw, text, molecules = root / "raw", "", [METHANE, WATER, AMMONIA] * copies
    raw.mkdir(parents=True)
    for number, (symbols, xyz) in enumerate(molecules, start=1):
        text += f"gdb_{number}\n  -OEChem-\n\n{len(xyz):3d}  0  0     0  0  0  0  0  0999 V2000\n"
        for name, row in zip(symbols, xyz, strict=True):
            text += "".join(f"{x + 1:10.4f}" for x in row) + f" {name:2s} 0  0  0  0  0\n"
        text += ("M  CHG  2   1   1   2  -1\n" if symbols[0] == "N" else "") + "M  END\n$$$$\n"
    (raw / "gdb9.sdf").write_text(text)
    names = COLUMNS.split()
    rows = [f"gdb_{m}," + ",".join(str(100 * m + c) for c in range(len(names))) for m in range(1, len(molecules) + 1)]
    (raw / "gdb9.sdf.csv").write_text("\n".join(["mol_id," + ",".join(names), *rows]) + "\n")
    (raw / "uncharacterized.txt").write_text("a note\n" * 8 + "#  Index   SMILES\n" + "     1   C\n")
    return root
