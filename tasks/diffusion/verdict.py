"""Generated molecules beside real ones, in tables and a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ponita.data.molecules import Molecules
from ponita.data.qm9 import load_qm9
from ponita.tasks.diffusion.pictures import draw_geometry
from ponita.tasks.diffusion.report import geometry_table, report_table


def compare(
    samples: Molecules,
    reference: Molecules,
    picture: Path,
    *,
    known: Molecules | None = None,
    reference_name: str = "test set",
    progress: bool = False,
) -> str:
    """Judge molecules, and as many real ones, which is as far as any generator can get.

    Args:
        samples: generated.
        reference: real; bond lengths and angles are compared with them.
        picture: PNG of these to write.
        known: molecules that are not new, for novelty; where None, novelty is not judged.
        reference_name: title of the column.
        progress: whether to show bars.

    Raises:
        ImportError: if RDKit is missing.
    """
    from ponita.data.workers import Workers
    from ponita.interfaces.rdkit import SmilesSet, judge
    from ponita.interfaces.rdkit.judging import inspect_all

    smiles = None
    with Workers() as workers:
        if known is not None:
            found = (
                one.value.smiles for one in inspect_all(known, workers, progress=progress) if one.value is not None
            )
            smiles = SmilesSet(one for one in found if one is not None)
        judged = judge(samples, smiles, reference, workers=workers, progress=progress)
        ceiling = judge(reference, smiles, workers=workers, with_posebusters=False, progress=progress)
    draw_geometry(samples, reference, picture)
    table = report_table({f"{len(samples)} samples": judged, reference_name: ceiling})
    return "\n\n".join(part for part in (table, geometry_table(judged)) if part)


def compare_with_qm9(samples: Molecules, root: Path, largest: int, out: Path, seed: int = 0) -> str:
    """`compare` with molecules of QM9 up to a size, and write the tables and the picture beside the samples.

    Args:
        samples: generated.
        root: folder that `load_qm9` reads.
        largest: atoms of a molecule.
        out: file of the samples; the new ones are OUT.txt and OUT.png, without its suffix.
        seed: of the choice of real molecules.
    """
    real = load_qm9(str(root)).select(largest, None).molecules
    rows = np.random.default_rng(seed).permutation(len(real))[: len(samples)]
    table = compare(
        samples,
        real.take(np.sort(rows)),
        out.with_suffix(".png"),
        known=real,
        reference_name=f"QM9 up to {largest} atoms",
        progress=True,
    )
    out.with_suffix(".txt").write_text(table + "\n", encoding="utf-8")
    return table
