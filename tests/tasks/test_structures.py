"""Potentials of any structures: runs on files, what is refused, and that nothing depends on how batches are made."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from support.atoms import CONFIG, crystals, molecules, write_crystals

from ponita import Ponita
from ponita.data import Keys, LmdbStructures, Split, Units, from_ase, read_structures, to_lmdb
from ponita.data.units import GPA, HARTREE
from ponita.geometry import grid_symmetry
from ponita.models import EnergyForces, EnergyForcesStress, load
from ponita.tasks import runs
from ponita.tasks.cli import main, run
from ponita.tasks.potential import EnergyForceTask, StructureDataModule
from ponita.tasks.potential.metrics import PotentialErrors
from ponita.tasks.potential.structure_set import StructureSet, complete_cells
from ponita.training import LossWeights


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(runs.VARIABLE, raising=False)


def config(data: dict, epochs: int = 2, **changes) -> list[str]:
    """Words of a run with these data; changes of the task by name."""
    settings = yaml.safe_load(CONFIG.format(data=yaml.safe_dump(data, default_flow_style=True), epochs=epochs))
    network = changes.pop("network", {})
    settings["model"]["init_args"]["model"]["init_args"] |= network
    settings["model"]["init_args"] |= changes
    Path("run.yaml").write_text(yaml.safe_dump(settings))
    return ["fit", "--config", "run.yaml"]


def network(**changes) -> Ponita:
    options = {"hidden_channels": 8, "basis_channels": 8, "num_layers": 2, "num_orientations": 12, "cutoff": 3.5}
    return Ponita(2, **{**options, **changes})


def task(**options) -> EnergyForceTask:
    weights = options.pop("loss_weights", LossWeights(1.0, 1.0, 1.0, energy_per_atom=True))
    return EnergyForceTask(options.pop("model", None) or network(), [29, 79], weights, self_loops=False, **options)


def loss_of(potential_task, batch):
    batch = batch.clone()
    return float(potential_task.losses(batch)["loss"].detach())


def test_crystals_from_a_file_to_a_report(capsys):
    write_crystals(Path("train.xyz"), 12)
    write_crystals(Path("test.xyz"), 5, seed=7)
    data = {"train": "train.xyz", "test": "test.xyz", "split": {"valid_groups": ["run3"]}, "batch_size": 4}
    cli = run(config(data))
    folder = Path("runs/run")
    report = (folder / "report.txt").read_text()
    assert "stress MAE (GPa)" in report and "run0" in report and "forces on" in report and "Au" in report
    assert (folder / "parity.png").read_bytes()[:4] == b"\x89PNG"
    assert cli.model.errors["test"].groups == ("run0", "run1", "run2", "run3")
    assert cli.model.error_tables["energy"].count.tolist() == [2, 1, 1, 1]
    described = (folder / "data.txt").read_text()
    assert "train.xyz: 12 structures of 72 atoms" in described and "least squares over 9 structures" in described
    with (folder / "metrics.csv").open() as file:
        names = set(csv.DictReader(file).fieldnames)
    assert {"valid/energy_per_atom_mae", "valid/stress_mae", "train/stress", "test/forces_mae_Cu"} <= names
    assert {"test/energy_per_atom_rmse", "test/forces_rmse", "test/stress_mae", "test/stress_mae_ev"} <= names

    best = folder / "checkpoints/best.ckpt"
    potential, test = load(best), read_structures("test.xyz")
    references = cli.model.references["default"].energies
    assert potential.reference_energies[0].tolist() == pytest.approx([references[29], references[79]])
    errors = []
    for k, atoms in enumerate(crystals(5, seed=7)):
        pos, cell = torch.from_numpy(atoms.positions).float(), torch.from_numpy(atoms.cell.array).float()
        energy = potential.energy_forces(pos, torch.from_numpy(atoms.numbers).long(), cell=cell[None]).energy
        errors.append(abs(float(energy) - test.energy[k]) / len(atoms))
    measured = float(cli.trainer.callback_metrics["test/energy_per_atom_mae"])
    assert measured == pytest.approx(1000 * np.mean(errors), rel=1e-3)
    main(["test", "--ckpt_path", str(best)])
    assert Path("runs/run-test/report.txt").read_text() == report
    main(["predict", "--ckpt_path", str(best)])


def test_a_potential_learns_energies_forces_and_stresses_of_crystals():
    write_crystals(Path("train.xyz"), 24)
    data = {"train": "train.xyz", "split": {"valid": 4}, "batch_size": 4}
    cli = run(config(data, epochs=40, network={"hidden_channels": 16, "basis_channels": 16}))
    metrics = cli.trainer.callback_metrics
    s = cli.datamodule.sets["valid"].structures
    assert float(metrics["test/forces_rmse"]) < 0.35 * 1000 * np.sqrt((s.forces**2).mean())
    assert float(metrics["test/stress_mae"]) < 0.5 * np.abs(s.stress).mean() / GPA
    assert "validation set (there is no test set)" in cli.model.report()


def test_molecules_of_several_compositions_without_a_cutoff_and_with_missing_labels():
    frames = molecules(12)
    frames[4].calc = SinglePointCalculator(frames[4], energy=frames[4].calc.results["energy"])
    write("train.xyz", frames, format="extxyz")
    data = {"train": "train.xyz", "split": {"valid": 3}, "batch_size": 4}
    weights = {"energy": 1.0, "forces": 1.0}
    changes = {"network": {"cutoff": None, "kernel": "mlp"}, "loss_weights": weights}
    with pytest.warns(
        UserWarning, match="1 of 9 training structures have no forces: that term of the loss leaves them"
    ):
        cli = run(config(data, epochs=1, **changes))
    assert float(cli.trainer.callback_metrics["test/forces_mae"]) > 0
    assert "stress" not in cli.model.report()


@pytest.mark.parametrize("frames", [crystals(6), molecules(6), [*crystals(3), *molecules(3)]], ids=["c", "m", "mixed"])
def test_batches_are_the_same_however_they_are_made(frames):
    to_lmdb(from_ase(frames), "s.lmdb")
    potential_task, batches = task(), []
    for structures, now in ((from_ase(frames), True), (from_ase(frames), False), (LmdbStructures("s.lmdb"), True)):
        part = StructureSet(structures, np.array([5, 2, 0, 4, 1]))
        part.list_neighbors(3.5, False, now)
        assert (part.table is not None) == (now and isinstance(structures, type(from_ase(frames))))
        batches.append(part.__getitems__([3, 0, 2]))
    unlisted = StructureSet(from_ase(frames), np.array([5, 2, 0, 4, 1])).__getitems__([3, 0, 2])
    for batch in batches[1:]:
        assert all(torch.equal(batch[name], batches[0][name]) for name in ("pos", "neighbors", "reverse", "energy"))
    assert batches[0].num_graphs == 3 and batches[0].sample.tolist() == [3, 0, 2]
    losses = [loss_of(potential_task, batch) for batch in (*batches, unlisted)]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)
    edges = potential_task.make_edges(batches[0].clone())
    assert edges.is_symmetric and edges.num_two_way == edges.num_edges // 2


def test_what_stands_alone_in_a_batch_is_what_it_is_together():
    part = StructureSet(from_ase([*crystals(2), *molecules(2), Atoms("Cu")]))
    part.list_neighbors(3.5, False)
    potential_task = task(model=network(kernel="spline"))
    together = potential_task(part.__getitems__(range(5)))
    for k in range(5):
        alone = potential_task(part[k])
        torch.testing.assert_close(alone.energy[0], together.energy[k], rtol=1e-5, atol=1e-5)
        rows = slice(part.structures.ptr[k], part.structures.ptr[k + 1])
        torch.testing.assert_close(alone.forces, together.forces[rows], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(alone.stress[0], together.stress[k], rtol=1e-3, atol=1e-4)


def test_turning_a_batch_turns_cells_forces_and_stresses():
    part = StructureSet(from_ase(crystals(3)))
    part.list_neighbors(3.5, False)
    batch, potential_task = part.__getitems__(range(3)), task()
    turn = grid_symmetry(12)[17].float().expand(3, 3, 3)
    turned = potential_task.rotate_batch(batch, turn)
    torch.testing.assert_close(turned.cell[0, 1], turn[0] @ batch.cell[0, 1])
    torch.testing.assert_close(turned.forces[0], turn[0] @ batch.forces[0])
    torch.testing.assert_close(turned.stress[1], turn[0] @ batch.stress[1] @ turn[0].T)
    assert loss_of(potential_task, turned) == pytest.approx(loss_of(potential_task, batch), rel=1e-4)
    averaged = task(test_rotations=2)
    averaged.model.load_state_dict(potential_task.model.state_dict())
    averaged._generator = torch.Generator().manual_seed(0)
    mean, once = averaged._averaged(batch), potential_task(batch)
    assert (mean.stress - once.stress).abs().max() < 0.3 * once.stress.abs().max()


def test_a_database_trains_like_the_file_it_was_packed_from():
    write_crystals(Path("train.xyz"), 12)
    main(["data", "pack", "train.xyz", "--out", "train.lmdb"])
    losses = []
    for file in ("train.xyz", "train.lmdb"):
        data = {"train": file, "split": {"valid": 3, "by": "structure"}, "batch_size": 4}
        cli = run([*config(data), "--run_dir", file.replace(".", "_")])
        losses.append([float(cli.trainer.callback_metrics[f"test/{name}_mae"]) for name in ("energy", "forces")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert isinstance(cli.datamodule.sets["train"].structures, LmdbStructures)


def test_keys_and_units_of_a_file_are_those_declared():
    frames = crystals(12)
    write("plain.xyz", frames, format="extxyz")
    for atoms in frames:
        results = atoms.calc.results
        atoms.info |= {"E": results["energy"] / HARTREE, "virial": -results["stress"][[0, 5, 4, 5, 1, 3, 4, 3, 2]]}
        atoms.info["virial"] = atoms.info["virial"] * atoms.get_volume() / HARTREE
        atoms.arrays["F"] = results["forces"] / HARTREE
        atoms.calc = None
    write("named.xyz", frames, format="extxyz")
    options = {"keys": Keys(energy="E", forces="F"), "units": Units(energy="Ha")}
    sets = []
    for file, more in (("plain.xyz", {}), ("named.xyz", options)):
        module = StructureDataModule(file, split=Split(valid=2), **more)
        module.setup("fit")
        sets.append(module.sets["train"].__getitems__(range(10)))
    for name in ("energy", "forces", "stress"):
        torch.testing.assert_close(sets[0][name], sets[1][name], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"neither energies nor forces under the usual names; it holds .*info\[E\]"):
        StructureDataModule("named.xyz", split=Split(valid=2)).setup("fit")


def test_levels_of_theory_are_heads_with_references_of_their_own():
    frames = crystals(12)
    write("low.xyz", frames, format="extxyz")
    for atoms in frames:
        atoms.calc.results["energy"] -= 100.0 * len(atoms)
    write("high.xyz", frames, format="extxyz")
    data = {"train": ["low.xyz", "high.xyz"], "heads": {"low.xyz": "emt", "high.xyz": "cc"}, "split": {"valid": 4}}
    cli = run(config(data, heads=["cc", "emt"], network={"out_channels": 2}))
    high, low = cli.model.model.reference_energies
    torch.testing.assert_close(low - high, torch.full((2,), 100.0, dtype=torch.float64), rtol=0.05, atol=0)
    assert float(cli.trainer.callback_metrics["test/energy_per_atom_mae"]) < 5000
    batch = cli.datamodule.first_batch()
    expected = torch.tensor([["cc", "emt"].index(name) for name in batch.head])
    assert torch.equal(cli.model._complete(batch).head, expected) and expected.unique().numel() == 2
    potential = load("runs/run/checkpoints/best.ckpt")
    assert potential.heads == ("cc", "emt")


def test_isolated_atoms_are_references_and_the_network_starts_at_the_cohesive_energy():
    frames = [*molecules(12), *(Atoms([z]) for z in (29, 79))]
    for atoms, energy in zip(frames[-2:], (-3.0, -4.0), strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
    write("train.xyz", frames[:-2], format="extxyz")
    write("atoms.xyz", frames[-2:], format="extxyz")
    for atoms in frames[:-2]:
        atoms.calc.results["energy"] -= sum({29: 7.0, 79: 8.0}[z] for z in atoms.numbers)
    write("shifted.xyz", frames[:-2], format="extxyz")
    data = {"train": "shifted.xyz", "isolated_atoms": "atoms.xyz", "split": {"valid": 3}}
    weights = {"energy": 1.0, "forces": 1.0}
    cli = run(config(data, epochs=1, reference_energies="isolated", loss_weights=weights))
    potential, found = cli.model.model, cli.model.references["default"]
    assert potential.reference_energies[0].tolist() == [-3.0, -4.0] and float(potential.shift) == 0
    assert -5 < found.residual_mean < -3.9 and found.source == "isolated atoms"
    biases = [readout.linear.bias[0] for readout in potential.network.readouts.values()]
    assert all(float(potential.scale * bias.detach()) < -3 for bias in biases)
    given = run(config(data, epochs=1, reference_energies={"Cu": -3.0, "Au": -4.0}, loss_weights=weights))
    assert torch.equal(given.model.model.reference_energies, potential.reference_energies)


def test_errors_are_grouped_and_unknown_labels_do_not_count():
    errors, batch = PotentialErrors([29, 79], ("a", "b")), torch.tensor([0, 0, 1, 2, 2])
    generator = torch.Generator().manual_seed(0)
    shapes = ((3,), (5, 3), (3, 3, 3))
    predicted, true = (
        EnergyForcesStress(*(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes))
        for _ in range(2)
    )
    true.energy[1], true.forces[2], true.stress[:2] = float("nan"), float("nan"), float("nan")
    element, group = torch.tensor([0, 1, 0, 1, 1]), torch.tensor([0, 1, 1])
    errors.update(predicted, true, batch, element, group)
    values = errors.values()
    difference = [p - t for p, t in zip(predicted, true, strict=True)]
    known = difference[0][[0, 2]] / torch.tensor([2.0, 2.0])
    assert float(values["energy_per_atom_mae"]) == pytest.approx(1000 * float(known.abs().mean()))
    assert float(values["energy_rmse"]) == pytest.approx(1000 * float((2 * known).square().mean().sqrt()))
    assert float(values["forces_mae_Au"]) == pytest.approx(1000 * float(difference[1][[1, 3, 4]].abs().mean()))
    assert float(values["stress_mae"]) == pytest.approx(float(difference[2][2].abs().mean()) / GPA)
    assert float(values["stress_mae_ev"]) == pytest.approx(float(difference[2][2].abs().mean()))
    tables = errors.tables()
    assert tables["energy"].count.tolist() == [1, 1] and tables["forces"].count.tolist() == [6, 6]
    assert float(tables["forces"].mae[1]) == pytest.approx(1000 * float(difference[1][3:].abs().mean()))
    errors.reset()
    bad = EnergyForces(torch.full((3,), float("nan")), predicted.forces)
    errors.update(bad, EnergyForces(*predicted[:2]), batch, element, group)
    assert errors.values()["energy_mae"].isnan()  # a prediction that is NaN is not hidden


def test_cells_are_completed_where_nothing_repeats():
    cell = np.zeros((3, 3, 3))
    cell[1, :2] = [[2, 0, 0], [1, 3, 0]]
    cell[2] = np.eye(3) * 4
    pbc = np.array([[False] * 3, [True, True, False], [True] * 3])
    completed = complete_cells(cell, pbc)
    assert np.allclose(np.abs(np.linalg.det(completed)), [1, 6, 64])
    assert np.array_equal(completed[1, :2], cell[1, :2]) and abs(completed[1, 2, 2]) == pytest.approx(1)


def fail(capsys, args) -> str:
    with pytest.raises(SystemExit):
        main(args)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_total_energies_of_several_compositions_need_a_choice(capsys):
    write_crystals(Path("train.xyz"))
    data = {"train": "train.xyz", "split": {"valid": 2}}
    error = fail(capsys, config(data, reference_energies=None))
    assert "no reference energies were chosen, and the training set has" in error
    assert "--model.init_args.reference_energies isolated" in error and "least_squares, or numbers in eV" in error
    assert "'mean' is for one composition" in fail(capsys, config(data, reference_energies="mean"))
    assert "no isolated atoms of Cu, Au" in fail(capsys, config(data, reference_energies="isolated"))
    assert "expected one of ['isolated'" in fail(capsys, config(data, reference_energies="none"))
    assert "has no energy of Au" in fail(capsys, config(data, reference_energies={"Cu": 1.0}))


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        ({}, {}, "there is nothing to validate on"),
        ({"valid": "train.xyz", "split": {"valid": 2}}, {}, "data.valid names files, and data.split takes structures"),
        ({"split": {"valid_groups": ["x"]}}, {}, "no group is called 'x'; there are 'run0', 'run1'"),
        ({"split": {"valid": 2}, "report_by": "x"}, {}, "report_by='x'"),
        ({"split": {"valid": 2}, "heads": {"x.xyz": "a"}}, {}, "data.heads names 'x.xyz', which is none of the files"),
        ({"split": {"valid": 2}, "heads": {"train.xyz": "a"}}, {}, "levels of theory ['a']; the potential has heads"),
        ({"split": {"valid": 2}}, {"elements": [29, 78]}, "train.xyz, structure 1 is the first that has Au"),
        ({"split": {"valid": 2}}, {"network": {"cutoff": None, "kernel": "mlp"}}, "need a network with a cutoff"),
        ({"split": {"valid": 2}, "keys": {"energy": "E"}}, {}, "no structure has energy under 'E'; it holds"),
        ({"split": {"valid": 2}, "train": "none.xyz"}, {}, "no file of structures at none.xyz"),
        ({"split": {"valid": 2}, "units": {"energy": "GPa"}}, {}, "the unit 'GPa' is energy^1 length^-3"),
    ],
)
def test_mistakes_get_one_clear_message(capsys, data, changes, message):
    write_crystals(Path("train.xyz"))
    assert message in fail(capsys, config({"train": "train.xyz", **data}, **changes))


def test_labels_the_loss_wants_and_nobody_has_are_an_error(capsys):
    frames = crystals(12)
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.calc.results["energy"])
    write("train.xyz", frames, format="extxyz")
    data = {"train": "train.xyz", "split": {"valid": 2}}
    error = fail(capsys, config(data))
    assert "loss_weights.forces=1, but none of the 10 training structures has forces; set the weight to 0" in error
    energies = config(data, epochs=1, loss_weights={"energy": 1.0, "forces": 0.0})
    run([*energies, "--best.monitor", "valid/energy_mae", "--run_dir", "energies"])
    assert "F MAE" not in Path("energies/report.txt").read_text()


def test_faults_of_the_files_are_told_before_training(capsys):
    frames = crystals(24)
    forces = frames[5].calc.results["forces"]
    forces[0], forces[1] = forces[0] + 1e4, forces[1] - 1e4
    write("train.xyz", frames, format="extxyz")
    write("test.xyz", [*crystals(3, seed=3), frames[0]], format="extxyz")
    data = {"train": "train.xyz", "test": "test.xyz", "split": {"valid_indices": [20, 21]}}
    with pytest.warns(UserWarning) as caught:
        run(config(data, epochs=1))
    messages = [str(w.message) for w in caught]
    assert any("huge forces: 1 structures" in m and "train.xyz, structure 5" in m for m in messages)
    assert any("1 of 4 structures of the test set are in the training set too" in m for m in messages)
    module = StructureDataModule("train.xyz", split=Split(valid_indices=[20]), max_force=1000.0)
    module.setup("fit")
    assert len(module.sets["train"]) == 22 and 5 not in module.sets["train"].structures.index
    frames[3].cell[2] = frames[3].cell[1]
    write("train.xyz", frames, format="extxyz")
    error = fail(capsys, config(data))
    assert "flat cell: 1 structures" in error and "train.xyz, structure 3" in error


def test_energies_in_another_unit_are_told_before_training():
    frames = crystals(12)
    for atoms in frames:
        atoms.calc.results["energy"] = -3e5 * len(atoms)
    write("train.xyz", frames, format="extxyz")
    with pytest.warns(UserWarning, match=r"valid set: unit of energy: energies are 3e\+05 eV an atom in size"):
        StructureDataModule("train.xyz", split=Split(valid_indices=[3])).setup("validate")


def test_a_data_module_alone_reads_what_a_stage_needs():
    write_crystals(Path("train.xyz"), 12)
    write_crystals(Path("test.xyz"), 4, seed=5)
    module = StructureDataModule("train.xyz", test="test.xyz", split=Split(valid=0.25, seed=3))
    module.setup("test")
    assert set(module.sets) == {"test"} and module.sets["test"].labels == ("run0", "run1", "run2", "run3")
    module.setup("fit")
    assert [len(module.sets[part]) for part in ("train", "valid", "test")] == [9, 3, 4]
    batch = next(iter(module.val_dataloader()))
    assert batch.num_graphs == 3 and "neighbors" not in batch and batch.label.tolist() == [0, 0, 0]


def test_the_weight_of_energies_follows_the_training():
    write_crystals(Path("a.xyz"), 12)
    task = run(config({"train": "a.xyz", "split": {"valid": 3}}, epochs=1, reference_energies="least_squares")).model
    assert task.progress == 1
    task.loss_weights = LossWeights(energy=0.5, energy_growth=4.0)
    assert task.loss_weights.at(task.progress).energy == 2.0
    losses = task.losses(task.trainer.datamodule.first_batch())
    weighted = sum(weight * losses[name] for name, weight in (("energy", 2.0), ("forces", 1.0)))
    torch.testing.assert_close(losses["loss"], weighted)
