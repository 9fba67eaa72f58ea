"""Structures from every kind of file: the same numbers, in eV and Å, with stress positive in tension."""

import pickle
from dataclasses import fields

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from support.atoms import crystals, labelled, molecules

from ponita.data import (
    Keys,
    LmdbStructures,
    Structures,
    Units,
    concatenate,
    from_ase,
    make_structures,
    read_structures,
    to_lmdb,
)
from ponita.data.labels import as_matrix, stress_of_virial
from ponita.data.rmd17 import load_rmd17
from ponita.data.units import BOHR, EV_PER_KCAL_MOL, GPA, HARTREE, unit_factor

FRAMES = [*crystals(4), *molecules(3)]


def same(a: Structures, b: Structures, **tolerance) -> bool:
    """Whether everything but the names of files is equal."""
    for field in fields(Structures):
        if field.name in ("files", "found", "file"):
            continue
        first, second = getattr(a, field.name), getattr(b, field.name)
        if first.dtype.kind == "f":
            np.testing.assert_allclose(first, second, equal_nan=True, err_msg=field.name, **tolerance)
        else:
            np.testing.assert_array_equal(first, second, err_msg=field.name)
    return True


def check_labels(s: Structures, frames: list[Atoms], atol: float = 1e-7) -> None:
    for k, atoms in enumerate(frames):
        part = slice(s.ptr[k], s.ptr[k + 1])
        np.testing.assert_allclose(s.positions[part], atoms.positions, atol=atol)
        np.testing.assert_array_equal(s.numbers[part], atoms.numbers)
        np.testing.assert_allclose(s.cell[k], atoms.cell.array, atol=atol)
        assert s.energy[k] == pytest.approx(atoms.get_potential_energy(), abs=atol)
        np.testing.assert_allclose(s.forces[part], atoms.get_forces(apply_constraint=False), atol=atol)
        if atoms.pbc.any():
            np.testing.assert_allclose(s.stress[k], atoms.get_stress(voigt=False), atol=atol)
    assert s.has["stress"].tolist() == [bool(atoms.pbc.any()) for atoms in frames]


def test_extended_xyz_and_databases_give_what_ase_holds(tmp_path):
    write(tmp_path / "frames.xyz", FRAMES, format="extxyz")
    s = read_structures(tmp_path / "frames.xyz")
    check_labels(s, FRAMES)
    assert len(s) == 7 and s.elements == (29, 79) and s.counts.tolist() == [len(atoms) for atoms in FRAMES]
    assert s.group.tolist() == [atoms.info["group"] for atoms in FRAMES] and s.heads == ("",)
    assert s.found["energy"] == "results[energy] (7 of 7)" and s.found["stress"] == "results[stress] (4 of 7)"
    assert s.name(5) == f"{tmp_path / 'frames.xyz'}, structure 5"
    with ase.db.connect(tmp_path / "frames.db") as database:
        for atoms in FRAMES:
            database.write(atoms, data={"group": atoms.info["group"]})
    assert same(read_structures(tmp_path / "frames.db"), s, atol=1e-7)


def test_forces_are_those_of_the_calculator_whatever_is_held_fixed():
    atoms = crystals(1)[0]
    free = from_ase([atoms]).forces
    atoms.set_constraint(FixAtoms([0, 1]))
    np.testing.assert_array_equal(from_ase([atoms]).forces, free)


def test_stress_is_the_derivative_of_the_energy_in_the_strain():
    atoms = crystals(2)[1]
    strain, step = np.zeros((3, 3)), 1e-5
    strain[0, 1] = strain[1, 0] = strain[2, 2] = step

    def energy(sign: int) -> float:
        moved = atoms.copy()
        moved.set_cell(moved.cell @ (np.eye(3) + sign * strain), scale_atoms=True)
        return labelled(moved, EMT()).get_potential_energy()

    s = from_ase([atoms])
    numerical = (energy(1) - energy(-1)) / (2 * step * s.volume[0])
    assert numerical == pytest.approx(2 * s.stress[0, 0, 1] + s.stress[0, 2, 2], abs=1e-6)


