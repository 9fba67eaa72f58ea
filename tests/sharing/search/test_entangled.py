"""Masks and layers whose options share weights: slices, mixtures, and their exact relations."""

import itertools

import pytest
import torch
from torch import nn

from ponita.sharing.search.layers import EntangledDepth, EntangledLayerNorm, EntangledLinear, EntangledScale, MixedOp
from ponita.sharing.search.masks import Dim, choose, joint_mask, survival_mask
from ponita.sharing.search.space import Choice, SearchSpace

SPACE = SearchSpace(Choice("hidden", (2, 3, 5)), Choice("ratio", (1, 2)), Choice("num_layers", (1, 3)))
HIDDEN, INNER = Dim(SPACE, "hidden"), Dim(SPACE, "hidden", "ratio")


def relaxation(seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(len(c), generator=generator, dtype=dtype).softmax(0) for name, c in SPACE.items()}


def test_an_entry_survives_with_the_weight_of_the_options_that_own_it():
    mask = survival_mask((2, 3, 5), torch.tensor([0.5, 0.2, 0.3]), 6)
    torch.testing.assert_close(mask, torch.tensor([1.0, 1.0, 0.5, 0.3, 0.3, 0.0]))
    assert survival_mask((2, 3), torch.tensor([0.0, 1.0], dtype=torch.float64), 3).dtype == torch.float64
    with pytest.raises(ValueError, match="one weight for each size"):
        survival_mask((2, 3), torch.ones(3), 3)


def test_axes_that_share_a_choice_survive_together():
    weights = relaxation()
    expected = torch.zeros(10, 5, dtype=torch.float64)
    for (i, hidden), (j, ratio) in itertools.product(enumerate((2, 3, 5)), enumerate((1, 2))):
        block = torch.zeros_like(expected)
        block[: hidden * ratio, :hidden] = 1
        expected += weights["hidden"][i] * weights["ratio"][j] * block
    torch.testing.assert_close(joint_mask([INNER, HIDDEN], weights), expected)
    product = torch.outer(INNER.mask(weights), HIDDEN.mask(weights))
    assert not torch.allclose(product, expected)


def test_axes_that_share_none_survive_apart_and_fixed_ones_whole():
    depth = Dim(SPACE, "num_layers")
    weights = relaxation()
    torch.testing.assert_close(
        joint_mask([HIDDEN, depth], weights), torch.outer(HIDDEN.mask(weights), depth.mask(weights))
    )
    assert joint_mask([4], weights).tolist() == [1, 1, 1, 1]
    torch.testing.assert_close(joint_mask([HIDDEN, 2], weights), HIDDEN.mask(weights)[:, None].expand(-1, 2))


def test_a_mixture_of_weights_is_the_sum_of_the_padded_slices():
    weights, matrix = relaxation(1), torch.randn(10, 5, dtype=torch.float64)
    total = torch.zeros_like(matrix)
    for architecture in SPACE.restrict(num_layers=[0]).enumerate():
        part = choose(matrix, (INNER, HIDDEN), architecture)
        padded = nn.functional.pad(part, (0, 5 - part.shape[1], 0, 10 - part.shape[0]))
        total += weights["hidden"][architecture[0]] * weights["ratio"][architecture[1]] * padded
    torch.testing.assert_close(choose(matrix, (INNER, HIDDEN), weights), total)


def layers(dtype: torch.dtype = torch.float64) -> nn.ModuleDict:
    torch.manual_seed(0)
    made = nn.ModuleDict(
        {
            "linear": EntangledLinear(HIDDEN, INNER),
            "back": EntangledLinear(INNER, HIDDEN, bias=False),
            "norm": EntangledLayerNorm(HIDDEN),
            "scale": EntangledScale(HIDDEN, 0.5),
        }
    ).to(dtype)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("architecture", list(SPACE.enumerate()))
def test_all_weight_on_one_option_is_its_slice(architecture):
    made, hidden = layers(), HIDDEN.size(architecture)
    x = torch.randn(4, hidden, dtype=torch.float64)
    padded = nn.functional.pad(x, (0, 5 - hidden))
    mixed = SPACE.onehot(architecture, torch.float64)
    for name in ("linear", "norm", "scale"):
        sliced, relaxed = made[name](x, architecture), made[name](padded, mixed)
        torch.testing.assert_close(relaxed[:, : sliced.shape[1]], sliced)
        assert not relaxed[:, sliced.shape[1] :].any(), name
    inner = made["linear"](x, architecture)
    assert inner.shape == (4, INNER.size(architecture))
    relaxed = made["back"](made["linear"](padded, mixed), mixed)
    torch.testing.assert_close(relaxed[:, :hidden], made["back"](inner, architecture))


