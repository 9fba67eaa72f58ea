"""Learned relaxations: exact identities of the mixed forward, gradients by the logits, memory, and planted searches."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from support.graphs import random_graph
from torch import nn

from ponita.sharing.search.bilevel import BilevelTrainer
from ponita.sharing.search.layered import LayeredSupernet
from ponita.sharing.search.layers import EntangledLinear, MixedOp
from ponita.sharing.search.masks import Dim, joint_mask, size_of
from ponita.sharing.search.ponita_supernet import PonitaSupernet
from ponita.sharing.search.sampling import Draw, UniformSampler
from ponita.sharing.search.space import Choice, SearchSpace
from ponita.sharing.search.tangle import RelaxationSampler, prune, sparsemax
from ponita.sharing.search.testbed import ToySupernet, fourier, toy_data
from ponita.sharing.search.training import Losses

KINDS = [("drnas", "softmax"), ("darts", "softmax"), ("darts", "sparsemax"), ("gdas", "softmax")]
PONITA_CHOICES = (
    Choice("hidden_channels", (4, 8)),
    Choice("num_layers", (1, 2)),
    Choice("widening", (1, 2)),
    Choice("basis_channels", (3, 6)),
    Choice("degree", (1, 3)),
    Choice("cutoff", (1.5, 4.0)),
    Choice("num_orientations", (4, 6)),
)


def kicked(network: nn.Module) -> nn.Module:
    """In float64, with norms, biases and scales away from their initial values."""
    with torch.no_grad():
        for parameter in network.double().parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def small_supernet(kernel: str = "mlp", *names: str) -> PonitaSupernet:
    """With the named choices, or all."""
    chosen = [choice for choice in PONITA_CHOICES if not names or choice.name in names]
    fixed = {choice.name: choice.values[-1] for choice in PONITA_CHOICES if choice not in chosen}
    return kicked(
        PonitaSupernet(
            SearchSpace(*chosen), in_channels=3, in_vector_channels=2, out_channels=2, kernel=kernel, **fixed
        )
    )


def unequal_weights(space: SearchSpace, requires_grad: bool = False) -> dict[str, torch.Tensor]:
    """A point inside every simplex; a corner for the choice that cannot be mixed."""
    weights = {name: torch.arange(1.0, len(choice) + 1, dtype=torch.float64) for name, choice in space.items()}
    weights = {name: (w / w.sum()).requires_grad_(requires_grad) for name, w in weights.items()}
    if "num_orientations" in space:
        weights["num_orientations"] = torch.tensor([1.0, 0.0], dtype=torch.float64)
    return weights


def mixture(space: SearchSpace, weights: dict[str, torch.Tensor], value) -> torch.Tensor:
    """sum over all architectures of the product of their weights times value(architecture)."""
    terms = []
    for architecture in space.enumerate():
        share = math.prod(weights[name][option] for name, option in zip(space, architecture, strict=True))
        terms.append(share * value(architecture))
    return sum(terms)


# 2(e)1: all weight on one option is that option's network


def test_all_weight_on_one_option_is_its_network_for_all_toy_networks():
    network, x = kicked(ToySupernet()), toy_data(16, seed=0).x.double()
    with torch.no_grad():
        for architecture in network.space.enumerate():
            relaxed = network(x, path=network.space.onehot(architecture, torch.float64))
            torch.testing.assert_close(relaxed, network.extract(architecture)(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", ["mlp", "fused"])
@torch.no_grad()
def test_all_weight_on_one_option_is_its_ponita(kernel):
    supernet, graph = small_supernet(kernel).eval(), random_graph([4, 3])
    for architecture in itertools.islice(supernet.space.enumerate(), 0, None, 5):
        relaxed = supernet(**graph, path=supernet.space.onehot(architecture, torch.float64))
        alone = supernet.extract(architecture)(**graph)
        torch.testing.assert_close(relaxed.scalars, alone.scalars, rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_a_hard_draw_is_evaluated_as_the_network_that_it_draws():
    supernet, graph = small_supernet().eval(), random_graph([4, 3])
    sampler = RelaxationSampler(supernet.space, "gdas", seed=3).double()
    seen = set()
    for _ in range(6):
        path = sampler.draw(0)[0].path
        architecture = tuple(int(weights.argmax()) for weights in path.values())
        seen.add(architecture)
        expected = supernet.extract(architecture)(**graph).scalars
        torch.testing.assert_close(supernet(**graph, path=path).scalars, expected, rtol=1e-11, atol=1e-11)
    assert len(seen) > 3


# 2(e)2: superposition of weights is a mixture of outputs where the operation is linear in them, and only there


def test_mixed_inputs_widths_and_depths_mix_outputs_of_linear_operations():
    network, x = kicked(ToySupernet()), toy_data(16, seed=0).x.double()
    space, weights = network.space, unequal_weights(network.space)
    narrow = SearchSpace(space["basis"], space["hidden"])

    def embedded(option):
        basis, hidden = narrow["basis"].values[option[0]], narrow["hidden"].values[option[1]]
        part = fourier(x, basis) @ network.embedding.weight[:hidden, :basis].T + network.embedding.bias[:hidden]
        return nn.functional.pad(part, (0, 32 - hidden))

    mixed = network.embedding(fourier(x, 32), weights)
    torch.testing.assert_close(mixed, mixture(narrow, weights, embedded), rtol=1e-12, atol=1e-12)
    fixed = {
        name: weights[name] if name == "num_layers" else w
        for name, w in space.onehot((3, 2, 2, 0), torch.float64).items()
    }
    stack = sum(w * network.blocks(mixed, (3, 2, 2, d)) for d, w in enumerate(weights["num_layers"]))
    torch.testing.assert_close(network.blocks(mixed, fixed), stack, rtol=1e-12, atol=1e-12)


def test_mixed_cutoffs_mix_the_messages_of_the_first_convolution():
    supernet, graph = small_supernet("mlp", "cutoff").eval(), random_graph([4, 3])
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    _, mixed = supernet.taps(**graph, path={"cutoff": weights})
    each = [supernet.taps(**graph, path=(option,))[1][0]["S"] for option in range(2)]
    assert (each[0] - each[1]).abs().max() > 1e-3
    torch.testing.assert_close(mixed[0]["S"], 0.3 * each[0] + 0.7 * each[1], rtol=1e-13, atol=1e-14)


def test_mixed_depths_mix_the_outputs_of_a_ponita():
    supernet, graph = small_supernet("mlp", "num_layers").eval(), random_graph([4, 3])
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    each = [supernet(**graph, path=(option,)).scalars for option in range(2)]
    mixed = supernet(**graph, path={"num_layers": weights}).scalars
    torch.testing.assert_close(mixed, 0.3 * each[0] + 0.7 * each[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["hidden_channels", "widening", "basis_channels", "degree", "cutoff"])
def test_behind_an_activation_a_mixture_of_weights_is_not_one_of_outputs(name):
    supernet, graph = small_supernet("mlp", name).eval(), random_graph([4, 3])
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    each = [supernet(**graph, path=(option,)).scalars for option in range(2)]
    error = supernet(**graph, path={name: weights}).scalars - (0.3 * each[0] + 0.7 * each[1])
    assert error.abs().max() > 1e-3


# 2(e)3: masks and gradients


def test_every_weight_is_the_mixture_of_its_padded_corners():
    supernet = small_supernet()
    weights = unequal_weights(supernet.space)
    for axes in set(supernet.axes().values()):
        shape = [axis if isinstance(axis, int) else axis.max for axis in axes]

        def padded(architecture, axes=axes, shape=shape):
            corner = torch.zeros(shape, dtype=torch.float64)
            corner[tuple(slice(size_of(axis, architecture)) for axis in axes)] = 1
            return corner

        expected = mixture(supernet.space, weights, padded)
        torch.testing.assert_close(joint_mask(axes, weights), expected, rtol=1e-12, atol=1e-14)


def test_gradients_by_the_mixture_of_a_toy_network_are_those_of_differences():
    network, data = kicked(ToySupernet()), toy_data(8, seed=1)
    weights = unequal_weights(network.space, requires_grad=True)

    def loss(*parts):
        path = dict(zip(network.space, parts, strict=True))
        return nn.functional.cross_entropy(network(data.x.double(), path=path), data.y)

    assert torch.autograd.gradcheck(loss, tuple(weights.values()))


@pytest.mark.parametrize("kernel", ["mlp", "fused"])
def test_gradients_by_the_mixture_of_a_ponita_are_those_of_differences(kernel):
    supernet, graph = small_supernet(kernel), random_graph([3])
    weights = unequal_weights(supernet.space, requires_grad=True)
    names = [name for name in supernet.space if name != "num_orientations"]

    def loss(*parts):
        return supernet(**graph, path=weights | dict(zip(names, parts, strict=True))).scalars.square().sum()

    assert torch.autograd.gradcheck(loss, tuple(weights[name] for name in names), atol=1e-4)


@pytest.mark.parametrize("activation", ["softmax", "sparsemax"])
def test_gradients_of_a_ponita_by_logits_are_those_of_differences(activation):
    supernet, graph = small_supernet("mlp", "hidden_channels", "num_layers", "cutoff"), random_graph([3])
    sampler = RelaxationSampler(supernet.space, "darts", activation, init_std=0.3).double()
    supernet(**graph, path=sampler.relaxation()).scalars.square().sum().backward()
    for logits in sampler.logits.values():
        for i, analytic in enumerate(logits.grad.tolist()):
            values = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    logits[i] += step
                    values.append(float(supernet(**graph, path=sampler.relaxation()).scalars.square().sum()))
                    logits[i] -= step
            assert analytic == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-6)


def test_sparsemax_is_the_nearest_point_of_the_simplex():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        z = torch.randn(5, generator=generator, dtype=torch.float64)
        p = sparsemax(z)
        assert float(p.sum()) == pytest.approx(1.0) and float(p.min()) >= 0
        # Where p > 0 the residual z - p is one number, and nowhere is it larger.
        residual = z - p
        assert (residual[p > 0] - residual.max()).abs().max() < 1e-12
    assert sparsemax(torch.tensor([5.0, 0.0, 4.5])).tolist() == [0.75, 0.0, 0.25]
    z = torch.tensor([0.3, 0.1, -0.2, -3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sparsemax, (z,))


# Distributions


def toy_sampler(kind: str, activation: str = "softmax", **options) -> RelaxationSampler:
    """Of one choice of three options, with logits of both signs, in float64."""
    sampler = RelaxationSampler(SearchSpace(Choice("width", (1, 2, 3))), kind, activation, **options).double()
    with torch.no_grad():
        sampler.logits["width"].copy_(torch.tensor([0.5, -0.7, 0.1]))
    return sampler


def test_dirichlet_weights_have_the_mean_of_elu_plus_one_and_its_gradient():
    sampler, values = toy_sampler("drnas"), torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
    logits = sampler.logits["width"]
    draws = torch.stack([sampler.relaxation()["width"] for _ in range(4000)])
    assert torch.allclose(draws.sum(1), torch.ones(4000, dtype=torch.float64))
    concentration = nn.functional.elu(logits) + 1
    mean = concentration / concentration.sum()
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=0.015)
    variance = mean * (1 - mean) / (concentration.sum() + 1)
    torch.testing.assert_close(draws.var(0), variance, rtol=0, atol=0.006)
    (sampled,) = torch.autograd.grad((draws @ values).mean(), logits)
    (exact,) = torch.autograd.grad(mean @ values, logits)
    torch.testing.assert_close(sampled, exact, rtol=0, atol=0.06)
    assert sampler.probabilities()["width"].tolist() == pytest.approx(mean.tolist())


def test_gumbel_weights_are_exactly_one_hot_of_softmax_frequencies_with_the_gradient_of_the_soft_ones():
    sampler = toy_sampler("gdas", tau=(0.7, 0.7))
    logits = sampler.logits["width"]
    draws = torch.stack([sampler.relaxation()["width"] for _ in range(4000)]).detach()
    assert set(draws.flatten().tolist()) == {0.0, 1.0} and draws.sum(1).eq(1).all()
    torch.testing.assert_close(draws.mean(0), logits.softmax(0).detach(), rtol=0, atol=0.02)
    assert sampler.probabilities()["width"].tolist() == pytest.approx(logits.softmax(0).tolist())

    values = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
    state = sampler.generator.get_state()
    (hard,) = torch.autograd.grad(sampler.relaxation()["width"] @ values, logits)
    sampler.generator.set_state(state)
    noise = -(-torch.rand(3, generator=sampler.generator, dtype=torch.float64).log()).log()
    (soft,) = torch.autograd.grad(((logits + noise) / 0.7).softmax(0) @ values, logits)
    torch.testing.assert_close(hard, soft, rtol=1e-6, atol=1e-9)
    assert hard.abs().max() > 1e-3


def test_the_temperature_falls_linearly_from_the_first_epoch_to_the_last():
    sampler = toy_sampler("gdas", tau=(10.0, 0.1))
    seen = []
    for epoch in range(4):
        seen.append(float(sampler.temperature))
        sampler.epoch_end(epoch, 4)
    assert seen == pytest.approx([10.0, 6.7, 3.4, 0.1]) and float(sampler.temperature) == pytest.approx(0.1)


@pytest.mark.parametrize(("kind", "activation"), KINDS)
def test_weights_lie_on_the_simplex_and_vanish_where_not_allowed(kind, activation):
    choices = (
        Choice("width", (1, 2, 3, 4)),
        Choice("kind", ("a", "b"), ordered=False),
        Choice("num_orientations", (4, 8, 12)),
    )
    space = SearchSpace(*choices, allowed={"width": [0, 2], "kind": [1], "num_orientations": [0, 2]})
    sampler = RelaxationSampler(space, kind, activation)
    with torch.no_grad():
        sampler.logits["width"].copy_(torch.tensor([0.1, 9.0, 0.2, 9.0]))
        sampler.logits["num_orientations"].copy_(torch.tensor([0.0, 9.0, -0.1]))
    for _ in range(10):
        path = sampler.relaxation()
        for weights in path.values():
            assert weights.sum().item() == pytest.approx(1.0) and weights.min().item() >= 0
        assert path["width"][[1, 3]].tolist() == [0, 0] and path["kind"].tolist() == [0, 1]
        assert path["num_orientations"].tolist() in ([1, 0, 0], [0, 0, 1])
    path["width"].square().sum().backward()
    assert sampler.logits["width"].grad[[1, 3]].tolist() == [0, 0]
    assert torch.isfinite(sampler.logits["width"].grad).all()
    assert sampler.argmax() == (2, 1, 0)
    for name, probs in sampler.probabilities().items():
        assert float(probs.sum()) == pytest.approx(1.0)
        assert all(probs[i] == 0 for i in range(len(probs)) if i not in space.allowed[name])


@pytest.mark.parametrize(("kind", "activation"), KINDS)
def test_draws_depend_on_the_seed_alone(kind, activation):
    def draws(seed):
        sampler = RelaxationSampler(SearchSpace(Choice("width", (1, 2, 3))), kind, activation, seed=seed)
        return torch.stack([sampler.draw(0)[0].path["width"] for _ in range(8)])

    torch.manual_seed(1)
    first = draws(5)
    after = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after)
    assert torch.equal(draws(5), first) and not torch.equal(draws(6), first)


@pytest.mark.parametrize("size", [-40.0, 40.0])
@pytest.mark.parametrize(("kind", "activation"), KINDS)
def test_extreme_logits_give_finite_weights_and_gradients(kind, activation, size):
    sampler = RelaxationSampler(SearchSpace(Choice("width", (1, 2, 3))), kind, activation, tau=(0.1, 0.1))
    logits = sampler.logits["width"]
    with torch.no_grad():
        logits.copy_(torch.tensor([size, 0.0, size]))
    for _ in range(10):
        weights = sampler.relaxation()["width"]
        (gradient,) = torch.autograd.grad(weights @ torch.arange(3.0), logits)
        assert torch.isfinite(weights).all() and torch.isfinite(gradient).all()


@pytest.mark.parametrize("kind", ["drnas", "darts", "gdas"])
def test_the_mean_score_gradient_is_that_of_the_mean_loss(kind):
    losses = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    sampler = RelaxationSampler(SearchSpace(Choice("num_orientations", (4, 8, 12))), kind).double()
    logits = sampler.logits["num_orientations"]
    with torch.no_grad():
        logits.copy_(torch.tensor([0.5, -0.7, 0.1]))
    probs = logits.softmax(0)
    if kind == "drnas":
        concentration = nn.functional.elu(logits) + 1
        probs = concentration / concentration.sum()
    (exact,) = torch.autograd.grad(probs @ losses, logits)
    total, seen = torch.zeros(3, dtype=torch.float64), set()
    while len(seen) < 3:
        draw = sampler.sample()
        option = int(draw.path["num_orientations"].argmax())
        assert draw.log_prob.item() == pytest.approx(probs[option].log().item())
        if option not in seen:
            seen.add(option)
            sampler._baseline = 0.3
            (part,) = torch.autograd.grad(sampler.score_loss(draw, losses[option]), logits)
            total += probs[option].detach() * part
    torch.testing.assert_close(total, exact, rtol=1e-10, atol=1e-12)


def test_the_baseline_is_the_running_mean_of_losses_before():
    sampler = RelaxationSampler(SearchSpace(Choice("num_orientations", (4, 8))), "darts")
    draw = Draw({}, log_prob=torch.tensor(-1.0))
    values = [float(sampler.score_loss(draw, torch.tensor(loss))) for loss in (2.0, 3.0, 4.0)]
    assert values == pytest.approx([0.0, -(3 - 2.0), -(4 - 2.1)])
    assert sampler.score_loss(Draw({}), torch.tensor(1.0)) == 0


def test_the_regularizer_is_the_divergence_from_the_uniform_dirichlet_of_all_choices():
    sampler = RelaxationSampler(SearchSpace(Choice("width", (1, 2, 3)), Choice("depth", (1, 2))), init_std=0.5).double()
    expected = 0.0
    for logits in sampler.logits.values():
        concentration = nn.functional.elu(logits.detach()) + 1
        total = concentration.sum()
        expected += torch.lgamma(total) - torch.lgamma(concentration).sum() - math.lgamma(len(logits))
        expected += ((concentration - 1) * (torch.digamma(concentration) - torch.digamma(total))).sum()
    assert expected > 0.01
    assert sampler.regularizer().item() == pytest.approx(float(expected), rel=1e-12)
    with torch.no_grad():
        for logits in sampler.logits.values():
            logits.zero_()
    assert sampler.regularizer().item() == pytest.approx(0.0, abs=1e-12)


def test_logits_start_with_the_given_spread():
    sampler = RelaxationSampler(SearchSpace(Choice("width", tuple(range(1, 4001)))), init_std=1e-3)
    assert sampler.logits["width"].std().item() == pytest.approx(1e-3, rel=0.05)
    assert abs(sampler.logits["width"].mean().item()) < 1e-4
    assert [len(parameter) for parameter in sampler.parameters()] == [4000]


def test_pruning_keeps_the_allowed_options_of_largest_probability():
    space = SearchSpace(Choice("width", (1, 2, 3, 4)), Choice("depth", (1, 2)), allowed={"width": [0, 2, 3]})
    sampler = RelaxationSampler(space)
    with torch.no_grad():
        sampler.logits["width"].copy_(torch.tensor([0.3, 9.0, -0.2, 0.1]))
    pruned = prune(space, sampler, {"width": 2})
    assert pruned.allowed == {"width": (0, 3), "depth": (0, 1)}
    assert prune(space, sampler, {"width": 7}).allowed == space.allowed
    sampler.space = pruned
    assert sampler.relaxation()["width"][[1, 2]].tolist() == [0, 0] and sampler.argmax()[0] == 0
    assert prune(pruned, sampler, {"width": 1}).allowed["width"] == (0,)
    # What the sampler still has and the space has not counts for nothing.
    sampler.space = SearchSpace(*space.values())
    assert prune(space, sampler, {"width": 2}).allowed["width"] == (0, 3)


# 2(e)4: memory


def saved_bytes(run) -> int:
    """Bytes of different storages that are kept for the backward pass."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run()
    assert output.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


