"""The property task: labels, references, losses, graphs, runs and mistakes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.labelled_molecules import ATOMS, write_qm9

from ponita import Ponita
from ponita.data import collate
from ponita.data.molecules import Molecules
from ponita.data.qm9_labels import LabelSplit
from ponita.data.units import HARTREE
from ponita.geometry import grid_symmetry, rotate
from ponita.models import Properties, PropertyModel, load
from ponita.tasks import runs
from ponita.tasks.cli import main, run
from ponita.tasks.pictures import read_metrics
from ponita.tasks.property import PropertyTask, QM9DataModule
from ponita.tasks.property.bonds import find_bonds, load_bonds
from ponita.tasks.property.errors import PropertyErrors
from ponita.tasks.property.normalization import fit_atoms, normalize

ROOT = Path("data/qm9")
NETWORK = "--model.init_args.model.init_args"
TINY = [
    *("--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    *("--trainer.num_sanity_val_steps", "0", "--data.init_args.batch_size", "8"),
    *("--data.init_args.split.num_valid", "6", "--data.init_args.split.num_test", "8"),
    *(f"{NETWORK}.hidden_channels", "8", f"{NETWORK}.basis_channels", "8", f"{NETWORK}.num_layers", "2"),
]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(runs.VARIABLE, raising=False)


def network(**changes):
    sizes = {"hidden_channels": 8, "basis_channels": 8, "num_layers": 2, "num_orientations": 12, "cutoff": 4.0}
    return Ponita(4, **{**sizes, **changes})


def data(targets, bonds=False, **options):
    write_qm9(ROOT, energy_noise=options.pop("energy_noise", 0.0))
    module = QM9DataModule(batch_size=12, **{"split": LabelSplit(num_valid=4), **options})
    module.load(targets, bonds)
    return module


def is_png(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5000


def test_a_run_leaves_a_table_a_picture_and_a_model_that_returns_electronvolts(capsys):
    write_qm9(ROOT)
    main(["fit", "--config", "property/quick", *TINY])
    folder = Path("runs/property-quick")
    assert is_png(folder / "parity.png") and is_png(folder / "learning_curve.png")
    report = (folder / "report.txt").read_text()
    assert report.strip() in capsys.readouterr().out
    assert "qm9.npz: 26 train, 6 valid, 8 test" in report and "mean predictor" in report and "meV" in report
    assert {"train/loss", "valid/loss", "valid/gap_mae", "test/gap_mae"} <= read_metrics(folder / "metrics.csv").keys()

    model = load(folder / "checkpoints/best.ckpt")
    assert isinstance(model, PropertyModel) and model.names == ("gap",) and model.units == ("eV",)
    cli = run(["test", "--ckpt_path", str(folder / "checkpoints/best.ckpt")])
    assert Path("runs/property-quick-test/report.txt").read_text() == report
    test = cli.datamodule.sets["test"]
    batch = test.__getitems__(range(len(test)))
    found = model(batch.pos, batch.numbers, batch=batch.batch).scalars.detach()
    torch.testing.assert_close(found, cli.model.joined.scalars, rtol=1e-5, atol=1e-5)
    (errors,) = json.loads((folder / "errors.json").read_text())
    assert errors["model"] == pytest.approx(1e3 * float((found - batch.scalars).abs().mean()), rel=1e-4)
    assert errors["molecules"] == 8 and errors["atoms"] is None


def test_several_targets_and_a_vector_train_together():
    write_qm9(ROOT, energy_noise=1e-3)
    outputs = [f"{NETWORK}.out_channels", "2", f"{NETWORK}.out_vector_channels", "1"]
    cli = run(["fit", "--config", "property/quick", *TINY, "--model.init_args.targets", "[dipole,gap,U0]", *outputs])
    assert cli.model.targets == ["gap", "U0", "dipole"] and cli.model.model.units == ("eV", "eV", "D")
    report = cli.model.report()
    lines = {line.split("  ")[0]: line for line in report.splitlines()}
    assert {"MAE of gap", "MAE of U0", "MAE of dipole, length of the error"} <= lines.keys()
    known = {int(lines[f"MAE of {name}"].split()[4]) for name in ("gap", "U0")}
    assert known == {8, len([m for m in cli.datamodule.sets["test"].labels.rows if m % 3 != 0])}


def test_dipoles_turn_with_molecules_exactly_under_symmetries_of_the_grid():
    module = data(["dipole"])
    task = PropertyTask(network(out_channels=0, out_vector_channels=1), ["dipole"]).double()
    batch = module.first_batch()
    batch.pos, batch.vectors = batch.pos.double(), batch.vectors.double()
    turns = grid_symmetry(12)[torch.arange(batch.num_graphs) * 4]
    turned = task.rotate_batch(batch, turns)
    torch.testing.assert_close(turned.pos, rotate(batch.pos, turns, batch.batch))
    torch.testing.assert_close(turned.vectors[3, 0], turns[3] @ batch.vectors[3, 0])
    found, after = task(batch), task(turned)
    torch.testing.assert_close(
        after.vectors[:, 0], (turns @ found.vectors[:, 0, :, None])[..., 0], rtol=1e-9, atol=1e-10
    )
    torch.testing.assert_close(task.losses(turned)["loss"], task.losses(batch)["loss"], rtol=1e-9, atol=1e-10)
    assert found.vectors.norm(dim=-1).min() > 1e-6


def test_energies_that_are_sums_over_atoms_are_fitted_without_an_error():
    module = data(["U0"])
    model = PropertyTask(network(), ["U0"]).model
    for name in ("train", "test"):
        part = module.sets[name]
        fit = fit_atoms(model, module.sets["train"].molecules, module.sets["train"].labels, "least_squares")
        np.testing.assert_allclose(fit.references[:, 0], HARTREE * ATOMS, atol=1e-6)
        batch = part.__getitems__(range(len(part)))
        found = model.contributions(batch.numbers, batch.batch, batch.num_graphs)
        assert not torch.allclose(found, batch.scalars)
        model.set_normalization(fit.references, fit.shift, torch.ones(1))
        found = model.contributions(batch.numbers, batch.batch, batch.num_graphs)
        torch.testing.assert_close(found, batch.scalars, rtol=0, atol=1e-6)
        model.set_normalization(torch.zeros(4, 1), torch.zeros(1), torch.ones(1))


@pytest.mark.parametrize("choice", ["least_squares", "published", "none"])
def test_what_references_leave_over_has_mean_zero_and_spread_one(choice):
    module = data(["U0", "gap"], energy_noise=1e-3)
    task = PropertyTask(network(out_channels=2), ["U0", "gap"], atom_references=choice)
    train = module.sets["train"]
    normalize(task.model, train.molecules, train.labels, choice)
    batch = train.__getitems__(range(len(train)))
    rest = (batch.scalars - task.model.contributions(batch.numbers, batch.batch, batch.num_graphs)) / task.model.scale
    for column in rest.T:
        known = column[~column.isnan()]
        torch.testing.assert_close(known.mean(), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-6)
        torch.testing.assert_close(known.std(correction=0), torch.ones((), dtype=torch.float64), rtol=1e-9, atol=1e-6)
    references = task.model.references
    assert not references[:, 1].any() and bool(references[:, 0].any()) == (choice != "none")
    if choice == "published":
        torch.testing.assert_close(references[1, 0], torch.tensor(-37.846772 * HARTREE, dtype=torch.float64))


def test_labels_that_are_missing_do_not_count():
    module = data(["U0", "gap"])
    task = PropertyTask(network(out_channels=2), ["U0", "gap"])
    batch = module.first_batch()
    known = ~batch.scalars.isnan()
    assert not known.all() and known.any(1).all()
    task.model.set_normalization(torch.zeros(4, 2), torch.tensor([-1000.0, 5.0]), torch.tensor([20.0, 3.0]))
    off = ((task(batch).scalars - batch.scalars) / torch.tensor([20.0, 3.0])).abs()
    torch.testing.assert_close(task.losses(batch)["loss"].double(), off[known].mean(), rtol=1e-4, atol=1e-6)
    gradient = torch.autograd.grad(task.losses(batch)["loss"], list(task.model.network.parameters()), allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in gradient)


def test_the_loss_of_vectors_is_the_length_of_the_error_and_stays_differentiable():
    module = data(["dipole"])
    task = PropertyTask(network(out_channels=0, out_vector_channels=1), ["dipole"])
    batch = module.first_batch()
    batch.vectors[0] = torch.nan
    task.model.scale.fill_(2.0)
    off = (task(batch).vectors - batch.vectors)[1:].norm(dim=-1) / 2.0
    loss = task.losses(batch)["loss"]
    torch.testing.assert_close(loss, off.mean())
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())


def test_errors_are_means_over_known_labels():
    errors = PropertyErrors(["gap", "U0", "dipole"])
    predicted = Properties(torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64), torch.zeros(2, 1, 3))
    labels = torch.tensor([[1.5, torch.nan], [2.0, torch.nan]], dtype=torch.float64)
    errors.update(predicted, labels, torch.tensor([[[3.0, 4.0, 0.0]], [[torch.nan] * 3]]))
    found = errors.mae()
    assert found[0] == 0.75 and found[1].isnan() and found[2] == 5.0
    errors.reset()
    errors.update(Properties(predicted.scalars + 1, predicted.vectors), predicted.scalars, predicted.vectors)
    torch.testing.assert_close(errors.mae(), torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))


def test_a_batch_from_flat_arrays_is_the_batch_of_its_molecules():
    pytest.importorskip("rdkit")
    train = data(["U0", "dipole"], bonds=True).sets["train"]
    joined, collated = train.__getitems__([3, 0, 7]), collate([train[i] for i in (3, 0, 7)])
    for name in ("pos", "numbers", "scalars", "vectors", "sample", "batch", "ptr", "bond_index"):
        found, expected = joined[name], collated[name]
        if name == "bond_index":  # in another order
            found, expected = (e[:, (e[0] * 1000 + e[1]).argsort()] for e in (found, expected))
        torch.testing.assert_close(found, expected, equal_nan=True)
    assert torch.equal(*joined.batch[joined.bond_index]) and joined.bond_index.shape[1] > 4


def test_graphs_of_the_task_are_those_of_the_model():
    module = data(["gap"])
    batch = module.first_batch()
    for graph in ("full", "radius"):
        task = PropertyTask(network(), ["gap"], graph=graph, self_loops=True)
        ours = task.make_edges(batch).edge_index
        assert torch.equal(ours, task.model.edges(batch.pos, batch.batch))
        torch.testing.assert_close(task(batch).scalars, task.model(batch.pos, batch.numbers, batch=batch.batch).scalars)


def ethane_and_methane():
    """Positions in Å from tetrahedra, bond lengths 1.09 and 1.54."""
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).numpy() / 3**0.5
    methane = np.concatenate([np.zeros((1, 3)), 1.09 * corners])
    second = 1.54 * corners[:1]
    ethane = np.concatenate([np.zeros((1, 3)), second, 1.09 * corners[1:], second - 1.09 * corners[1:]])
    return Molecules.from_list([[6, 6, 1, 1, 1, 1, 1, 1], [6, 1, 1, 1, 1]], [ethane, methane])


def test_bonds_of_methane_and_ethane(tmp_path):
    pytest.importorskip("rdkit")
    molecules = ethane_and_methane()
    bonds = find_bonds(molecules)
    assert bonds.ptr.tolist() == [0, 7, 11]
    assert sorted(map(tuple, bonds.pairs[:7].tolist())) == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 5), (1, 6), (1, 7)]
    assert sorted(map(tuple, bonds.pairs[7:].tolist())) == [(0, 1), (0, 2), (0, 3), (0, 4)]
    first = load_bonds(molecules, tmp_path)
    (path,) = tmp_path.glob("bonds_2_*.npz")
    np.savez(path, pairs=first.pairs[::-1], ptr=first.ptr)
    assert np.array_equal(load_bonds(molecules, tmp_path).pairs, first.pairs[::-1])
    moved = Molecules(molecules.numbers, molecules.positions + 1.0, molecules.ptr)
    assert np.array_equal(load_bonds(moved, tmp_path).pairs, first.pairs)


def test_clouds_on_covalent_bonds_are_trained():
    pytest.importorskip("rdkit")
    write_qm9(ROOT)
    cloud = [f"{NETWORK}.mode", "cloud", f"{NETWORK}.kernel", "mlp"]
    cli = run(["fit", "--config", "property/quick", *TINY, *cloud, "--model.init_args.graph", "bonds"])
    assert cli.model.model.graph == "bonds" and len(list(ROOT.glob("bonds_*.npz"))) == 3
    assert torch.isfinite(cli.model.joined.scalars).all()


def test_bonds_without_rdkit_say_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("ponita.interfaces.rdkit")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match=r"needs RDKit, pip install 'ponita\[molecules\]'"):
        find_bonds(ethane_and_methane())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.init_args.targets", "[gapp]"], "target 'gapp' is unknown; expected some of mu, alpha"),
        (["--model.init_args.targets", "[alpha]"], "no labels to train and to test 'alpha'"),
        (["--model.init_args.targets", "[gap,homo]"], "need a network with out_channels=2, not 1"),
        (["--model.init_args.targets", "[dipole]"], "need a network with out_channels=0, not 1"),
        (["--model.init_args.atom_references", "isolated"], "atom_references='isolated'"),
        (["--model.init_args.graph", "knn"], "graph='knn'"),
        (["--data.init_args.root", "nowhere"], "no qm9.npz in nowhere"),
        (["--data.init_args.source", "pyg"], "no raw/gdb9.sdf"),
        (["--model.init_args.elements", "[1,6,7,9]"], "atomic numbers [8]"),
    ],
)
def test_mistakes_get_one_clear_message(capsys, options, message):
    write_qm9(ROOT)
    with pytest.raises(SystemExit):
        main(["fit", "--config", "property/quick", *TINY, *options])
    error = capsys.readouterr().err
    assert message in " ".join(error.split()) and "Traceback" not in error
