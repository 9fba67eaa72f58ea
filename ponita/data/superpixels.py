"""MNIST as graphs of superpixels, published ones or made from the images, kept in cache files.

Source of the published graphs: Monti et al., "Geometric deep learning on graphs and manifolds using mixture model CNNs"
(2017), arXiv 1611.08402, as distributed by PyTorch Geometric (`MNISTSuperpixels`): 75 superpixels an image.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ponita.data.atomic import replacing
from ponita.data.idx import MNIST_FILES, digest, find_mnist, read_mnist
from ponita.data.npz import read_npz
from ponita.data.published_superpixels import fetch_published, find_published, read_published
from ponita.data.superpixel_graphs import (
    COMPACTNESS,
    NUM_SEGMENTS,
    SuperpixelGraphs,
    neighbors,
    segment,
    to_offsets,
)

SOURCES = ("auto", "published", "slic")
PARTS = ("train", "test")
NODE_FIELDS = {"positions": np.float32, "grey": np.float32, "offsets": np.int64, "labels": np.int64}
PAIR_FIELDS = {"pairs": np.uint8, "pair_offsets": np.int64}
REMEDY = "delete it and it is made again"
Arrays = dict[str, np.ndarray]


def load_superpixels(
    root: Path | str,
    mnist_folder: Path | str | None = None,
    source: str = "auto",
    radius: float = 9.0,
    download: bool = True,
    progress: bool = True,
) -> dict[str, SuperpixelGraphs]:
    """The 60,000 training and 10,000 test images of MNIST as graphs, made at the first call and kept in `root`.

    Args:
        root: folder of the published file and of the cache files.
        mnist_folder: folder of the four idx files of MNIST, for "slic"; `root` where None.
        source: "published": the file PyTorch Geometric distributes, with its edges, made symmetric. "slic": superpixels
            of the idx files by SLIC (75 segments, compactness 0.25), linked where they are closer than `radius`. "auto":
            the published file where it lies in `root`, else the idx files where there are any, else the published file.
        radius: length in pixels; the published edges do not depend on it. 9 gives 16 neighbours, 7 gives 11.
        download: fetch the published file where it is needed and not in `root`.
        progress: show progress bars.

    Returns:
        Graphs under the keys "train" and "test".

    Raises:
        ValueError: for an unknown source, a radius that is not positive, or a file that is damaged, of another form, or
            made from other images.
        FileNotFoundError: if the files of the source are missing.
        ConnectionError: if the published file cannot be fetched.
        ImportError: if superpixels are to be made without scikit-image.
    """
    root, folder = Path(root).expanduser(), Path(mnist_folder or root).expanduser()
    if source not in SOURCES:
        raise ValueError(f"source={source!r}; expected one of {list(SOURCES)}.")
    if not radius > 0:
        raise ValueError(f"radius={radius}; expected a positive length in pixels.")
    if mnist_folder is not None and source != "published" and find_mnist(folder) is None:
        raise FileNotFoundError(_no_mnist(folder))
    if source == "auto":
        source = _available(root, folder)
    if source == "published":
        return _published(root, download)
    return _from_images(root, folder, float(radius), progress)


def _available(root: Path, folder: Path) -> str:
    if find_published(root) is not None or _cache(root, "published").is_file():
        return "published"
    return "slic" if find_mnist(folder) is not None or _cache(root, "slic").is_file() else "published"


def _published(root: Path, download: bool) -> dict[str, SuperpixelGraphs]:
    fields = NODE_FIELDS | PAIR_FIELDS

    def make() -> tuple[Arrays, dict[str, Any]]:
        return _flat(read_published(find_published(root) or fetch_published(root, download)), fields), {}

    arrays, _ = _cached(_cache(root, "published"), {"source": "published"}, fields, make)
    return _graphs(arrays, "the published MNISTSuperpixels")


def _from_images(root: Path, folder: Path, radius: float, progress: bool) -> dict[str, SuperpixelGraphs]:
    files = find_mnist(folder)
    expected = {"source": "slic", "segments": NUM_SEGMENTS, "compactness": COMPACTNESS, **_installed()}
    if files is not None:
        expected["images"] = digest(files)

    def make_nodes() -> tuple[Arrays, dict[str, Any]]:
        if files is None:
            raise FileNotFoundError(_no_mnist(folder))
        parts = {part: _segment_all(*read_mnist(*files[part]), part, progress) for part in PARTS}
        return _flat(parts, NODE_FIELDS), _installed()

    def make_pairs() -> tuple[Arrays, dict[str, Any]]:
        found = {p: neighbors(nodes[f"{p}_positions"], nodes[f"{p}_offsets"], radius) for p in PARTS}
        return _flat({p: dict(zip(PAIR_FIELDS, found[p], strict=True)) for p in PARTS}, PAIR_FIELDS), {}

    nodes, made = _cached(_cache(root, "slic"), expected, NODE_FIELDS, make_nodes)
    of_nodes = {"radius": radius, "nodes": zlib.crc32(nodes["train_positions"]) ^ zlib.crc32(nodes["test_positions"])}
    pairs, _ = _cached(_cache(root, f"slic_radius{radius:g}"), of_nodes, PAIR_FIELDS, make_pairs)
    return _graphs(nodes | pairs, f"SLIC of scikit-image {made['scikit-image']}, radius {radius:g} pixels")


def _segment_all(images: np.ndarray, labels: np.ndarray, part: str, progress: bool) -> Arrays:
    bar = tqdm(images, desc=f"superpixels of MNIST ({part})", unit=" images", disable=not progress)
    positions, grey = zip(*(segment(image) for image in bar), strict=True)
    offsets = to_offsets([len(values) for values in grey])
    return {
        "positions": np.concatenate(positions),
        "grey": np.concatenate(grey),
        "offsets": offsets,
        "labels": labels,
    }


def _cached(
    path: Path,
    expected: Mapping[str, Any],
    fields: Mapping[str, type],
    make: Callable[[], tuple[Arrays, dict[str, Any]]],
) -> tuple[Arrays, dict[str, Any]]:
    """What a cache file holds, made and written whole where there is none; and the parameters it was made with."""
    if not path.is_file():
        arrays, more = make()
        with replacing(path) as temporary:
            np.savez(temporary, parameters=np.array(json.dumps({**expected, **more})), **arrays)
        return arrays, {**expected, **more}
    arrays = read_npz(path, REMEDY)
    parameters = _parameters(path, arrays)
    for name, value in expected.items():
        if parameters.get(name) != value:
            raise ValueError(
                f"{path} was made with {name} = {parameters.get(name)!r}, expected {value!r}: {REMEDY}, or use another "
                "root"
            )
    for part in PARTS:
        _check_arrays(path, {name: arrays.get(f"{part}_{name}") for name in fields}, fields)
    return arrays, parameters


def _parameters(path: Path, arrays: Arrays) -> dict[str, Any]:
    try:
        parameters = json.loads(str(arrays.get("parameters")))
    except json.JSONDecodeError:
        parameters = None
    if not isinstance(parameters, dict):
        raise ValueError(f"{path} does not hold superpixels: {REMEDY}")
    return parameters


def _check_arrays(path: Path, arrays: Mapping[str, np.ndarray | None], fields: Mapping[str, type]) -> None:
    """Raise ValueError unless all arrays are there, of their types, and as long as their offsets say."""
    fit = all(array is not None and array.dtype == fields[name] for name, array in arrays.items())
    for offsets, names in (("offsets", ("positions", "grey")), ("pair_offsets", ("pairs",))):
        if fit and offsets in fields:
            lengths = {len(arrays[name]) for name in names}
            fit = arrays[offsets][0] == 0 and lengths == {arrays[offsets][-1]} and (np.diff(arrays[offsets]) >= 0).all()
    if fit and "labels" in fields:
        fit = len(arrays["labels"]) == len(arrays["offsets"]) - 1 > 0
    if not fit:
        raise ValueError(f"{path} does not hold the superpixels its name promises: {REMEDY}")


def _graphs(arrays: Arrays, source: str) -> dict[str, SuperpixelGraphs]:
    fields = NODE_FIELDS | PAIR_FIELDS
    return {
        part: SuperpixelGraphs(**{name: arrays[f"{part}_{name}"] for name in fields}, source=source) for part in PARTS
    }


def _flat(parts: Mapping[str, Arrays], fields: Mapping[str, type]) -> Arrays:
    return {f"{part}_{name}": parts[part][name].astype(dtype) for part in PARTS for name, dtype in fields.items()}


def _cache(root: Path, name: str) -> Path:
    return root / f"superpixels_{name}.npz"


def _installed() -> dict[str, str]:
    """The version of scikit-image, where it is installed: a cache made elsewhere can be used without it."""
    try:
        return {"scikit-image": metadata.version("scikit-image")}
    except metadata.PackageNotFoundError:
        return {}


def _no_mnist(folder: Path) -> str:
    names = ", ".join(name for names in MNIST_FILES.values() for name in names)
    return (
        f"no MNIST in {folder}; expected {names}, each with or without .gz. Name their folder with mnist_folder, or put "
        "PyTorch Geometric's MNISTSuperpixels.pt into root"
    )
