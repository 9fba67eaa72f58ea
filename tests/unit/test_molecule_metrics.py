"""What RDKit says of molecules: charges, radicals, fragments, nonsense, what hangs and what is too large."""

from __future__ import annotations

import time

import numpy as np
import pytest
from support.chemistry import carbon_monoxide, embedded, methyl, placed, scrambled, side_by_side, water

from ponita.data.chemistry import table_stability
from ponita.data.molecules import Molecules, join
from ponita.data.workers import Workers

pytest.importorskip("rdkit")
from rdkit import Chem

from ponita.interfaces.rdkit import SmilesSet, canonical_smiles, covalent_bonds, judge, judging, perceive, to_mol
from ponita.interfaces.rdkit.verdicts import inspect, strain
from ponita.tasks.diffusion.report import geometry_table, report_table


@pytest.fixture(scope="module")
def workers():
    with Workers(2, seconds=30) as pool:
        yield pool


def chain(count: int) -> Molecules:
    """Atoms of a straight line of carbon."""
    return placed("C" * count, [[1.5 * k, 0, 0] for k in range(count)])


def test_benzene_is_kekulised_and_stable():
    benzene = embedded("c1ccccc1")
    verdict = inspect(benzene)
    assert verdict.smiles == "c1ccccc1" and verdict.stable.all()
    ring = verdict.bonds[(benzene.numbers[verdict.bonds[:, :2]] == 6).all(1)]
    assert sorted(ring[:, 2].tolist()) == [1, 1, 1, 2, 2, 2]
    # Six equal bonds are all single or all double by their length: no carbon is right by the table.
    for scale in (1.0, 0.98):
        by_table = table_stability(Molecules(benzene.numbers, benzene.positions * scale, benzene.ptr))
        np.testing.assert_array_equal(by_table.atoms, benzene.numbers == 1)


def test_nitro_groups_are_right_with_charges_and_wrong_by_the_table():
    nitromethane = embedded("C[N+](=O)[O-]")
    verdict = inspect(nitromethane)
    assert verdict.smiles == "C[N+](=O)[O-]" and verdict.stable.all()
    assert sorted(verdict.charges.tolist()) == [-1, 0, 0, 0, 0, 0, 1]
    # By its lengths, between single and double, a nitro group has two double bonds: five on nitrogen.
    assert table_stability(nitromethane).atoms[nitromethane.numbers == 7].tolist() == [False]
    assert verdict.table_smiles == "C[N+](=O)[O-]"


def test_ammonium_needs_its_charge():
    ammonium = embedded("[NH4+]", charged=True)
    verdict = inspect(ammonium)
    assert verdict.smiles == "[NH4+]" and verdict.stable.all() and verdict.charges.tolist() == [1, 0, 0, 0, 0]
    uncharged = inspect(Molecules(ammonium.numbers, ammonium.positions, ammonium.ptr))
    assert uncharged.smiles is None and not uncharged.stable.any()
    assert not table_stability(ammonium).molecules[0]


def test_carbon_monoxide_has_charges_and_a_triple_bond():
    verdict = inspect(carbon_monoxide())
    assert verdict.smiles == "[C-]#[O+]" and verdict.stable.all()
    assert verdict.charges.tolist() == [-1, 1] and verdict.bonds.tolist() == [[0, 1, 3]]


def test_a_radical_is_neither_stable_nor_valid():
    verdict = inspect(methyl())
    assert verdict.stable.tolist() == [False, True, True, True]
    assert verdict.smiles is None and not verdict.fault
    assert verdict.table_smiles == "C"  # the literature's reading thinks the missing hydrogen into it