def test_stresses_in_every_form_are_the_same_matrix():
    matrix = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]])
    voigt = [1.0, 2, 3, 4, 5, 6]
    for form in (voigt, matrix, matrix.ravel(), np.array([matrix.ravel()])[0]):
        np.testing.assert_array_equal(as_matrix(form), matrix)
    np.testing.assert_array_equal(as_matrix(np.array([voigt] * 2)), [matrix] * 2)
    np.testing.assert_array_equal(stress_of_virial(matrix, 4.0), -matrix / 4)
    assert np.isnan(stress_of_virial(matrix, 0.0)).all()
    with pytest.raises(ValueError, match=r"shape \[5\]; expected 6, 9 or \[3, 3\]"):
        as_matrix(np.zeros(5))


@pytest.mark.parametrize("sign", ["tension", "compression"])
def test_virials_and_pressures_become_stresses(sign):
    atoms = crystals(1)[0]
    stress = atoms.get_stress(voigt=False)
    bare = Atoms(atoms)
    bare.calc = None
    bare.info = {"virial": -stress * atoms.get_volume()}
    np.testing.assert_allclose(from_ase([bare]).stress[0], stress, atol=1e-12)
    bare.info = {"dft_stress": (stress if sign == "tension" else -stress) / GPA}
    found = from_ase([bare], Keys(stress="dft_stress"), Units(stress="GPa", stress_sign=sign))
    np.testing.assert_allclose(found.stress[0], stress, atol=1e-12)


def test_units_are_converted_at_the_boundary():
    frames = crystals(2)
    expected = from_ase(frames)
    for atoms in frames:
        atoms.calc.results["energy"] /= HARTREE
        atoms.calc.results["forces"] = atoms.calc.results["forces"] / HARTREE * BOHR
        atoms.calc.results["stress"] = atoms.calc.results["stress"] / HARTREE * BOHR**3
        atoms.set_cell(atoms.cell / BOHR)
        atoms.positions /= BOHR
    assert same(from_ase(frames, units=Units(energy="Ha", length="bohr")), expected, atol=1e-10)
    for atoms in frames:
        atoms.calc.results["forces"] = atoms.calc.results["forces"] * HARTREE / BOHR
    assert same(from_ase(frames, units=Units("Ha", "bohr", forces="eV/Angstrom")), expected, atol=1e-10)


