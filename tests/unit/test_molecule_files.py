"""SDF, extended xyz, the sheet of formulas and the page: readable at any moment, and by others."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
from support.chemistry import carbon_monoxide, embedded, methyl, placed, scrambled, side_by_side, water

from ponita.data.chemistry import XyzWriter
from ponita.data.molecules import Molecules, join
from ponita.data.workers import Workers

pytest.importorskip("rdkit")
from rdkit import Chem

from ponita.interfaces.rdkit import SdfWriter, canonical_smiles, draw_grid, notebook_view, write_page
from ponita.tasks.diffusion.pictures import draw_geometry


@pytest.fixture(scope="module")
def workers():
    with Workers(1, seconds=30) as pool:
        yield pool


@pytest.fixture(scope="module")
def molecules() -> Molecules:
    return join(
        [embedded("c1ccccc1"), embedded("C[N+](=O)[O-]"), scrambled(), side_by_side(water(), water(4.0)), methyl()]
    )


def read_sdf(path) -> list[Chem.Mol]:
    return list(Chem.SDMolSupplier(str(path), removeHs=False, sanitize=False))


def test_sdf_has_positions_bonds_charges_and_fields(tmp_path, workers, molecules):
    path = tmp_path / "a.sdf"
    with SdfWriter(path, workers) as file:
        file.write(molecules, [{"place": k, "note": "one\n\n$$$$\ntwo"} for k in range(len(molecules))])
    read = read_sdf(path)
    assert len(read) == 5
    np.testing.assert_allclose(read[1].GetConformer().GetPositions(), molecules.take([1]).positions, atol=1e-4)
    assert [canonical_smiles(Chem.MolFromMolBlock(Chem.MolToMolBlock(m, kekulize=False))) for m in read[:2]] == [
        "c1ccccc1",
        "C[N+](=O)[O-]",
    ]
    assert read[2].GetNumAtoms() == 12 and read[4].GetProp("place") == "4" and read[0].GetProp("note") == "one\ntwo"
    # A radical comes back as one, not with a hydrogen that nobody made.
    Chem.SanitizeMol(read[4])
    assert read[4].GetAtomWithIdx(0).GetNumRadicalElectrons() == 1


def test_atoms_alone_where_rdkit_gives_up(tmp_path, workers):
    line = placed("C" * 300, [[1.5 * k, 0, 0] for k in range(300)])
    with SdfWriter(tmp_path / "a.sdf", workers) as file:
        file.write(join([line, water()]))
    large, small = read_sdf(tmp_path / "a.sdf")
    assert (large.GetNumAtoms(), large.GetNumBonds(), small.GetNumBonds()) == (300, 0, 2)


def test_xyz_is_read_by_ase(tmp_path):
    ase_io = pytest.importorskip("ase.io")
    charged = Molecules(
        carbon_monoxide().numbers, carbon_monoxide().positions, carbon_monoxide().ptr, np.array([-1, 1])
    )
    with XyzWriter(tmp_path / "a.xyz") as file:
        file.write(charged, [{"seed": 3, "name": 'a "b" c'}])
    with XyzWriter(tmp_path / "a.xyz", append=True) as file:
        file.write(join([water(), methyl()]))
    first, second, third = ase_io.read(tmp_path / "a.xyz", ":")
    assert first.get_initial_charges().tolist() == [-1, 1] and first.info == {"seed": 3, "name": "a 'b' c"}
    np.testing.assert_allclose(second.positions, water().positions, atol=1e-8)
    assert third.numbers.tolist() == [6, 1, 1, 1] and not third.pbc.any()


KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
from support.chemistry import water, methyl
from ponita.data.chemistry import XyzWriter
from ponita.data.molecules import join
from ponita.interfaces.rdkit import SdfWriter
xyz, sdf = XyzWriter("a.xyz"), SdfWriter("a.sdf")
for file in (xyz, sdf):
    file.write(join([water(), methyl()]))
os.kill(os.getpid(), 9)
"""


def test_files_of_a_killed_run_are_whole(tmp_path, request):
    ase_io = pytest.importorskip("ase.io")
    code = KILLED.format(tests=str(request.config.rootpath / "tests"))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=200)
    assert done.returncode == -9
    assert [len(atoms) for atoms in ase_io.read(tmp_path / "a.xyz", ":")] == [3, 4]
    assert [mol.GetNumBonds() for mol in read_sdf(tmp_path / "a.sdf")] == [2, 3]


def test_the_sheet_shows_every_molecule(tmp_path, workers, molecules):
    image = pytest.importorskip("PIL.Image")
    draw_grid(molecules, tmp_path / "a.png", columns=3, size=150, workers=workers)
    with image.open(tmp_path / "a.png") as picture:
        assert picture.size == (450, 300)
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    panels = [pixels[150 * (k // 3) :][:150, 150 * (k % 3) :][:, :150] for k in range(6)]
    drawn = [bool((panel.sum(2) < 600).any()) for panel in panels]
    assert drawn == [True] * 5 + [False]
    red = [
        bool(((p[..., 0] > 240) & (p[..., 1] < 200) & (p[..., 2] < 190) & (p[..., 1] > 150)).sum() > 50) for p in panels
    ]
    assert red == [False, False, False, False, True, False]  # the radical's carbon
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def page_data(path) -> list[dict]:
    return json.loads(re.search(r"const MOLECULES = (.*);\n", path.read_text())[1])


def test_the_page_has_all_it_needs(tmp_path, workers, molecules):
    path = tmp_path / "a.html"
    captions = ["</script><b>", *["x"] * 4]
    write_page(molecules, path, title="A & <B>", captions=captions, workers=workers)
    text = path.read_text()
    assert "<title>A &amp; &lt;B&gt;</title>" in text and text.count("</script>") == 1
    assert not re.findall(r"https?://|src=|@import|url\(|<link", text)
    shown = page_data(path)
    assert [one["state"] for one in shown] == ["stable", "stable", "no bond orders fit", "stable", "1 unstable atom"]
    assert shown[0]["caption"] == "</script><b>" and len(shown[0]["bonds"]) == 12
    assert sorted(shown[1]["charges"]) == [-1, 0, 0, 0, 0, 0, 1] and shown[4]["unstable"] == [0]
    np.testing.assert_allclose(np.mean(shown[0]["positions"], 0), 0, atol=1e-3)


def test_the_notebook_view_holds_the_molecule(monkeypatch):
    pytest.importorskip("py3Dmol")
    monkeypatch.setattr(socket.socket, "connect", None)  # nothing is asked of the network here
    assert "V2000" in notebook_view(water())._make_html()


def test_the_picture_of_lengths_and_angles(tmp_path, molecules):
    image = pytest.importorskip("PIL.Image")
    draw_geometry(water(), join([water(), methyl()]), tmp_path / "a.png")
    with image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > picture.size[1]
    with pytest.raises(ValueError, match="no bonds"):
        draw_geometry(water(), placed("CC", [[0, 0, 0], [5, 0, 0]]), tmp_path / "b.png")


def test_a_picture_that_would_be_too_tall_is_refused(tmp_path):
    with pytest.raises(ValueError, match="901 molecules to draw; 2 in a row of 100 pixels hold 640 at most"):
        draw_grid(Molecules.from_list([[1]] * 901, [np.zeros((1, 3))] * 901), tmp_path / "a.png", columns=2, size=100)
