"""Superpixel graphs: centroids and greys of known pictures, symmetric edges, caches that are whole or refused."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from support.digits import STROKES, draw_digit, idx_bytes, write_digits, write_published

from ponita.data import published_superpixels, superpixels
from ponita.data.idx import read_idx
from ponita.data.superpixel_graphs import SuperpixelGraphs, neighbors, pairs_of_edges, segment
from ponita.data.superpixels import load_superpixels


def load(root: Path, mnist: Path | None = None, **options: object) -> dict[str, SuperpixelGraphs]:
    return load_superpixels(root, mnist, progress=False, download=False, **options)


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    return write_digits(tmp_path / "mnist")


def test_two_rectangles_have_the_centroids_and_greys_of_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut in halves of 12 and 16 columns, whose centres are known; y counts rows."""
    monkeypatch.setattr("ponita.data.superpixel_graphs.NUM_SEGMENTS", 2)
    image = np.zeros((20, 28), dtype=np.uint8)
    image[:, :12], image[:, 12:] = 255, 51
    positions, grey = segment(image)
    order = positions[:, 0].argsort()
    np.testing.assert_allclose(positions[order], [[5.5, 9.5], [19.5, 9.5]], atol=1e-6)
    np.testing.assert_allclose(grey[order], [1.0, 0.2], atol=1e-6)
    assert positions.dtype == grey.dtype == np.float32


def test_superpixels_of_a_digit_keep_its_mass_and_centre() -> None:
    image = draw_digit(7, np.random.RandomState(0))
    positions, grey = segment(image)
    assert 60 <= len(positions) <= 90 and grey.min() >= 0 and grey.max() <= 1
    assert positions.min() >= 0 and positions.max() <= 27
    bright = positions[grey > 0.5]
    y, x = np.nonzero(image > 127)
    assert np.abs(bright.mean(0) - [x.mean(), y.mean()]).max() < 1.5
    # Every superpixel of the stroke lies on it: transposed coordinates would not.
    assert all(np.hypot(x - px, y - py).min() < 1.5 for px, py in bright)


def test_neighbours_are_those_of_brute_force_within_graphs_and_each_once() -> None:
    rng = np.random.RandomState(0)
    counts = [7, 1, 12, 9]
    positions = (10 * rng.rand(sum(counts), 2)).astype(np.float32)
    positions[3] = positions[5]  # coincident points have no direction and are not linked
    offsets = np.concatenate([[0], np.cumsum(counts)])
    pairs, pair_offsets = neighbors(positions, offsets, 4.0)
    for g, n in enumerate(counts):
        own = positions[offsets[g] : offsets[g + 1]]
        distance = np.linalg.norm(own[:, None] - own[None], axis=-1)
        expected = {(i, j) for i in range(n) for j in range(i + 1, n) if 0 < distance[i, j] < 4}
        found = [tuple(pair) for pair in pairs[pair_offsets[g] : pair_offsets[g + 1]].tolist()]
        assert set(found) == expected and len(found) == len(expected)
    assert pair_offsets[-1] == len(pairs) > 10


def test_many_graphs_are_linked_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.RandomState(1)
    offsets = np.concatenate([[0], np.cumsum(rng.randint(1, 9, size=25))])
    positions = (5 * rng.rand(offsets[-1], 2)).astype(np.float32)
    whole = neighbors(positions, offsets, 2.5)
    monkeypatch.setattr("ponita.data.superpixel_graphs.CHUNK", 4)
    assert all(np.array_equal(a, b) for a, b in zip(whole, neighbors(positions, offsets, 2.5), strict=True))


def test_edges_of_one_direction_become_pairs_without_loops() -> None:
    edges = np.array([[0, 1, 3, 2, 2, 3], [1, 0, 1, 2, 3, 2]])
    positions = np.array([[0, 0], [1, 0], [2, 2], [2, 2]], dtype=np.float32)  # 2 and 3 coincide
    assert pairs_of_edges(edges, positions).tolist() == [[0, 1], [1, 3]]


