"""The superpixel task: batches from flat arrays, both tests, and mistakes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.digits import STROKES, write_digits, write_published
from support.tiny_runs import SUPERPIXEL
from torchmetrics.classification import MulticlassConfusionMatrix

from ponita import Ponita
from ponita.data import collate
from ponita.geometry import EdgeSet, random_rotations
from ponita.nn import calibrate
from ponita.tasks import runs
from ponita.tasks.cli import main, run
from ponita.tasks.pictures import read_metrics
from ponita.tasks.superpixel import SuperpixelDataModule, SuperpixelTask
from ponita.tasks.superpixel.pictures import draw_confusion

NETWORK = "--model.init_args.model.init_args"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(runs.VARIABLE, raising=False)


def data(**options):
    write_digits(Path("digits"))
    module = SuperpixelDataModule(mnist_folder="digits", num_valid=6, **{"radius": 7.0, "batch_size": 5, **options})
    module.setup("fit")
    return module


def task(**options):
    network = {"hidden_channels": 8, "basis_channels": 8, "num_layers": 2, "num_orientations": 8}
    return SuperpixelTask(Ponita(1, out_channels=10, space="R2xS1", **network), **options)


def is_png(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5000


def test_a_run_from_images_to_pictures(capsys):
    write_digits(Path("digits"))
    main(["fit", *SUPERPIXEL])
    folder = Path("runs/superpixel-quick")
    assert is_png(folder / "confusion.png") and is_png(folder / "learning_curve.png")
    report = (folder / "report.txt").read_text()
    assert report.strip() in capsys.readouterr().out
    assert "SLIC of scikit-image" in report and "each turned at random" in report
    curves = read_metrics(folder / "metrics.csv")
    assert {"train/loss", "train/error", "valid/accuracy", "test/accuracy", "test/accuracy_rotated"} <= curves.keys()
    assert Path("data/mnist/superpixels_slic.npz").is_file()

    main(["test", "--ckpt_path", str(folder / "checkpoints/best.ckpt")])
    assert Path("runs/superpixel-quick-test/report.txt").read_text() == report
    main(["predict", "--ckpt_path", str(folder / "checkpoints/best.ckpt")])


def test_the_published_file_is_trained_on_where_it_lies():
    write_published(Path("data/mnist/raw/MNISTSuperpixels.pt"), counts=(12, 4))
    write_digits(Path("digits"))
    cli = run(["fit", *SUPERPIXEL, f"{NETWORK}.cutoff", "40", "--trainer.max_epochs", "1"])
    assert "the published MNISTSuperpixels" in cli.model.report()


def test_a_network_learns_three_digits_and_knows_them_turned():
    batch, classifier = data(batch_size=18).first_batch(), task(self_loops=False)
    calibrate(classifier.model, classifier.model_inputs(batch))
    optimizer = torch.optim.Adam(classifier.parameters(), lr=2e-2)
    for _ in range(40):
        turned = classifier.rotate_batch(batch, random_rotations(18, dim=2))
        optimizer.zero_grad()
        classifier.losses(turned)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(classifier.parameters(), 0.5)
        optimizer.step()
    turned = classifier.rotate_batch(batch, random_rotations(18, dim=2))
    errors = [float(classifier.losses(graphs)["error"]) for graphs in (batch, turned)]
    assert max(errors) < 0.2, errors


def test_a_batch_from_flat_arrays_is_the_batch_of_its_graphs():
    train = data().sets["train"]
    joined, collated = train.__getitems__([3, 0, 7]), collate([train[i] for i in (3, 0, 7)])
    for name in ("pos", "x", "edge_index", "y", "sample", "batch", "ptr"):
        found, expected = joined[name], collated[name]
        if name == "edge_index":  # in another order
            found, expected = (e[:, (e[0] * 10**6 + e[1]).argsort()] for e in (found, expected))
        assert torch.equal(found, expected), name
    assert joined.num_graphs == 3 and joined.sample.tolist() == [3, 0, 7]
    assert joined.y.tolist() == [list(STROKES)[row % 3] for row in train.rows[[3, 0, 7]]]
    assert EdgeSet.from_edge_index(joined.edge_index, len(joined.pos)).is_symmetric
    length = (joined.pos[joined.edge_index[0]] - joined.pos[joined.edge_index[1]]).norm(dim=1)
    assert length.min() > 0 and length.max() < 7.0 + 1e-5
    assert torch.equal(joined.batch[joined.edge_index[0]], joined.batch[joined.edge_index[1]])


def test_the_loader_joins_the_graphs_the_sampler_chose():
    module = data()
    loader = module.train_dataloader()
    loader.sampler.set_epoch(0)
    order = list(loader.sampler)
    batches = list(loader)
    assert torch.cat([batch.sample for batch in batches]).tolist() == order
    assert [batch.num_graphs for batch in batches] == [5, 5, 5, 3]
    assert torch.equal(module.first_batch().sample, torch.arange(5))


def test_validation_images_are_a_seeded_choice_apart_from_training():
    first, again, other = data(), data(), data(split_seed=1)
    rows = [
        {name: set(module.sets[name].rows.tolist()) for name in ("train", "valid")} for module in (first, again, other)
    ]
    assert rows[0] == rows[1] != rows[2]
    assert len(rows[0]["valid"]) == 6 and rows[0]["train"] | rows[0]["valid"] == set(range(24))
    assert not rows[0]["train"] & rows[0]["valid"]


def test_the_unit_scales_positions_of_all_parts_and_nothing_else():
    pixels, units = data(), data(unit=3.5)
    for name in ("train", "valid", "test"):
        in_pixels, scaled = (module.sets[name].__getitems__([0, 1]) for module in (pixels, units))
        torch.testing.assert_close(3.5 * scaled.pos, in_pixels.pos)
        assert torch.equal(scaled.edge_index, in_pixels.edge_index) and torch.equal(scaled.x, in_pixels.x)


def test_turning_moves_positions_alone_and_a_symmetry_of_the_grid_changes_nothing():
    batch, classifier = data().first_batch(), task().double()
    batch.pos, batch.x = batch.pos.double(), batch.x.double()
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64).expand(5, 2, 2)
    turned = classifier.rotate_batch(batch, quarter)
    torch.testing.assert_close(turned.pos, torch.stack([-batch.pos[:, 1], batch.pos[:, 0]], dim=1))
    assert torch.equal(turned.x, batch.x) and torch.equal(turned.edge_index, batch.edge_index)
    torch.testing.assert_close(classifier(turned), classifier(batch), rtol=1e-9, atol=1e-9)
    angles = random_rotations(5, dim=2, dtype=torch.float64)
    assert not torch.allclose(classifier(classifier.rotate_batch(batch, angles)), classifier(batch), rtol=1e-9)


def test_loss_is_the_negative_log_likelihood_and_loops_are_added():
    batch, classifier = data().first_batch(), task()
    losses = classifier.losses(batch)
    logits = classifier(batch)
    torch.testing.assert_close(losses["loss"], -logits.log_softmax(1)[torch.arange(5), batch.y].mean())
    assert float(losses["error"]) == float((logits.argmax(1) != batch.y).float().mean())
    edges = classifier.model_inputs(batch)["edge_index"].edge_index
    assert int((edges[0] == edges[1]).sum()) == len(batch.pos)
    alone = task(self_loops=False).model_inputs(batch)["edge_index"]
    assert alone.is_symmetric and alone.num_edges == batch.edge_index.shape[1] == edges.shape[1] - len(batch.pos)


def test_both_tests_count_what_the_network_says(monkeypatch):
    """A network that answers by the first coordinate is right as given, and wrong on what is turned."""
    write_digits(Path("digits"))
    seen = []

    def by_position(self, batch):
        right = torch.nn.functional.one_hot(batch.y, 10).float()
        as_given = bool((batch.pos >= 0).all())
        seen.append(batch.pos.clone())
        return right if as_given else right.roll(1, dims=1)

    monkeypatch.setattr(SuperpixelTask, "forward", by_position)
    cli = run(["test", *SUPERPIXEL])
    assert float(cli.trainer.callback_metrics["test/accuracy"]) == 1.0
    assert float(cli.trainer.callback_metrics["test/accuracy_rotated"]) == 0.0
    counts = cli.model.tested
    assert all(int(matrix.sum()) == 9 for matrix in counts.values())
    first = [pos.clone() for pos in seen]
    seen.clear()
    run(["test", *SUPERPIXEL])
    assert all(torch.equal(a, b) for a, b in zip(first, seen, strict=True))


def test_confusion_matrices_are_drawn_with_true_classes_as_rows(tmp_path):
    matrix = MulticlassConfusionMatrix(10)
    matrix.update(torch.tensor([1, 1, 2]), torch.tensor([1, 0, 2]))
    assert int(matrix.compute()[0, 1]) == 1
    draw_confusion(tmp_path / "confusion.png", {"as given": matrix.compute()})
    assert is_png(tmp_path / "confusion.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [f"{NETWORK}.space", "R3xS2"],
            "SuperpixelTask needs a network on a plane, space='R2xS1' or 'R2', not 'R3xS2'",
        ),
        ([f"{NETWORK}.out_channels", "9"], "SuperpixelTask needs a network with out_channels=10, not 9"),
        (["--data.init_args.mnist_folder", "nowhere"], "no MNIST in nowhere"),
        (["--data.init_args.source", "slick"], "source='slick'"),
        (["--data.init_args.num_valid", "24"], "num_valid=24 of 24 training images leaves none"),
        (["--data.init_args.num_valid", "0"], "num_valid=0"),
        (["--data.init_args.unit", "0"], "unit=0"),
    ],
)
def test_mistakes_get_one_clear_message(capsys, options, message):
    write_digits(Path("digits"))
    with pytest.raises(SystemExit):
        main(["fit", *SUPERPIXEL, *options])
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_network_that_does_not_pool_is_refused():
    with pytest.raises(ValueError, match="pooling='sum' or 'mean', not None"):
        SuperpixelTask(Ponita(1, out_channels=10, space="R2", pooling=None))


def test_drawn_digits_are_what_the_tests_take_them_for():
    """The stand-in for MNIST: images that differ, in the range of grey levels."""
    train = data().sets["train"]
    assert np.isclose(float(train.grey.max()), 1, atol=0.1) and len(torch.unique(train.labels)) == 3