def test_the_norm_of_a_mixture_weighs_channels_by_their_survival():
    norm = EntangledLayerNorm(HIDDEN).double()
    x, weights = torch.randn(3, 5, dtype=torch.float64), relaxation(2)
    mask = HIDDEN.mask(weights)
    mean = (x @ mask / mask.sum())[:, None]
    deviation = (((x - mean) ** 2) @ mask / mask.sum() + norm.eps).sqrt()[:, None]
    torch.testing.assert_close(norm(x, weights), (x - mean) / deviation * mask)
    full = EntangledLayerNorm(HIDDEN, stats="full").double()
    torch.testing.assert_close(full(x, weights), nn.functional.layer_norm(x, (5,)) * mask)
    with pytest.raises(ValueError, match="expected 'masked' or 'full'"):
        EntangledLayerNorm(HIDDEN, stats="half")


class Add(nn.Module):
    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, x, path):
        return 2 * x + self.amount


def test_depth_runs_the_first_layers_or_mixes_what_comes_out_of_each():
    stack = EntangledDepth([Add(1.0), Add(10.0), Add(100.0)], SPACE, "num_layers")
    x = torch.ones(1, dtype=torch.float64)
    assert stack(x, (0, 0, 0)).item() == 3 and stack(x, (0, 0, 1)).item() == 2 * (2 * 3 + 10) + 100
    weights = {**relaxation(), "num_layers": torch.tensor([0.25, 0.75], dtype=torch.float64)}
    assert stack(x, weights).item() == pytest.approx(0.25 * 3 + 0.75 * 132)
    alternate = EntangledDepth(
        [Add(1.0), Add(10.0), Add(100.0)], SearchSpace(Choice("num_layers", (2, 3))), "num_layers", "alternate"
    )
    assert alternate.kept(2) == [0, 2] and alternate.kept(3) == [0, 1, 2]
    assert alternate(x, (0,)).item() == 2 * 3 + 100
    with pytest.raises(ValueError, match="needs an architecture"):
        alternate(x, {"num_layers": torch.ones(2)})
    with pytest.raises(ValueError, match="2 layers, but num_layers goes up to 3"):
        EntangledDepth([Add(1.0), Add(2.0)], SPACE, "num_layers")


def test_operations_without_an_order_run_alone_or_are_mixed():
    space = SearchSpace(Choice("kind", ("tanh", "exp"), ordered=False))

    class Exp(nn.Module):
        def forward(self, x):
            return x.exp()

    op = MixedOp({"tanh": nn.Tanh(), "exp": Exp()}, space, "kind")
    x = torch.randn(3, dtype=torch.float64)
    assert torch.equal(op(x, (1,)), x.exp())
    weights = {"kind": torch.tensor([0.3, 0.7], dtype=torch.float64)}
    torch.testing.assert_close(op(x, weights), 0.3 * x.tanh() + 0.7 * x.exp())
    with pytest.raises(ValueError, match=r"operations \['exp'\]; expected those of kind"):
        MixedOp({"exp": Exp()}, space, "kind")


def test_gradients_reach_the_weights_of_a_mixture():
    made = layers()
    x = torch.randn(4, 5, dtype=torch.float64)

    def loss(hidden, ratio):
        path = {**relaxation(), "hidden": hidden, "ratio": ratio}
        h = made["norm"](x, path)
        return (made["scale"](made["back"](nn.functional.gelu(made["linear"](h, path)), path), path) ** 2).sum()

    start = relaxation(3)
    assert torch.autograd.gradcheck(loss, [start[name].requires_grad_() for name in ("hidden", "ratio")])


def test_axes_that_cannot_nest_are_refused():
    with pytest.raises(ValueError, match=r"depends on \['colour'\]"):
        Dim(SPACE, "colour")
    with pytest.raises(ValueError, match="they do not nest"):
        Dim(SPACE, "hidden", size_of=lambda hidden: 10 - hidden)
