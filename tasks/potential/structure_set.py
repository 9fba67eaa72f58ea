"""Structures as batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset
from torch_geometric.data import Batch

from ponita.data.elements import SYMBOLS
from ponita.data.lmdb_structures import LmdbStructures
from ponita.data.neighbor_table import NeighborTable
from ponita.data.structures import Structures

#: Structures read at once where all are visited.
CHUNK = 1000


class StructureSet(Dataset):
    """Molecules and crystals, joined to batches straight from flat arrays, without an object for each structure.

    Energies stay in float64. Labels that a structure does not have are NaN.

    Args:
        structures: in memory, or in a database that is read as batches are made.
        rows: [K] which of them; all where None.
        report_by: what test errors are shown for: "group", "file", "system" (the elements that occur), or "none".
    """

    def __init__(
        self, structures: Structures | LmdbStructures, rows: np.ndarray | None = None, report_by: str = "none"
    ) -> None:
        self.rows = np.arange(len(structures)) if rows is None else np.asarray(rows)
        if isinstance(structures, Structures) and rows is not None:
            structures, self.rows = structures.take(self.rows), np.arange(len(self.rows))
        self.structures, self.report_by = structures, report_by
        self.has_stress, self.periodic = structures.has_any["stress"], structures.periodic
        self.has_heads = structures.heads != ("",)
        #: Names of the groups that test errors are shown for, and [K] that of each structure.
        self.labels: tuple[str, ...] = ("",)
        self.label = np.zeros(len(self.rows), dtype=np.int64)
        self.table: NeighborTable | None = None
        self._lists: tuple[float, bool] | None = None
        if report_by != "none":
            names = np.concatenate([_labels(part, report_by) for part in self.parts()])
            self.labels, self.label = _by_first_appearance(names)

    def __len__(self) -> int:
        return len(self.rows)

    def parts(self) -> Iterator[Structures]:
        """All structures, in parts that fit into memory."""
        if isinstance(self.structures, Structures):
            yield self.structures
            return
        for first in range(0, len(self), CHUNK):
            yield self.structures.take(self.rows[first : first + CHUNK])

    def list_neighbors(self, cutoff: float, loops: bool, now: bool = True) -> None:
        """Put neighbour lists into batches.

        Args:
            cutoff: Å.
            loops: include the edges i->i.
            now: make them now, where the structures are in memory; else with each batch.

        Raises:
            ValueError: for a flat cell, naming the structure.
        """
        if self._lists != (cutoff, loops):
            self._lists, self.table = (cutoff, loops), None
        if now and self.table is None and isinstance(self.structures, Structures):
            self.table = NeighborTable.make(self.parts(), cutoff, loops)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The structures of a batch at once; the loader calls this in place of `__getitem__`.

        Args:
            indices: places in this set.

        Returns:
            `pos` [N, 3] Å, `numbers` [N], `energy` [G] eV float64, `forces` [N, 3] eV/Å, `label` [G], `sample` [G]
            indices; `cell` [G, 3, 3] Å and `pbc` [G, 3] where any structure of the set is periodic; `stress` [G, 3, 3]
            eV/Å³ where any has one; `head`, a list of G names, where there are several; and with lists: `neighbors`
            [2, E], `offsets` [E, 3], `reverse` [E].
        """
        sample = torch.as_tensor(indices)
        rows = self.rows[sample.numpy()]
        s = self.structures.take(rows)
        ptr = torch.from_numpy(s.ptr)
        values = {
            "pos": torch.from_numpy(s.positions).float(),
            "numbers": torch.from_numpy(s.numbers),
            "energy": torch.from_numpy(s.energy),
            "forces": torch.from_numpy(np.where(s.has["forces"][s.structure, None], s.forces, np.nan)).float(),
            "label": torch.from_numpy(self.label[sample.numpy()]),
            "sample": sample,
            "batch": torch.from_numpy(s.structure),
            "ptr": ptr,
        }
        if self.periodic:
            values["cell"] = torch.from_numpy(complete_cells(s.cell, s.pbc)).float()
            values["pbc"] = torch.from_numpy(s.pbc)
        if self.has_stress:
            stress = np.where(s.has["stress"][:, None, None], s.stress, np.nan)
            values["stress"] = torch.from_numpy(stress).float()
        if self.has_heads:
            values["head"] = s.head.tolist()
        return Batch(**values, **self._listed(s, rows), num_nodes=len(s.numbers))

    def _listed(self, s: Structures, rows: np.ndarray) -> dict[str, torch.Tensor]:
        if self._lists is None:
            return {}
        table = NeighborTable.make([s], *self._lists) if self.table is None else self.table
        places = np.arange(len(s)) if self.table is None else rows
        edge_index, offsets, reverse = (torch.from_numpy(array) for array in table.take(places, s.ptr[:-1]))
        return {"neighbors": edge_index, "reverse": reverse} | ({"offsets": offsets} if self.periodic else {})


def complete_cells(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Cells with a volume: unit vectors, orthogonal to the others, where vectors of free directions are missing.

    Args:
        cell: [G, 3, 3].
        pbc: [G, 3] bool.

    Shape:
        [G, 3, 3]
    """
    missing = (np.linalg.norm(cell, axis=2) < 1e-6) & ~pbc
    if not missing.any():
        return cell
    cell = cell.copy()
    cell[missing.all(1)] = np.eye(3)
    for row in np.flatnonzero(missing.any(1) & ~missing.all(1)):
        known = cell[row][~missing[row]]
        cell[row][missing[row]] = np.linalg.svd(known, full_matrices=True)[2][len(known) :]
    return cell


def _labels(s: Structures, report_by: str) -> np.ndarray:
    """[G] what each structure's error is shown under."""
    if report_by == "group":
        return s.group
    if report_by == "file":
        return np.array([name.rpartition("/")[2].rpartition(".")[0] or name for name in s.files])[s.file]
    occurs = s.composition() > 0
    return np.array(["-".join(SYMBOLS[z] for z in np.array(s.elements)[row]) for row in occurs])


def _by_first_appearance(names: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    places: dict[str, int] = {}
    numbers = np.array([places.setdefault(name, len(places)) for name in names.tolist()], dtype=np.int64)
    return tuple(places), numbers
