"""The diffusion task: training, sampling and mistakes through the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import read
from support.molecules import write_qm9
from support.tiny_runs import DIFFUSION

from ponita.tasks import runs
from ponita.tasks.cli import main, run
from ponita.tasks.diffusion.checkpoint import load_generator
from ponita.tasks.diffusion.generate import batches, largest_batch
from ponita.tasks.pictures import read_metrics

NETWORK = "--model.init_args.model.init_args"
CKPT = "runs/diffusion-quick/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run of a network that can be conditioned on the gap."""
    folder = tmp_path_factory.mktemp("diffusion")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv(runs.VARIABLE, raising=False)
        write_qm9(folder / "qm9")
        channels = 4 + 7 + 2
        run(["fit", *DIFFUSION, "--data.init_args.condition", "gap", f"{NETWORK}.in_channels", str(channels)])
    return folder


@pytest.fixture(autouse=True)
def _in_that_folder(request, monkeypatch):
    if "trained" in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue("trained"))


def sample(*words, out="out.xyz", ckpt=CKPT):
    run(["sample", "--ckpt_path", ckpt, "--out", out, "--num", "6", "--steps", "4", *words])
    return read(out, index=":")


def test_a_run_reports_losses_and_keeps_samples(trained):
    folder = Path("runs/diffusion-quick")
    curves = read_metrics(folder / "metrics.csv")
    assert {"train/loss", "valid/loss", "valid/position", "valid/feature", "test/loss"} <= curves.keys()
    report = (folder / "report.txt").read_text()
    assert "denoising" in report and "3 samples" in report
    assert len(read(folder / "samples.xyz", index=":")) == 3


def test_the_same_words_make_the_same_file(trained):
    first = sample()
    text = Path("out.xyz").read_text()
    assert len(first) == 6 and {len(atoms) for atoms in first} <= {3, 4, 5}
    sample(out="again.xyz")
    assert Path("again.xyz").read_text() == text
    sample("--seed", "1")
    assert Path("out.xyz").read_text() != text


@pytest.mark.parametrize("sampler", ["heun", "dpm"])
def test_every_sampler_and_batches_of_two(trained, sampler):
    made = sample("--sampler", sampler, "--batch_size", "2")
    assert len(made) == 6 and all(np.abs(atoms.positions.mean(0)).max() < 1e-4 for atoms in made)


def test_a_condition_and_its_guidance_change_what_is_made(trained):
    texts = set()
    for words in ([], ["--condition", "gap=0.4"], ["--condition", "gap=0.4", "--guidance", "3"]):
        sample(*words)
        texts.add(Path("out.xyz").read_text())
    assert len(texts) == 3


def test_a_fragment_is_in_every_molecule(trained):
    Path("oh.xyz").write_text("2\n\nO 0 0 0\nH 0.97 0 0\n")
    made = sample("--fragment", "oh.xyz", "--atoms", "5")
    for atoms in made:
        assert atoms.get_chemical_symbols()[:2] == ["O", "H"] and len(atoms) == 5
        assert np.allclose(atoms.positions[1] - atoms.positions[0], [0.97, 0, 0], atol=1e-5)
    assert {len(atoms) for atoms in sample("--fragment", "oh.xyz")} <= {3, 4, 5}


def test_an_interrupted_run_leaves_whole_molecules(trained, monkeypatch, capsys):
    generator, calls = load_generator(CKPT), []
    make = type(generator).sample

    def stopped(self, *args, **options):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return make(self, *args, **options)

    monkeypatch.setattr(type(generator), "sample", stopped)
    assert len(sample("--batch_size", "2")) == 4
    assert "stopped" in capsys.readouterr().out


def test_sdf_with_a_picture_and_a_page(trained):
    chem = pytest.importorskip("rdkit.Chem")
    run(["sample", "--ckpt_path", CKPT, "--num", "2", "--steps", "3", "--out", "two.sdf", "--html", "two.html"])
    assert len(list(chem.SDMolSupplier("two.sdf", sanitize=False, removeHs=False))) == 2
    assert "<html" in Path("two.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sampler", "euler"], "'euler'; expected one of"),
        (["--steps", "1"], "at least 2"),
        (["--sigma_max", "0.001"], "sigma_min < sigma_max"),
        (["--condition", "homo=1"], "the property gap"),
        (["--condition", "gap=low"], "expected a number"),
        (["--fragment", "missing.xyz"], "no fragment at"),
        (["--fragment", "silicon.xyz"], "Si among the atoms"),
        (["--fragment", "large.xyz"], "set --atoms"),
        (["--fragment", "large.xyz", "--atoms", "4"], "at least 6"),
        (["--out", "molecules.pdb"], ".sdf or .xyz"),
    ],
)
def test_bad_input_is_named(trained, words, message):
    Path("silicon.xyz").write_text("1\n\nSi 0 0 0\n")
    Path("large.xyz").write_text("5\n\n" + "".join(f"C {i} 0 0\n" for i in range(5)))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        sample(*words)


def test_a_checkpoint_of_another_kind_is_refused(trained, tmp_path):
    from ponita import Ponita
    from ponita.models import save

    save(Ponita(1, hidden_channels=4, num_layers=1, basis_channels=4), tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of the diffusion task"):
        sample(ckpt=str(tmp_path / "other.ckpt"))


def test_a_network_of_other_channels_is_refused(trained, capsys):
    with pytest.raises(SystemExit):
        main(["fit", *DIFFUSION, f"{NETWORK}.in_channels", "7", "--run_dir", "wrong"])
    assert "in_channels=11" in capsys.readouterr().err


def test_batches_hold_as_much_as_they_may(trained):
    sizes = torch.tensor([3, 3, 3, 10, 3])
    assert [part.tolist() for part in batches(sizes, 2)] == [[3, 3], [3, 10], [3]]
    assert [part.tolist() for part in batches(sizes, 9, 20)] == [[3, 3], [3], [10], [3]]
    assert largest_batch(load_generator(CKPT).network, 1e6) == int(1e6 / (4 * 8 * 20))


def test_samples_are_judged_beside_real_molecules(trained, capsys):
    sample("--judge", "qm9", out="judged.xyz")
    table = Path("judged.txt").read_text()
    assert "6 samples: table" in table and "QM9 up to" in table and "novel of unique" in table
    assert table in capsys.readouterr().out
    assert Path("judged.png").stat().st_size > 1000
    with pytest.raises(FileNotFoundError, match="there is no such folder; name one with"):
        sample("--judge", "nowhere")