@pytest.mark.parametrize(
    ("text", "powers", "value"),
    [
        ("eV", (1, 0), 1.0),
        ("kcal/mol", (1, 0), EV_PER_KCAL_MOL),
        ("kJ/mol", (1, 0), 0.01036427),
        ("Ry", (1, 0), 13.6056931),
        ("kcal/mol/Angstrom", (1, -1), EV_PER_KCAL_MOL),
        ("Ha/bohr", (1, -1), 51.4220675),
        ("meV/Å", (1, -1), 1e-3),
        ("nm", (0, 1), 10.0),
        ("eV/Angstrom^3", (1, -3), 1.0),
        ("eV*A^-3", (1, -3), 1.0),
        ("GPa", (1, -3), 1 / 160.2176634),
        ("kbar", (1, -3), 0.1 / 160.2176634),
    ],
)
def test_units_have_the_values_of_codata(text, powers, value):
    assert unit_factor(text, *powers) == pytest.approx(value, rel=1e-7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kcl/mol", "the unit 'kcl' of 'kcl/mol' is unknown; did you mean 'kcal'?"),
        ("xyz", r"is unknown\. Known are eV,"),
        ("GPa", r"is energy\^1 length\^-3; expected energy\^1 length\^0, such as 'eV'"),
        ("eV//A", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_unknown_units_are_explained(text, message):
    with pytest.raises(ValueError, match=message):
        Units(energy=text or " ").factors()
    with pytest.raises(ValueError, match="stress_sign='pressure'; expected 'tension' or 'compression'"):
        Units(stress_sign="pressure").factors()


def test_keys_are_looked_up_where_users_put_them():
    atoms = molecules(1)[0]
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    other = Atoms(atoms)
    other.calc = None
    other.info, other.arrays["REF_forces"] = {"REF_energy": energy, "theory": "pbe", "traj": 7}, forces
    s = from_ase([other], Keys(energy="REF_energy", forces="REF_forces", head="theory", group="traj"))
    check_labels(s, [atoms])
    assert s.head.tolist() == ["pbe"] and s.group.tolist() == ["7"]
    assert s.found["forces"] == "arrays[REF_forces] (1 of 1)"
    unnamed = from_ase([other])
    assert not any(has.any() for has in unnamed.has.values())
    assert unnamed.found == {"held": "arrays[REF_forces], info[REF_energy], info[theory], info[traj]"}
    with pytest.raises(ValueError, match=r"no structure has energy under 'dft_energy'; it holds .*info\[REF_energy\]"):
        from_ase([other], Keys(energy="dft_energy"))


def test_missing_labels_are_masks():
    full, bare = molecules(2)
    bare.calc = SinglePointCalculator(bare, energy=-1.0)
    partly = molecules(3)[2]
    partly.calc.results["forces"][0, 1] = np.nan
    s = from_ase([full, bare, partly])
    assert s.has["energy"].tolist() == [True] * 3 and s.has["forces"].tolist() == [True, False, False]
    assert s.has_any == {"energy": True, "forces": True, "stress": False}


def test_taking_and_joining_keep_structures_whole():
    s = from_ase(FRAMES, source="a")
    rows = np.array([5, 0, 3, 0])
    taken = s.take(rows)
    check_labels(taken, [FRAMES[k] for k in rows])
    assert taken.index.tolist() == rows.tolist() and taken.name(0) == "a, structure 5"
    joined = concatenate([s.take([0, 1]), from_ase(FRAMES[2:], source="b")])
    assert joined.files == ("a", "b") and joined.name(3) == "b, structure 1"
    joined = concatenate(list(s.chunks(3)))
    assert same(joined, s) and joined.files == ("a",)
    np.testing.assert_array_equal(s.composition([79, 29]).sum(0), [(s.numbers == 79).sum(), (s.numbers == 29).sum()])
    with pytest.raises(ValueError, match=r"atomic numbers \[79\] are not among the elements \[29\]"):
        s.composition([29])


def test_a_database_larger_than_memory_gives_back_every_number(tmp_path):
    s = from_ase(FRAMES, source="a")
    missing = FRAMES[0].copy()
    parts = [s, from_ase([missing], source="b")]
    assert to_lmdb(iter(parts), tmp_path / "s.lmdb") == 8
    stored = LmdbStructures(tmp_path / "s.lmdb")
    assert same(stored.take(range(8)), concatenate(parts), rtol=0, atol=0)
    assert len(stored) == 8 and stored.elements == (29, 79) and stored.periodic and stored.heads == ("",)
    assert stored.has_any == {"energy": True, "forces": True, "stress": True} and stored.files == ("a", "b")
    some = pickle.loads(pickle.dumps(stored)).take([6, 1])
    assert same(some, s.take([6, 1]), rtol=0, atol=0) and some.name(0) == "a, structure 6"
    assert [len(chunk) for chunk in stored.chunks(3)] == [3, 3, 2]
    assert same(read_structures(tmp_path / "s.lmdb"), concatenate(parts), rtol=0, atol=0)
    with pytest.raises(ValueError, match="has no structure 8; expected 0 to 7"):
        stored.take([8])
    with pytest.raises(ValueError, match="exists; a database is not written over"):
        to_lmdb(s, tmp_path / "s.lmdb")
    with pytest.raises(ValueError, match="no structures to write"):
        to_lmdb(iter([]), tmp_path / "empty.lmdb")
    assert [path.name for path in tmp_path.iterdir()] == ["s.lmdb"]


def test_named_arrays_of_one_size_and_of_several(tmp_path):
    s = from_ase(FRAMES)
    flat = {name: getattr(s, name) for name in ("positions", "numbers", "cell", "pbc", "energy", "forces", "stress")}
    np.savez(tmp_path / "flat.npz", n_atoms=s.counts, group=s.group, **flat)
    assert same(read_structures(tmp_path / "flat.npz"), s, rtol=0, atol=0)
    frames = [crystals(3)[0] for _ in range(2)]
    of_one_size = {
        "R": np.stack([atoms.positions for atoms in frames]),
        "z": frames[0].numbers,
        "E": np.array([[atoms.get_potential_energy()] for atoms in frames]),
        "grad": -np.stack([atoms.get_forces() for atoms in frames]),
        "F": np.stack([atoms.get_forces() for atoms in frames]),
        "lattice": frames[0].cell.array,
        "virial": np.stack([-atoms.get_stress() * atoms.get_volume() for atoms in frames]),
    }
    np.savez(tmp_path / "frames.npz", **of_one_size)
    check_labels(read_structures(tmp_path / "frames.npz"), frames)
    with pytest.raises(ValueError, match="has no array 'force' for forces; it holds E, F, R"):
        read_structures(tmp_path / "frames.npz", Keys(forces="force"))
    np.savez(tmp_path / "wrong.npz", **{**of_one_size, "F": np.zeros((2, 3, 3))})
    with pytest.raises(ValueError, match=r"forces has shape \(2, 3, 3\)"):
        read_structures(tmp_path / "wrong.npz")
    np.savez(tmp_path / "none.npz", R=of_one_size["R"])
    with pytest.raises(ValueError, match="has no numbers"):
        read_structures(tmp_path / "none.npz")


def test_files_of_rmd17_are_in_kcal_per_mol_unless_something_else_is_declared(tmp_path):
    arrays = {
        "nuclear_charges": np.array([8, 1, 1]),
        "coords": np.arange(18.0).reshape(2, 3, 3),
        "energies": np.array([1.0, 2.0]),
        "forces": np.ones((2, 3, 3)),
    }
    path = tmp_path / "npz_data" / "rmd17_ethanol.npz"
    path.parent.mkdir()
    np.savez(path, **arrays)
    s, frames = read_structures(path), load_rmd17(tmp_path, "ethanol", download=False)
    np.testing.assert_array_equal(s.energy, frames.energies)
    np.testing.assert_allclose(s.forces, frames.forces.reshape(-1, 3), rtol=1e-15)
    np.testing.assert_array_equal(read_structures(path, units=Units(energy="eV")).energy, arrays["energies"])


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file of structures at .*nothing\.xyz"):
        read_structures(tmp_path / "nothing.xyz")
    write(tmp_path / "cut.xyz", FRAMES, format="extxyz")
    lines = (tmp_path / "cut.xyz").read_text().splitlines()
    (tmp_path / "cut.xyz").write_text("\n".join(lines[:-2]) + "\n")
    with pytest.raises(ValueError, match=r"cut\.xyz cannot be read as structures"):
        read_structures(tmp_path / "cut.xyz")
    (tmp_path / "odd.abc").write_text("hello\n")
    with pytest.raises(ValueError, match=r"odd\.abc cannot be read as structures"):
        read_structures(tmp_path / "odd.abc")
    for content in (b"", b"hello" * 2000):
        (tmp_path / "odd.lmdb").write_bytes(content)
        with pytest.raises(ValueError, match=r"no LMDB database|no database of structures"):
            LmdbStructures(tmp_path / "odd.lmdb")
    with pytest.raises(ValueError, match="keys and units have no meaning"):
        read_structures(tmp_path / "odd.lmdb", Keys(energy="E"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"numbers": np.array([1, 0])}, "m, structure 1 has the atomic number 0"),
        ({"positions": np.array([[0, 0, np.inf], [0, 0, 0]])}, "m, structure 0: positions not finite"),
        ({"counts": [2, 0]}, "m, structure 1 has no atoms"),
        ({"energy": np.zeros(3)}, r"m: energy has shape \(3,\); expected \(2,\)"),
    ],
)
def test_impossible_structures_are_refused(change, message):
    arguments = {"positions": np.zeros((2, 3)), "numbers": np.array([1, 1]), "counts": [1, 1]}
    with pytest.raises(ValueError, match=message):
        make_structures(**{**arguments, **change}, source="m")


def test_a_label_of_a_wrong_shape_names_its_structure():
    good, bad = molecules(2)
    bad.calc.results["forces"] = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"memory, structure 1: forces is .* of shape \[2, 3\]; expected .*\[4, 3\]"):
        from_ase([good, bad])