@pytest.mark.parametrize("smiles", ["C=C", "NC(=O)C", "C#CC", "Cc1ccccc1"])
def test_a_lost_hydrogen_makes_one_atom_unstable(smiles):
    """Without a closed shell, no more electrons are unpaired than must be: double bonds and rings elsewhere stay."""
    whole = embedded(smiles)
    for hydrogen in np.flatnonzero(whole.numbers == 1):
        rest = np.delete(np.arange(len(whole.numbers)), hydrogen)
        verdict = inspect(Molecules(whole.numbers[rest], whole.positions[rest], np.array([0, len(rest)])))
        assert (~verdict.stable).sum() == 1 and verdict.smiles is None and not verdict.fault


def test_a_hydrogen_that_lies_apart_is_no_ion():
    """Water that lost a proton is a closed shell, hydroxide; the proton is what is wrong."""
    verdict = inspect(placed("OHH", [[0, 0, 0], [0.96, 0, 0], [-1.6, 0.93, 0]]))
    assert verdict.fragments == 2 and verdict.stable.tolist() == [True, True, False] and verdict.smiles is None


def test_fragments_are_counted(workers):
    pair = side_by_side(water(), water(4.0))
    assert inspect(pair).fragments == inspect(pair).table_fragments == 2
    report = judge(join([pair, water()]), workers=workers)
    assert report.perceived.connected == report.table.connected == 0.5
    assert report.perceived.molecules_stable == report.table.molecules_stable == 1.0
    assert report.smiles == ["O.O", "O"]


def test_thrown_atoms_are_a_failure_with_a_reason():
    verdict = inspect(scrambled())
    assert verdict.smiles is None and verdict.fault.startswith("no bond orders fit") and not verdict.stable.any()
    mol = to_mol(scrambled())
    assert mol.GetProp("fault") == verdict.fault and mol.GetNumBonds() > 0
    with pytest.raises(ValueError, match="no bond orders fit"):
        perceive(scrambled())


def test_molecules_have_conformers_and_round_trips(workers):
    for smiles in ("CC(=O)Nc1ccc(O)cc1", "c1cc[nH]c1", "C#CC1OC1N", "O=C1CC2CC12"):
        molecule = embedded(smiles)
        mol = perceive(molecule)
        np.testing.assert_allclose(mol.GetConformer().GetPositions(), molecule.positions)
        assert canonical_smiles(mol) == canonical_smiles(smiles)


def test_covalent_bonds_are_edges_both_ways():
    molecules = join([water(), embedded("C=C")])
    edges = covalent_bonds(molecules)
    assert sorted(map(tuple, edges.T.tolist()))[:4] == [(0, 1), (0, 2), (1, 0), (2, 0)]
    assert edges.shape == (2, 4 + 10) and edges[:, 4:].min() == 3
    far = placed("OHH", [[0, 0, 0], [0.96, 0, 0], [5, 0, 0]])
    with pytest.raises(ValueError, match=r"molecule 1: atom 2 .* bonded to none"):
        covalent_bonds(join([water(), far]))
    assert covalent_bonds(far, alone=True).shape == (2, 2)


def test_large_molecules_are_refused_and_counted(workers):
    with pytest.raises(ValueError, match="300 atoms"):
        perceive(chain(300))
    report = judge(join([chain(300), water()]), workers=workers)
    assert (report.num_too_large, report.num_crashed) == (1, 0)
    assert report.perceived.valid == report.table.valid == 0.5
    assert report.perceived.atoms_stable == 3 / 303
    assert judge(join([water(), methyl()]), workers=workers, max_atoms=3).num_too_large == 1


def test_a_molecule_that_hangs_is_counted_and_the_rest_judged(workers, monkeypatch):
    """RDKit hangs on the first of three molecules, as far as the worker can tell."""
    given = workers.map

    def with_one_hanging(function, calls, progress=None):
        if function is not inspect:
            return given(function, calls, progress)
        monkeypatch.setattr(workers, "seconds", 1.0)
        hung = given(time.sleep, [(1000,)], progress)
        monkeypatch.setattr(workers, "seconds", 30.0)
        return hung + given(function, calls[1:], progress)

    monkeypatch.setattr(workers, "map", with_one_hanging)
    report = judge(join([water(), water(), methyl()]), workers=workers)
    assert report.num_timed_out == 1 and report.num_crashed == 0
    assert report.valid.tolist() == [False, True, False]
    assert report.perceived.valid == pytest.approx(1 / 3) and report.perceived.atoms_stable == 0.6


