"""Features, graphs and networks whose relations are compared."""

import torch

from ponita import Ponita
from ponita.nn import calibrate
from ponita.sharing.search import Choice, PonitaSupernet, SearchSpace, calibrate_supernet
from ponita.sharing.search.taps import recorded
from support.graphs import random_graph

SIZES = (3, 5)


EXACT = {"rtol": 1e-12, "atol": 1e-12}


FIXED = {"in_channels": 3, "in_vector_channels": 2, "degree": 2, "basis_channels": 6, "widening": 2}


OPTIONS = SearchSpace(
    Choice("hidden_channels", (4, 6, 12)), Choice("num_layers", (1, 2)), Choice("num_orientations", (6, 12))
)


def teacher(**changes: object) -> Ponita:
    torch.manual_seed(5)
    net = Ponita(**{**FIXED, "hidden_channels": 12, "num_layers": 2, "num_orientations": 12, **changes}).double()
    calibrate(net, batch_of(0))
    return net


def supernet(space: SearchSpace = OPTIONS, seed: int = 0) -> PonitaSupernet:
    torch.manual_seed(seed)
    net = PonitaSupernet(space, **FIXED).double()
    calibrate_supernet(net, batch_of(0))
    return net


def batch_of(seed: int, sizes: tuple[int, ...] = SIZES) -> dict[str, object]:
    return random_graph(sizes, seed=seed)


def last_block(net: Ponita, batch: dict[str, object]) -> dict[str, torch.Tensor]:
    with recorded(net) as blocks:
        net(**batch)
    return blocks[-1]
