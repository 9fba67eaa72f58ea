"""A forward of mixed weights: exact identities, gradients by the mixture, and memory."""

import itertools
import math

import pytest
import torch
from support.graphs import random_graph
from torch import nn

from ponita.sharing.search.layers import EntangledLinear
from ponita.sharing.search.masks import Dim, joint_mask, size_of
from ponita.sharing.search.ponita_supernet import PonitaSupernet
from ponita.sharing.search.space import Choice, SearchSpace
from ponita.sharing.search.tangle import RelaxationSampler
from ponita.sharing.search.testbed import ToySupernet, fourier, toy_data

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


# all weight on one option is that option's network


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


# superposition of weights is a mixture of outputs where the operation is linear in them, and only there


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


# masks and gradients


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


# memory


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
