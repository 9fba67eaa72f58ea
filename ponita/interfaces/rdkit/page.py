"""A page that shows molecules in three dimensions, in one file that needs no network."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ponita.data.elements import SYMBOLS
from ponita.data.molecules import Molecules
from ponita.data.workers import Outcome, Workers
from ponita.interfaces.rdkit.judging import TOO_LARGE, borrowed, inspect_all
from ponita.interfaces.rdkit.pictures import replace_file

if TYPE_CHECKING:
    import py3Dmol


def write_page(
    molecules: Molecules,
    path: Path | str,
    *,
    title: str = "Molecules",
    captions: Sequence[str] | None = None,
    workers: Workers | None = None,
) -> None:
    """Write an HTML page with molecules to turn and zoom.

    The page draws balls and sticks on a canvas with a hundred lines of script of its own: the Python packages of the known
    viewers load their script from the network (py3Dmol), or need the widgets of notebooks installed (chemiscope, nglview).

    Args:
        molecules: to show; some hundreds.
        path: HTML file to write; it appears whole.
        title: of the page.
        captions: of each molecule; its SMILES where None.
        workers: processes for RDKit with their time limit; new ones where None.
    """
    with borrowed(workers) as pool:
        verdicts = inspect_all(molecules, pool)
    shown = [
        _entry(molecule, verdict, captions[place] if captions else None)
        for place, (molecule, verdict) in enumerate(zip(molecules, verdicts, strict=True))
    ]
    page = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    data = json.dumps(shown, separators=(",", ":")).replace("<", "\\u003c")  # no text can end the script
    page = page.replace("{{title}}", html.escape(title)).replace("{{molecules}}", data)
    replace_file(Path(path), page.encode())


def _entry(molecule: Molecules, outcome: Outcome, caption: str | None) -> dict[str, object]:
    verdict = outcome.value
    positions = molecule.positions - molecule.positions.mean(0)
    if verdict is None:
        state = "too large for a verdict" if outcome.fault == TOO_LARGE else f"no verdict: {outcome.fault}"
    else:
        state = verdict.words
    return {
        "symbols": [SYMBOLS[number] for number in molecule.numbers],
        "positions": [[round(float(x), 3) for x in xyz] for xyz in positions],
        "bonds": [] if verdict is None else verdict.bonds.tolist(),
        "charges": [] if verdict is None else verdict.charges.tolist(),
        "unstable": [] if verdict is None or verdict.fault else (~verdict.stable).nonzero()[0].tolist(),
        "caption": caption if caption is not None else (verdict.smiles or "") if verdict is not None else "",
        "state": state,
    }


def notebook_view(molecule: Molecules, width: int = 400, height: int = 300) -> py3Dmol.view:
    """One molecule in a notebook, by py3Dmol, whose script comes from the network.

    Args:
        molecule: one.
        width: pixels.
        height: pixels.
    """
    import py3Dmol  # for notebooks only

    from ponita.interfaces.rdkit.files import mol_block

    view = py3Dmol.view(width=width, height=height)
    view.addModel(mol_block(molecule), "sdf")
    view.setStyle({"stick": {"radius": 0.12}, "sphere": {"scale": 0.25}})
    view.zoomTo()
    return view