def test_mixed_weights_keep_one_activation_and_mixed_outputs_keep_one_for_each_option():
    x = torch.randn(16384, 32)

    def entangled(options):
        space = SearchSpace(Choice("width", tuple(range(32 // options, 33, 32 // options))))
        up, down = EntangledLinear(32, Dim(space, "width")), EntangledLinear(Dim(space, "width"), 32)
        path = {"width": torch.full((options,), 1 / options, requires_grad=True)}
        return saved_bytes(lambda: down(nn.functional.gelu(up(x, path)), path))

    def separate(options):
        weights = torch.full((options,), 1 / options, requires_grad=True)
        networks = [nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 32)) for _ in range(options)]
        return saved_bytes(lambda: sum(w * network(x) for w, network in zip(weights, networks, strict=True)))

    assert entangled(8) <= 1.02 * entangled(2)
    # Another network's activations for each further option.
    assert separate(8) - separate(2) >= 0.9 * 6 * entangled(2)


# 2(e)5 and the trainer: planted searches


class PlantedSupernet(LayeredSupernet):
    """Of each choice one option is plainly best: inputs that matter, an operation and a grid that add no noise.

    Shape:
        x [G, last + 3], of which three are noise that no weight can take away -> [G]
    """

    GRIDS = (3.0, 0.0, 3.0)

    def __init__(self, last: int) -> None:
        space = SearchSpace(
            Choice("features", (2, last)),
            Choice("operation", ("first", "square", "second"), ordered=False),
            Choice("num_orientations", (4, 8, 12)),
        )
        super().__init__(space)
        self.first = EntangledLinear(Dim(space, "features"), 1, bias=False)
        self.operation = MixedOp({"first": Noise(1), "square": Square(), "second": Noise(2)}, space, "operation")

    def run(self, path, x):
        width = size_of(self.first.axes[1], path) if isinstance(path, tuple) else self.first.in_features
        grid = path[2] if isinstance(path, tuple) else int(path["num_orientations"].argmax())
        hidden = self.first(x[:, :width], path)
        return self.operation(torch.cat([hidden, x[:, -2:]], dim=1), path) + self.GRIDS[grid] * x[:, -3]


class Noise(nn.Module):
    def __init__(self, column: int) -> None:
        super().__init__()
        self.column = column

    def forward(self, x):
        return 3 * x[:, self.column]


class Square(nn.Module):
    def forward(self, x):
        return x[:, 0].square()


def squared_error(model, batch):
    x, y = batch
    output = model(x)
    return Losses((output - y).square(), output, y)


def planted_problem(needed: int, last: int, rows: int, seed: int):
    """y = (a x)^2 with a of `needed` entries, of `last` inputs and the noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, last + 3, generator=generator)
    return x, x[:, :needed].mul(torch.tensor([1.0, 0.7, 0.8, 0.6, 0.9, 0.5])[:needed]).sum(1).square()


def planted_trainer(kind: str, activation: str, needed: int, last: int, best: tuple, **options) -> BilevelTrainer:
    """With logits that at first speak against every option that is best."""
    torch.manual_seed(1)
    network = PlantedSupernet(last)
    with torch.no_grad():
        network.first.weight.fill_(0.3)
    sampler = RelaxationSampler(network.space, kind, activation, tau=(10.0, 0.5), seed=2)
    with torch.no_grad():
        for logits, option in zip(sampler.logits.values(), best, strict=True):
            logits[option] -= 0.2
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    arch = torch.optim.Adam(sampler.parameters(), lr=0.05, betas=(0.5, 0.999))
    val_loader = [planted_problem(needed, last, 64, seed) for seed in range(3)]
    return BilevelTrainer(network, squared_error, optimizer, sampler, val_loader, arch, **options)


@pytest.mark.parametrize(("kind", "activation"), KINDS)
def test_every_kind_selects_the_planted_architecture(kind, activation):
    trainer = planted_trainer(kind, activation, needed=6, last=6, best=(1, 1, 1))
    trainer.fit([planted_problem(6, 6, 64, 100 + seed) for seed in range(25)], epochs=8)
    assert trainer.supernet.space.decode(trainer.sampler.argmax()) == {
        "features": 6,
        "operation": "square",
        "num_orientations": 8,
    }


@pytest.mark.parametrize(("kind", "activation"), KINDS)
def test_inputs_that_only_fit_the_training_data_are_not_selected(kind, activation):
    trainer = planted_trainer(kind, activation, needed=2, last=24, best=(0, 1, 1))
    trainer.fit([planted_problem(2, 24, 12, 100)] * 25, epochs=8)
    assert trainer.sampler.argmax() == (0, 1, 1)


# The trainer, and what it refuses


def recorded_trainer(warmup_epochs: int = 0, **options):
    """A short training, and what its loss function was given: the name of the batch and the path."""
    seen = []

    def loss_fn(model, batch):
        name, data = batch
        seen.append((name, model.path))
        return Losses(nn.functional.cross_entropy(model(data.x), data.y, reduction="none"))

    network, data = ToySupernet(), toy_data(16, seed=0)
    sampler = options.pop("sampler", None) or RelaxationSampler(network.space)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    val_loader = options.pop("val_loader", [("v1", data), ("v2", data)])
    trainer = BilevelTrainer(network, loss_fn, optimizer, sampler, val_loader, warmup_epochs=warmup_epochs, **options)
    return trainer, [("t1", data), ("t2", data), ("t3", data)], seen


def test_each_step_takes_a_validation_batch_then_a_training_batch_with_a_fresh_draw():
    trainer, loader, seen = recorded_trainer()
    trainer.fit(loader, epochs=1)
    assert [name for name, _ in seen] == ["v1", "t1", "v2", "t2", "v1", "t3"]
    widths = {tuple(path["hidden"].tolist()) for _, path in seen}
    assert len(widths) == 6
    assert [path["hidden"].requires_grad for _, path in seen] == [True, False] * 3


def test_logits_are_frozen_in_the_first_epochs():
    trainer, loader, seen = recorded_trainer(warmup_epochs=2)
    before = [logits.detach().clone() for logits in trainer.sampler.parameters()]
    trainer.fit(loader, epochs=2)
    assert all(map(torch.equal, before, trainer.sampler.parameters()))
    assert all(name.startswith("t") for name, _ in seen)
    trainer.fit(loader, epochs=3)
    assert not any(map(torch.equal, before, trainer.sampler.parameters()))
    assert sum(name.startswith("v") for name, _ in seen) == 3


def test_a_step_of_the_logits_has_the_gradient_of_the_validation_loss_and_leaves_the_weights():
    trainer, loader, _ = recorded_trainer(kl_weight=0.5)
    sampler, network, (_, data) = trainer.sampler, trainer.supernet, loader[0]
    weights = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    logits, state = list(sampler.parameters()), sampler.generator.get_state()
    loss = nn.functional.cross_entropy(network(data.x, path=sampler.relaxation()), data.y)
    expected = torch.autograd.grad(loss + 0.5 * sampler.regularizer(), logits)
    sampler.generator.set_state(state)
    # What is left from a step before must not count.
    logits[0].grad = torch.ones_like(logits[0])
    assert trainer.architecture_step(loader[0]) == pytest.approx(loss.item())
    for parameter, gradient in zip(logits, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    for name, weight in network.named_parameters():
        assert weight.grad is None and torch.equal(weight, weights[name])


def test_a_sampler_may_add_the_cost_of_a_relaxation():
    class Costly(RelaxationSampler):
        def extra_loss(self, draw, supernet):
            return 100.0 * supernet.num_parameters(draw.path) / supernet.num_parameters(supernet.space.largest())

    network = ToySupernet()
    for sampler, smaller in (
        (Costly(network.space, "darts"), True),
        (RelaxationSampler(network.space, "darts"), False),
    ):
        trainer, loader, _ = recorded_trainer(sampler=sampler)
        before = sampler.probabilities()["hidden"][-1].item()
        for _ in range(5):
            trainer.architecture_step(loader[0])
        gradient = sampler.logits["hidden"].grad
        assert (gradient.abs().max() > 1) == smaller
        assert (sampler.probabilities()["hidden"][-1].item() < before) or not smaller


def test_the_default_optimizer_of_the_logits_is_that_of_the_paper():
    def settings(**options):
        group = recorded_trainer(**options)[0].arch_optimizer.param_groups[0]
        return group["lr"], group["betas"], group["weight_decay"]

    assert settings() == (3e-4, (0.5, 0.999), 1e-3)
    assert settings(kl_weight=1e-3) == (3e-4, (0.5, 0.999), 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "enas"}, "kind='enas'"),
        ({"activation": "relu"}, "activation='relu'"),
        ({"kind": "drnas", "activation": "sparsemax"}, "only kind='darts'"),
        ({"kind": "gdas", "tau": (1.0, 0.0)}, "tau"),
    ],
)
def test_a_relaxation_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RelaxationSampler(SearchSpace(Choice("width", (1, 2))), **options)


def test_a_search_that_cannot_learn_is_refused():
    with pytest.raises(ValueError, match="UniformSampler has no logits"):
        recorded_trainer(sampler=UniformSampler(ToySupernet().space))
    with pytest.raises(ValueError, match="only kind='drnas'"):
        recorded_trainer(sampler=RelaxationSampler(ToySupernet().space, "darts"), kl_weight=1e-3)
    with pytest.raises(ValueError, match="warmup_epochs=-1"):
        recorded_trainer(warmup_epochs=-1)
    with pytest.raises(ValueError, match="kl_weight=-1"):
        recorded_trainer(kl_weight=-1)
    trainer, loader, _ = recorded_trainer(val_loader=[])
    with pytest.raises(ValueError, match="no batches"):
        trainer.fit(loader, epochs=1)


@pytest.mark.parametrize("keep", [{"height": 1}, {"width": 0}])
def test_pruning_of_an_unknown_choice_or_to_nothing_is_refused(keep):
    space = SearchSpace(Choice("width", (1, 2)))
    with pytest.raises(ValueError, match="expected a number of options"):
        prune(space, RelaxationSampler(space), keep)
