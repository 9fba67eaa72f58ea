"""Data of potentials of any molecules and crystals, from files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch_geometric.data import Batch

from ponita.data.faults import Fault, find_training_faults, largest_forces, name_rows, shared
from ponita.data.inspection import describe
from ponita.data.labels import Keys, Units
from ponita.data.lmdb_structures import LmdbStructures
from ponita.data.reading import read_structures
from ponita.data.splits import Split
from ponita.data.structures import Structures, concatenate
from ponita.models import Potential
from ponita.tasks.datamodule import GraphDataModule
from ponita.tasks.potential.normalization import check_elements, check_heads
from ponita.tasks.potential.structure_set import StructureSet

REPORTS = ("auto", "group", "file", "system", "none")
MOST_GROUPS = 60  # rows of a report that chooses by itself


class StructureDataModule(GraphDataModule):
    """Energies, forces and stresses of molecules and crystals.

    Args:
        train: files to train on (extended xyz, .db, .npz, .lmdb, or what else ASE reads); a single .lmdb is read as
            batches are made, and need not fit into memory.
        valid: files to validate on; null: what `split` takes out of those of `train`.
        test: files to test on; null: what `split` takes out, or the validation set if that is nothing.
        isolated_atoms: file of single atoms, for reference energies; not trained on.
        heads: level of theory of each file, where they differ: {pbe.xyz: pbe, r2scan.xyz: r2scan}. Where levels are mixed
            in a file, `keys.head` says what each structure's is called.
        split: which training structures validate and test.
        keys: names of the labels in the files.
        units: of the files; eV and Å where not declared.
        max_force: structures of the training set with a larger force (eV/Å) are left out; null: none.
        report_by: what test errors are shown for, beside all structures: "group", "file", "system" (the elements that
            occur), "none"; "auto": groups, if there are some and not too many, or files, if there are several.
        precompute: make the neighbour lists once, before training; false: with every batch, in less memory.
        batch_size: structures in a training batch.
        eval_batch_size: structures in a batch of validation and test.
        num_workers: processes that prepare batches.
        seed: of the order of the training set.
    """

    def __init__(
        self,
        train: str | list[str],
        valid: str | list[str] | None = None,
        test: str | list[str] | None = None,
        isolated_atoms: str | None = None,
        heads: dict[str, str] | None = None,
        split: Split = Split(),  # noqa: B008  (a dataclass default is how the CLI knows the keys)
        keys: Keys = Keys(),  # noqa: B008
        units: Units = Units(),  # noqa: B008
        max_force: float | None = None,
        report_by: str = "auto",
        precompute: bool = True,
        batch_size: int = 8,
        eval_batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, seed)
        if report_by not in REPORTS:
            raise ValueError(f"report_by={report_by!r}; expected one of {list(REPORTS)}.")
        self.files = {"train": _listed(train), "valid": _listed(valid), "test": _listed(test)}
        self.heads = heads or {}
        self.isolated_atoms, self.split, self.keys, self.units = isolated_atoms, split, keys, units
        self.max_force, self.report_by, self.precompute = max_force, report_by, precompute
        self.isolated: Structures | None = None
        #: Lines about what was read.
        self.described: list[str] = []
        self.tested_on = "test set"
        self._check_files()

    def setup(self, stage: str) -> None:
        needed = {"fit": ("train", "valid"), "validate": ("valid",)}.get(stage, ("test",))
        for part in needed:
            if part not in self.sets:
                self._read(part)
        potential = self._potential()
        for part in needed:
            self._prepare(part, potential)
        if stage == "fit" and self.isolated_atoms and self.isolated is None:
            self.isolated = self._read_file("isolated atoms", self.isolated_atoms)

    def first_batch(self) -> Batch:
        """Structures from all over the training set, the same on every rank: files are sorted by what they hold."""
        train = self.sets["train"]
        size = min(self.batch_size, len(train))
        return train.__getitems__([k * len(train) // size for k in range(size)])

    def _check_files(self) -> None:
        known = [*self.files["train"], *self.files["valid"], *self.files["test"], self.isolated_atoms]
        for file in self.heads:
            if file not in known:
                raise ValueError(f"data.heads names {file!r}, which is none of the files {known}.")
        takes = {part: bool(getattr(self.split, part)) for part in ("valid", "test")}
        for part in takes:
            given = len(getattr(self.split, f"{part}_groups")) + len(getattr(self.split, f"{part}_indices"))
            takes[part] = takes[part] or given > 0
            if takes[part] and self.files[part]:
                raise ValueError(f"data.{part} names files, and data.split takes structures for it too; expected one.")
        if not self.files["valid"] and not takes["valid"]:
            raise ValueError(
                "there is nothing to validate on; name files (data.init_args.valid), or let a part of the training "
                "structures validate: data.init_args.split.valid 0.1, or split.valid_groups."
            )
        if not self.files["test"] and not takes["test"]:
            self.tested_on = "validation set (there is no test set)"

    def _read(self, part: str) -> None:
        """Read a part from files of its own, or from those that it shares with others."""
        if part != "train" and self.files[part]:
            self.sets[part] = self._set(part, self._load(part), None)
        elif part == "test" and self.tested_on != "test set":
            if "valid" not in self.sets:
                self._read("valid")
            self.sets[part] = self._set(part, self.sets["valid"].structures, self.sets["valid"].rows)
        else:
            self._split_training_files()

    def _split_training_files(self) -> None:
        """The training set, and what is taken out of its files."""
        structures = self._load("train")
        if isinstance(structures, Structures):
            group = structures.group
        else:
            group = np.concatenate([chunk.group for chunk in structures.chunks()])
        parts = self.split.rows(group)
        if self.max_force is not None:
            parts["train"] = self._without_large_forces(structures, parts["train"])
        for part, rows in parts.items():
            if part == "train" or (len(rows) and not self.files[part]):
                self.sets[part] = self._set(part, structures, rows)

    def _load(self, part: str) -> Structures | LmdbStructures:
        files = self.files[part]
        if len(files) == 1 and files[0].endswith(".lmdb") and files[0] not in self.heads:
            structures = LmdbStructures(Path(files[0]).expanduser())
            self.described.append(f"{part}: {len(structures)} structures of {structures.path}, read as they are needed")
            return structures
        return concatenate([self._read_file(part, file) for file in files])

    def _read_file(self, part: str, file: str) -> Structures:
        packed = file.endswith(".lmdb")
        structures = read_structures(file, *(() if packed else (self.keys, self.units)))
        if file in self.heads:
            structures = replace(structures, head=np.full(len(structures), self.heads[file]))
        lines = describe(structures)
        self.described += [f"{part}: {file}: {lines[0]}", *(f"  {line}" for line in lines[1:])]
        return structures

    def _set(self, part: str, structures: Structures | LmdbStructures, rows: np.ndarray | None) -> StructureSet:
        if part != "test" or self.report_by != "auto":
            return StructureSet(structures, rows, self.report_by if part == "test" else "none")
        for report_by in ("group", "file"):
            chosen = StructureSet(structures, rows, report_by)
            if 1 < len(chosen.labels) <= MOST_GROUPS:
                return chosen
        return StructureSet(structures, rows)

    def _prepare(self, part: str, potential: Potential | None) -> None:
        """Check a set, and list its neighbours for the potential that it will be given to."""
        chosen = self.sets[part]
        if isinstance(chosen.structures, Structures):
            self._check(part, chosen.structures, potential)
        if potential is None:
            return
        cutoff = potential.network.config["cutoff"]
        if chosen.periodic and cutoff is None:
            raise ValueError(f"the {part} set has periodic structures, which need a network with a cutoff; set one.")
        if cutoff is not None:
            chosen.list_neighbors(cutoff, potential.self_loops, self.precompute)

    def _check(self, part: str, structures: Structures, potential: Potential | None) -> None:
        if potential is not None:
            check_elements(structures, potential)
            check_heads(structures, potential)
        if not structures.has["energy"].any() and not structures.has["forces"].any():
            held = structures.found.get("held", "nothing")
            raise ValueError(
                f"the {part} set ({', '.join(structures.files)}) has neither energies nor forces under the usual names; it "
                f"holds {held}. Say which are which: data.init_args.keys.energy, keys.forces."
            )
        for fault in find_training_faults(structures):
            _tell(fault, structures, part)
        train = self.sets.get("train")
        if part != "train" and train is not None and isinstance(train.structures, Structures):
            rows = shared(train.structures, structures)
            if rows.size:
                rank_zero_warn(
                    f"{rows.size} of {len(structures)} structures of the {part} set are in the training set too: "
                    f"{name_rows(structures, rows)}"
                )

    def _without_large_forces(self, structures: Structures | LmdbStructures, rows: np.ndarray) -> np.ndarray:
        chunks = [structures] if isinstance(structures, Structures) else structures.chunks()
        largest = np.concatenate([largest_forces(chunk) for chunk in chunks])
        dropped = rows[largest[rows] > self.max_force]
        if dropped.size:
            rank_zero_info(
                f"{dropped.size} of {len(rows)} training structures have forces above {self.max_force:g} eV/Å and are left out"
            )
        return rows[largest[rows] <= self.max_force]

    def _potential(self) -> Potential | None:
        """That of the task, where the data are read for one."""
        model = getattr(getattr(self.trainer, "lightning_module", None), "potential", None)
        return model if isinstance(model, Potential) else None


def _listed(files: str | Sequence[str] | None) -> list[str]:
    return [files] if isinstance(files, str) else list(files or [])


def _tell(fault: Fault, structures: Structures, part: str) -> None:
    message = f"{part} set: {fault.describe(structures)}"
    if fault.severe:
        raise ValueError(message)
    rank_zero_warn(message)
