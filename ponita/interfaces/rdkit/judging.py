"""Judging many molecules at once."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ponita.data.chemistry import MoleculeReport, Reading, compare_geometry, has_table, shares, table_stability
from ponita.data.chemistry.report import share
from ponita.data.chemistry.valences import stability
from ponita.data.molecules import Molecules
from ponita.data.workers import TIMED_OUT, Outcome, Workers
from ponita.interfaces.rdkit.perception import MAX_ATOMS
from ponita.interfaces.rdkit.smiles import SmilesSet
from ponita.interfaces.rdkit.verdicts import Verdict, inspect, plausible, strain

TOO_LARGE = "too many atoms"


def judge(
    molecules: Molecules,
    training_smiles: Iterable[str] | None = None,
    reference: Molecules | None = None,
    *,
    workers: Workers | None = None,
    max_atoms: int = MAX_ATOMS,
    with_strain: bool = True,
    with_posebusters: bool | None = None,
    progress: bool = False,
) -> MoleculeReport:
    """Stability, validity, uniqueness, novelty, strain and geometry of molecules; `MoleculeReport` defines each.

    Args:
        molecules: to judge.
        training_smiles: of the training molecules, for novelty; canonical as a `SmilesSet`, else made so first.
        reference: molecules whose bond lengths and angles are compared.
        workers: processes for RDKit with their time limit; new ones for this call where None.
        max_atoms: larger molecules count as failures without being tried, at most `MAX_ATOMS`.
        with_strain: whether to minimise, a few milliseconds for each molecule of QM9's size.
        with_posebusters: whether to run PoseBusters; where it is installed, if None.
        progress: whether to show bars.

    Raises:
        ValueError: for no molecules, and for PoseBusters that is not installed.
    """
    if not len(molecules):
        raise ValueError("no molecules to judge; expected at least one.")
    if with_posebusters is None:
        with_posebusters = importlib.util.find_spec("posebusters") is not None
    elif with_posebusters and importlib.util.find_spec("posebusters") is None:
        raise ValueError("PoseBusters is not installed; pip install posebusters, or with_posebusters=False.")
    started = time.perf_counter()
    known = training_smiles if training_smiles is None or isinstance(training_smiles, SmilesSet) else None
    if training_smiles is not None and known is None:
        known = SmilesSet.from_smiles(training_smiles, "SMILES of training" if progress else None)
    with borrowed(workers) as pool:
        verdicts = inspect_all(molecules, pool, max_atoms, progress)
        good = [row for row, one in enumerate(verdicts) if one.value is not None and one.value.smiles is not None]
        strains = _each(strain, molecules, good if with_strain else [], pool, "strain" if progress else None)
        passed = _each(
            plausible, molecules, good if with_posebusters else [], pool, "PoseBusters" if progress else None
        )
    energies = np.array([one.value for one in strains if one.value is not None and np.isfinite(one.value)])
    stable = stability(
        molecules, np.concatenate([_atoms(v, n) for v, n in zip(verdicts, molecules.counts, strict=True)])
    )
    smiles = [None if one.value is None else one.value.smiles for one in verdicts]
    late = {row for row, one in enumerate(verdicts) if one.fault == TIMED_OUT}
    late |= {
        row
        for outcomes in (strains, passed)
        for row, one in zip(good, outcomes, strict=False)
        if one.fault == TIMED_OUT
    }
    large = sum(one.fault == TOO_LARGE for one in verdicts)
    num_passed = sum(one.value is True for one in passed)
    return MoleculeReport(
        num_molecules=len(molecules),
        num_atoms=len(molecules.numbers),
        table=_by_table(molecules, verdicts, known),
        perceived=shares(stable.atoms, stable.molecules, smiles, _counts(verdicts, "fragments"), known),
        strain=float(np.median(energies)) if len(energies) else float("nan"),
        num_strained=len(energies),
        posebusters=share(num_passed, len(molecules)) if with_posebusters else float("nan"),
        num_timed_out=len(late),
        num_too_large=large,
        num_crashed=sum(one.fault not in ("", TOO_LARGE, TIMED_OUT) for one in verdicts),
        geometry=[] if reference is None or not _both(molecules, reference) else compare_geometry(molecules, reference),
        seconds=time.perf_counter() - started,
        stable=stable.molecules,
        valid=np.array([one is not None for one in smiles]),
        smiles=smiles,
    )


def inspect_all(
    molecules: Molecules, workers: Workers, max_atoms: int = MAX_ATOMS, progress: bool = False
) -> list[Outcome]:
    """A `Verdict`, or the reason why there is none, for each molecule."""
    small = np.flatnonzero(molecules.counts <= min(max_atoms, MAX_ATOMS)).tolist()
    outcomes = [Outcome(None, TOO_LARGE)] * len(molecules)
    for row, outcome in zip(
        small, _each(inspect, molecules, small, workers, "bonds" if progress else None), strict=True
    ):
        outcomes[row] = outcome
    return outcomes


@contextmanager
def borrowed(workers: Workers | None) -> Iterator[Workers]:
    """These workers, or new ones that end with the block."""
    if workers is not None:
        yield workers
        return
    with Workers() as pool:
        yield pool


def _each(
    function: Callable[[Molecules], Any], molecules: Molecules, rows: list[int], workers: Workers, title: str | None
) -> list[Outcome]:
    return workers.map(function, [(molecules.take([row]),) for row in rows], title) if rows else []


def _atoms(outcome: Outcome, count: int) -> np.ndarray:
    verdict: Verdict | None = outcome.value
    return np.zeros(count, dtype=bool) if verdict is None else verdict.stable


def _counts(verdicts: list[Outcome], name: str) -> np.ndarray:
    return np.array([0 if one.value is None else getattr(one.value, name) for one in verdicts])


def _both(molecules: Molecules, reference: Molecules) -> bool:
    return has_table(molecules) and has_table(reference)


def _by_table(molecules: Molecules, verdicts: list[Outcome], known: SmilesSet | None) -> Reading:
    if not has_table(molecules):
        return Reading(*[float("nan")] * 6)
    stable = table_stability(molecules)
    smiles = [None if one.value is None else one.value.table_smiles for one in verdicts]
    return shares(stable.atoms, stable.molecules, smiles, _counts(verdicts, "table_fragments"), known)
