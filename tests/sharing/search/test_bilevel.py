"""Planted searches by relaxations, the bilevel trainer, and what it refuses."""

import pytest
import torch
from torch import nn

from ponita.sharing.search.bilevel import BilevelTrainer
from ponita.sharing.search.layered import LayeredSupernet
from ponita.sharing.search.layers import EntangledLinear, MixedOp
from ponita.sharing.search.masks import Dim, size_of
from ponita.sharing.search.sampling import UniformSampler
from ponita.sharing.search.space import Choice, SearchSpace
from ponita.sharing.search.tangle import RelaxationSampler, prune
from ponita.sharing.search.testbed import ToySupernet, toy_data
from ponita.sharing.search.training import Losses

KINDS = [("drnas", "softmax"), ("darts", "softmax"), ("darts", "sparsemax"), ("gdas", "softmax")]

# planted searches


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