def test_images_become_graphs_once_and_the_cache_is_enough(mnist: Path, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    first = load(root, mnist, radius=7.0)
    assert [len(first[part]) for part in ("train", "test")] == [24, 9]
    assert first["train"].labels.tolist() == [list(STROKES)[k % 3] for k in range(24)]
    assert "SLIC of scikit-image" in first["train"].source and "radius 7" in first["train"].source
    assert first["test"].offsets[-1] == len(first["test"].grey) == len(first["test"].positions)
    assert sorted(p.name for p in root.iterdir()) == ["superpixels_slic.npz", "superpixels_slic_radius7.npz"]

    again = load(root, radius=7.0)
    wider = load(root, radius=9.0)
    for part in ("train", "test"):
        same = ("positions", "grey", "offsets", "labels", "pairs", "pair_offsets")
        assert all(np.array_equal(getattr(first[part], name), getattr(again[part], name)) for name in same)
        assert len(wider[part].pairs) > len(first[part].pairs)


def test_an_interrupted_making_leaves_nothing_behind(
    mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    root = tmp_path / "cache"
    monkeypatch.setattr(superpixels.np, "savez", stopped)
    with pytest.raises(KeyboardInterrupt):
        load(root, mnist)
    assert list(root.iterdir()) == []
    monkeypatch.undo()
    assert len(load(root, mnist)["train"]) == 24


def test_a_cache_that_is_cut_short_damaged_or_of_something_else_is_refused(mnist: Path, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    load(root, mnist, radius=7.0)
    for path in root.iterdir():
        whole = path.read_bytes()
        middle = len(whole) // 2
        for content in (whole[:1000], whole[:middle] + b"\xff\xfe\xfd" + whole[middle + 3 :]):
            path.write_bytes(content)
            with pytest.raises(ValueError, match=f"{path.name}.*delete it and it is made again"):
                load(root, mnist, radius=7.0)
        path.write_bytes(whole)
    load(root, mnist, radius=7.0)


@pytest.mark.parametrize(
    ("name", "value"), [("labels", np.arange(3)), ("grey", np.ones(4, np.float32)), ("positions", None)]
)
def test_a_cache_whose_arrays_do_not_fit_is_refused(
    mnist: Path, tmp_path: Path, name: str, value: np.ndarray | None
) -> None:
    load(tmp_path, mnist)
    path = tmp_path / "superpixels_slic.npz"
    with np.load(path) as stored:
        arrays = {key: stored[key] for key in stored}
    changed = {key: array for key, array in arrays.items() if key != f"train_{name}"}
    np.savez(path, **changed, **({} if value is None else {f"train_{name}": value}))
    with pytest.raises(ValueError, match="does not hold the superpixels its name promises"):
        load(tmp_path, mnist)
    np.savez(path, **{key: array for key, array in arrays.items() if key != "parameters"})
    with pytest.raises(ValueError, match="does not hold superpixels"):
        load(tmp_path, mnist)


def test_a_cache_of_other_images_another_scikit_image_or_other_nodes_is_refused(
    mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "cache"
    load(root, mnist, radius=7.0)
    other = write_digits(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="was made with images = "):
        load(root, other, radius=7.0)
    monkeypatch.setattr(superpixels.metadata, "version", lambda _: "0.1")
    with pytest.raises(ValueError, match=r"was made with scikit-image = '.*', expected '0.1'"):
        load(root, mnist, radius=7.0)
    monkeypatch.undo()
    (root / "superpixels_slic.npz").unlink()
    with pytest.raises(ValueError, match=r"superpixels_slic_radius7.npz was made with nodes = "):
        load(root, other, radius=7.0)


def test_missing_files_are_named_with_all_ways_out(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no MNIST in .*nowhere; expected train-images-idx3-ubyte, .*mnist_folder"
    ):
        load(tmp_path, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no .*MNISTSuperpixels.pt, and the download is off.*mnist_folder"):
        load(tmp_path)
    (tmp_path / "mnist").mkdir()
    write_digits(tmp_path / "mnist")
    (tmp_path / "mnist/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="no MNIST in"):
        load(tmp_path, tmp_path / "mnist")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte.gz", gzip.compress(idx_bytes(np.zeros((24, 28, 28), np.uint8)))[:-9], "decompressed"),
        ("train-images-idx3-ubyte.gz", b"no gzip", "decompressed"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx_bytes(np.zeros(24, np.uint8))), "the mark of an idx file"),
        ("train-labels-idx1-ubyte", idx_bytes(np.zeros(24, np.uint8))[:-1], "holds 23 bytes of data, expected 24"),
        ("train-labels-idx1-ubyte", idx_bytes(np.zeros(23, np.uint8)), "24 images and .* 23 labels"),
        ("train-labels-idx1-ubyte", idx_bytes(np.full(24, 10, np.uint8)), "the label 10"),
    ],
)
def test_bad_files_of_mnist_are_named(mnist: Path, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (mnist / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "cache", mnist)
    assert str(mnist / name) in str(caught.value)
    assert not any(tmp_path.glob("cache/*"))


def test_compressed_and_plain_idx_files_are_the_same(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(idx_bytes(array))
    (tmp_path / "b.gz").write_bytes(gzip.compress(idx_bytes(array)))
    assert np.array_equal(read_idx(tmp_path / "a", 3), array) and np.array_equal(read_idx(tmp_path / "b.gz", 3), array)


def test_wrong_options_are_named(mnist: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"source='slick'; expected one of \['auto', 'published', 'slic'\]"):
        load(tmp_path, mnist, source="slick")
    with pytest.raises(ValueError, match="radius=0; expected a positive length"):
        load(tmp_path, mnist, radius=0)


def test_the_published_file_is_preferred_and_its_edges_made_symmetric(mnist: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    graphs = write_published(root / "raw" / "MNISTSuperpixels.pt")
    found = load(root, mnist)
    assert found["train"].source == "the published MNISTSuperpixels" and len(found["test"]) == 2
    train = found["train"]
    assert train.offsets.tolist() == [0, 5, 10, 15, 20] and train.labels.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(train.positions[5:10], graphs[0][1]["pos"].numpy())
    np.testing.assert_array_equal(train.grey[5:10], graphs[0][1]["x"][:, 0].numpy())
    first = train.pairs[: train.pair_offsets[1]].tolist()
    assert first == [[0, 1], [0, 4], [1, 2], [2, 3], [3, 4]]
    (root / "raw" / "MNISTSuperpixels.pt").unlink()
    assert len(load(root, mnist)["train"]) == 4
    assert len(load(root, mnist, source="slic")["train"]) == 24


@pytest.mark.parametrize("content", [b"damaged", {"x": torch.zeros(1)}, [[{"x": torch.zeros(1)}], []]])
def test_a_published_file_that_is_something_else_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "MNISTSuperpixels.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=r"MNISTSuperpixels.pt (cannot be read|holds something else)"):
        load(tmp_path)


def test_fetching_puts_the_whole_file_in_place_or_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(url: str, folder: str) -> str:
        Path(folder, "part.zip").write_bytes(b"half a file")
        raise OSError("no route to host")

    monkeypatch.setattr("torch_geometric.data.download_url", refused)
    with pytest.raises(ConnectionError, match=r"no route to host. Put it there by hand .*mnist_folder"):
        load_superpixels(tmp_path, progress=False)
    assert os.listdir(tmp_path / "raw") == []

    def delivered(url: str, folder: str) -> str:
        assert url.endswith("MNISTSuperpixels.zip")
        write_published(Path(folder, "MNISTSuperpixels.pt"))
        return "archive"

    monkeypatch.setattr("torch_geometric.data.download_url", delivered)
    monkeypatch.setattr("torch_geometric.data.extract_zip", lambda path, folder: None)
    assert len(load_superpixels(tmp_path, progress=False)["train"]) == 4
    assert os.listdir(tmp_path / "raw") == ["MNISTSuperpixels.pt"]
    assert published_superpixels.find_published(tmp_path) == tmp_path / "raw" / "MNISTSuperpixels.pt"


def test_without_scikit_image_the_extra_is_named(mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match=r"pip install 'ponita\[superpixel\]'"):
        load(tmp_path, mnist)
