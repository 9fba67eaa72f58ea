"""The file of superpixel graphs that PyTorch Geometric distributes."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile

import numpy as np
import torch

from ponita.data.superpixel_graphs import MAX_NODES, pairs_of_edges, to_offsets

NAME = "MNISTSuperpixels.pt"
KEYS = ("x", "pos", "edge_index", "y")


def find_published(root: Path) -> Path | None:
    """The raw file in a folder, or in its folder raw/ where PyTorch Geometric puts it."""
    return next((path for path in (root / "raw" / NAME, root / NAME) if path.is_file()), None)


def fetch_published(root: Path, download: bool) -> Path:
    """Fetch the file to root/raw; it appears there whole or not at all.

    Args:
        root: of the data set.
        download: whether the network may be used.

    Raises:
        FileNotFoundError: if it may not.
        ConnectionError: if the file cannot be fetched.
    """
    from torch_geometric.data import download_url, extract_zip
    from torch_geometric.datasets import MNISTSuperpixels

    target, url = root / "raw" / NAME, MNISTSuperpixels.url
    way = (
        f"Put it there by hand ({url}, unpacked), or name a folder with the idx files of MNIST with mnist_folder: "
        "superpixels are then made from the images (in a minute, with scikit-image)"
    )
    if not download:
        raise FileNotFoundError(f"no {target}, and the download is off. {way}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=".superpixels-") as staging:
        try:
            extract_zip(download_url(url, staging), staging)
            os.replace(Path(staging, NAME), target)
        except (OSError, HTTPException, BadZipFile) as error:
            raise ConnectionError(f"could not fetch {url} to {target}: {error}. {way}") from error
    return target


def read_published(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Flat arrays of "train" and "test", under the names of `SuperpixelGraphs`.

    Args:
        path: of MNISTSuperpixels.pt.

    Raises:
        ValueError: if the file is damaged or holds something else.
    """
    try:
        parts = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); it is damaged or was cut short: fetch it again.") from error
    if not isinstance(parts, Sequence) or len(parts) != 2 or not all(_is_graph(g) for part in parts for g in part[:1]):
        raise ValueError(f"{path} holds something else; expected two lists of graphs with {', '.join(KEYS)}.")
    return {name: _flat(part, path) for name, part in zip(("train", "test"), parts, strict=True)}


def _is_graph(graph: object) -> bool:
    return isinstance(graph, Mapping) and all(isinstance(graph.get(key), torch.Tensor) for key in KEYS)


def _flat(graphs: Sequence[Mapping[str, torch.Tensor]], path: Path) -> dict[str, np.ndarray]:
    positions = [graph["pos"].float().numpy() for graph in graphs]
    counts = [len(values) for values in positions]
    if not counts or max(counts) > MAX_NODES:
        raise ValueError(f"{path} holds graphs of {max(counts, default=0)} points; expected 75.")
    pairs = [pairs_of_edges(g["edge_index"].numpy(), p) for g, p in zip(graphs, positions, strict=True)]
    return {
        "positions": np.concatenate(positions),
        "grey": np.concatenate([graph["x"].float().reshape(-1).numpy() for graph in graphs]),
        "offsets": to_offsets(counts),
        "labels": np.array([int(graph["y"]) for graph in graphs]),
        "pairs": np.concatenate(pairs),
        "pair_offsets": to_offsets([len(part) for part in pairs]),
    }