def test_uniqueness_and_novelty_have_the_right_denominators(workers):
    samples = join([embedded("CCO"), embedded("OCC"), embedded("c1ccccc1"), water(), methyl()])
    # Written otherwise than RDKit writes them, one with stereochemistry, one not to be read.
    training = ["C(C)O", "C1=CC=CC=C1", "F[C@H](Cl)Br", "no smiles"]
    report = judge(samples, training, workers=workers)
    assert report.perceived.valid == 4 / 5
    assert report.perceived.unique == 3 / 4
    assert report.perceived.novel == pytest.approx(1 / 3)
    assert report.perceived.discovered == pytest.approx(1 / 5)
    assert report.perceived.atoms_stable == (9 + 9 + 12 + 3 + 3) / (9 + 9 + 12 + 3 + 4)
    assert np.isnan(judge(water(), workers=workers).perceived.novel)


def test_smiles_sets_are_canonical_and_kept(tmp_path):
    known = SmilesSet.from_smiles(["C(C)O", "OCC", "[H]O[H]", "F[C@H](Cl)Br", "F[C@@H](Cl)Br", "bad smiles"])
    assert known == {"CCO", "O", "FC(Cl)Br"}
    known.save(tmp_path / "known.smi")
    assert SmilesSet.load(tmp_path / "known.smi") == known


def test_strain_is_what_minimisation_releases(workers):
    relaxed = embedded("CCO")
    assert strain(relaxed) == pytest.approx(0.0, abs=1e-3)
    stretched = Molecules(relaxed.numbers, relaxed.positions * 1.03, relaxed.ptr)
    assert 1.0 < strain(stretched) < 30.0
    report = judge(join([relaxed, stretched, stretched, methyl()]), workers=workers)
    assert report.num_strained == 3 and report.strain == pytest.approx(strain(stretched))


def test_elements_outside_of_the_table_have_one_reading(workers):
    report = judge(embedded("CS"), reference=water(), workers=workers)
    assert report.perceived.molecules_stable == 1.0 and np.isnan(report.table.valid) and not report.geometry


def test_the_report_reads_as_a_table(workers):
    samples = join([water(), methyl(), carbon_monoxide()])
    text = report_table(
        {"samples": judge(samples, [], samples, workers=workers), "training": judge(water(), workers=workers)}
    )
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert lines["molecules stable"].split()[2::2] == ["33.33", "66.67", "100.00", "100.00"]
    assert "PoseBusters" not in text
    assert "0.0000" not in geometry_table(judge(samples, None, samples, workers=workers)).replace(" 0 ", "")


def test_impossible_requests_are_errors(workers, monkeypatch):
    with pytest.raises(ValueError, match="no molecules"):
        judge(water().take([]), workers=workers)
    monkeypatch.setattr(judging.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install posebusters"):
        judge(water(), workers=workers, with_posebusters=True)


def test_allowed_valences_agree_with_rdkit():
    """Each listed atom, with hydrogens for its bonds, is a closed shell that RDKit accepts."""
    from ponita.data.chemistry.valences import ALLOWED

    for (number, charge), valences in ALLOWED.items():
        for valence in valences:
            atom = Chem.Atom(number)
            atom.SetFormalCharge(charge)
            atom.SetNumExplicitHs(valence)
            atom.SetNoImplicit(True)
            mol = Chem.RWMol()
            mol.AddAtom(atom)
            Chem.SanitizeMol(mol)
            radicals = mol.GetAtomWithIdx(0).GetNumRadicalElectrons()
            assert radicals == 0, (number, charge, valence)
