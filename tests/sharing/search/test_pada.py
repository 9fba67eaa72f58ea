"""Importance sampling of paths and data: exact variances, no bias, the distributions, and the loop that feeds them."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from scipy.stats import spearmanr
from support.graphs import random_graph
from torch.nn.functional import cross_entropy, mse_loss

from ponita.sharing.search.pada import (
    DataImportance,
    ImportanceDataSampler,
    ImportanceSampler,
    NormAverage,
    exact_path_variance,
    output_gradient_norm,
    path_gradients,
    sampling_variance,
)
from ponita.sharing.search.ponita_supernet import PonitaSupernet
from ponita.sharing.search.sampling import Draw, StepFeedback, UniformSampler
from ponita.sharing.search.space import Choice, SearchSpace
from ponita.sharing.search.testbed import NOISE, TRAIN, ToyData, ToySupernet, batches, toy_data
from ponita.sharing.search.training import Losses, SupernetTrainer

class_losses = partial(cross_entropy, reduction="none")


def toy_losses(model, data: ToyData) -> Losses:
    output = model(data.x)
    return Losses(class_losses(output, data.y), output, data.y)


@pytest.fixture(scope="module")
def trained():
    """A supernet after 100 steps on uniform paths, and its data, in float64."""
    torch.manual_seed(0)
    network, data = ToySupernet(), toy_data(TRAIN, seed=0, noise=NOISE)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    SupernetTrainer(network, toy_losses, optimizer, UniformSampler(network.space)).fit(
        batches(data, 96, seed=0), epochs=25
    )
    return network.double(), ToyData(data.x.double(), data.y)


@pytest.fixture(scope="module")
def gradients(trained):
    network, data = trained
    return path_gradients(network, toy_losses, data, list(network.space.enumerate()))


def learned_sampler(space: SearchSpace, norms: torch.Tensor, share: float = 1.0, **options) -> ImportanceSampler:
    """A sampler whose options have the mean norms of all paths, and that share in the distribution."""
    sampler = ImportanceSampler(space, lambda_max=share, **options)
    paths = list(space.enumerate())
    for position, (name, allowed) in enumerate(space.allowed.items()):
        for place, option in enumerate(allowed):
            mean = norms[[path[position] == option for path in paths]].mean()
            sampler.options[name].observe(torch.tensor([place]), mean[None])
    sampler.epoch_end(1, 1)
    return sampler


def path_probabilities(sampler: ImportanceSampler) -> torch.Tensor:
    return torch.tensor([sampler.probability(path) for path in sampler.space.enumerate()], dtype=torch.float64)


# the exact variance of paths


def test_path_gradients_are_those_of_a_backward_pass(trained, gradients):
    network, data = trained
    for row, path in ((7, list(network.space.enumerate())[7]), (107, network.space.largest())):
        network.zero_grad()
        cross_entropy(network(data.x, path=path), data.y).backward()
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
        torch.testing.assert_close(gradients[row], torch.cat([part.flatten() for part in parts]))
    network.zero_grad()


def test_the_variance_is_that_of_all_draws_enumerated(gradients):
    probs = torch.rand(len(gradients), dtype=torch.float64)
    probs = probs / probs.sum()
    estimates = gradients / (len(gradients) * probs[:, None])
    mean = (probs[:, None] * estimates).sum(0)
    expected = (probs * (estimates - mean).square().sum(1)).sum()
    assert float(sampling_variance(gradients, probs)) == pytest.approx(float(expected), rel=1e-10)


def test_paths_by_their_norms_have_the_least_variance_and_factorised_ones_less_than_uniform_ones(trained, gradients):
    network, data = trained
    paths, norms = list(network.space.enumerate()), gradients.norm(dim=1)
    factorised = path_probabilities(learned_sampler(network.space, norms))
    assert float(factorised.sum()) == pytest.approx(1.0)
    best, middle, uniform = (
        float(exact_path_variance(network, toy_losses, data, paths, probs))
        for probs in (norms / norms.sum(), factorised, torch.full_like(norms, 1 / len(paths)))
    )
    assert best == pytest.approx(float(norms.mean() ** 2 - gradients.mean(0).square().sum()), rel=1e-9)
    assert best < middle < uniform


# data


def test_output_gradients_of_cross_entropy_are_softmax_minus_one_hot():
    output, target = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2])
    expected = (output.softmax(1) - torch.eye(4, dtype=torch.float64)[target]).norm(dim=1)
    with torch.no_grad():
        torch.testing.assert_close(output_gradient_norm(output, target, class_losses), expected)


def test_output_gradients_of_squared_errors_are_residuals_of_rows_or_of_graphs():
    output, target = torch.randn(5, 3), torch.randn(5, 3)
    squares = partial(mse_loss, reduction="none")
    residual = 2 * (output - target)
    torch.testing.assert_close(output_gradient_norm(output, target, squares), residual.norm(dim=1))
    torch.testing.assert_close(output_gradient_norm(output[:, 0], target[:, 0], squares), residual[:, 0].abs())
    batch = torch.tensor([0, 1, 0, 1, 1])
    of_graphs = torch.stack([residual[batch == graph].norm() for graph in range(2)])
    torch.testing.assert_close(output_gradient_norm(output, target, squares, batch), of_graphs)
    assert not output.requires_grad


def test_output_gradients_of_a_reduced_loss_are_refused():
    with pytest.raises(ValueError, match="the loss is one number"):
        output_gradient_norm(torch.randn(5, 4), torch.zeros(5, dtype=torch.long), cross_entropy)


def test_output_gradients_rank_samples_as_gradients_of_the_weights_do_and_lower_the_variance(trained):
    network, data = trained
    path = network.space.largest()
    each = torch.cat(
        [path_gradients(network, toy_losses, data.take(torch.tensor([row])), [path]) for row in range(TRAIN)]
    )
    proxy = output_gradient_norm(network(data.x, path=path), data.y, class_losses)
    assert spearmanr(proxy, each.norm(dim=1)).statistic > 0.8
    uniform = torch.full((TRAIN,), 1 / TRAIN)
    assert sampling_variance(each, proxy / proxy.sum()) < 0.8 * sampling_variance(each, uniform)


# no bias


@pytest.mark.parametrize("allowed", [{}, {"basis": [0, 3], "hidden": [1]}])
def test_reweighted_paths_have_the_mean_gradient_of_all_and_published_ones_do_not(trained, allowed):
    network, data = trained
    space = network.space.restrict(**allowed)
    found = path_gradients(network, toy_losses, data, list(space.enumerate()))
    sampler = learned_sampler(space, found.norm(dim=1), share=0.9, reweight=True)
    probs = path_probabilities(sampler)
    weights = torch.tensor([sampler.weight(path) for path in space.enumerate()], dtype=torch.float64)
    mean = found.mean(0)
    assert float((probs * weights).sum()) == pytest.approx(1.0)
    torch.testing.assert_close(((probs * weights)[:, None] * found).sum(0), mean, rtol=1e-6, atol=1e-9)
    assert ((probs[:, None] * found).sum(0) - mean).norm() > 0.02 * mean.norm()


def test_draws_carry_the_weight_of_their_path_where_asked_for():
    space, norms = ToySupernet().space, torch.rand(108, dtype=torch.float64)
    for reweight in (True, False):
        sampler = learned_sampler(space, norms, share=0.9, reweight=reweight)
        for step in range(20):
            (draw,) = sampler.draw(step)
            expected = 1 / (108 * sampler.probability(draw.path)) if reweight else 1.0
            assert draw.weight == pytest.approx(expected)


def test_the_mean_gradient_of_a_ponita_is_that_of_its_reweighted_paths():
    space = SearchSpace(
        Choice("hidden_channels", (4, 8)), Choice("cutoff", (1.5, 4.0)), Choice("num_orientations", (4, 6))
    )
    supernet = PonitaSupernet(
        space, in_channels=3, in_vector_channels=2, num_layers=1, basis_channels=4, widening=1
    ).double()
    graph = random_graph([4, 3])

    def losses(model, batch):
        output = model(**batch).scalars
        return Losses(output.square().sum(1), output)

    found = path_gradients(supernet, losses, graph, list(space.enumerate()))
    sampler = learned_sampler(space, found.norm(dim=1), share=0.9, reweight=True)
    total = sum(
        sampler.probability(path) * sampler.weight(path) * row
        for path, row in zip(space.enumerate(), found, strict=True)
    )
    torch.testing.assert_close(total, found.mean(0), rtol=1e-9, atol=1e-12)


def test_reweighted_rows_have_the_mean_loss_of_all_and_published_ones_do_not():
    losses, index = torch.rand(6, dtype=torch.float64), torch.arange(6)
    for reweight in (True, False):
        sampler = ImportanceDataSampler(6, reweight=reweight)
        sampler.observe(index, losses.square() + 0.01)
        sampler.rows.epoch_end(1, 1)
        iter(sampler)
        error = (sampler.rows.probabilities * sampler.weights(index) * losses).sum() - losses.mean()
        assert (abs(float(error)) < 1e-6) == reweight


def test_rows_are_weighted_by_the_distribution_that_the_epoch_was_drawn_with():
    sampler = ImportanceDataSampler(4, reweight=True)
    iter(sampler)
    sampler.observe(torch.arange(4), torch.tensor([1.0, 2.0, 3.0, 10.0]))
    sampler.rows.epoch_end(1, 1)
    assert sampler.weights(torch.tensor([3, 0])).tolist() == [1, 1]
    iter(sampler)
    q = 0.9 * torch.tensor([10.0, 1.0]) / 16 + 0.1 / 4
    torch.testing.assert_close(sampler.weights(torch.tensor([3, 0])), 1 / (4 * q))


# Distributions


def test_averages_start_with_the_first_norm_and_move_by_ema():
    average = NormAverage(3, ema=0.25, lambda_max=0.9, persistent=True)
    average.observe(torch.tensor([2, 0]), torch.tensor([4.0, 1.0]))
    assert average.average.tolist() == [1, 0, 4]
    average.observe(torch.tensor([2, 2]), torch.tensor([7.0, 9.0]))
    assert average.average.tolist() == [1, 0, 5] and average.seen.tolist() == [True, False, True]


@pytest.mark.parametrize(("persistent", "scores"), [(True, [1.0, 2.5, 4.0]), (False, [1.0, 0.0, 4.0])])
def test_the_distribution_mixes_uniform_and_averages_by_the_epoch(persistent, scores):
    average = NormAverage(3, ema=0.5, lambda_max=0.8, persistent=persistent)
    for epoch in range(4):
        average.observe(torch.tensor([0, 2]), torch.tensor([1.0, 4.0]))
        average.epoch_end(epoch, 4)
        share = 0.8 * epoch / 4
        expected = [share * s / sum(scores) + (1 - share) / 3 for s in scores]
        assert average.probabilities.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("persistent", "scores"), [(True, [3.0, 3.0, 5.0]), (False, [5.0, 0.0, 5.0])])
def test_only_persistent_averages_outlive_an_epoch(persistent, scores):
    average = NormAverage(3, ema=0.5, lambda_max=1.0, persistent=persistent)
    average.observe(torch.tensor([0, 1]), torch.tensor([1.0, 3.0]))
    average.epoch_end(0, 2)
    average.observe(torch.tensor([0, 2]), torch.tensor([5.0, 5.0]))
    average.epoch_end(2, 2)
    assert average.probabilities.tolist() == pytest.approx([score / sum(scores) for score in scores])


@pytest.mark.parametrize("persistent", [True, False])
def test_without_a_norm_or_with_zeros_the_distribution_is_uniform(persistent):
    average = NormAverage(2, ema=0.5, lambda_max=0.9, persistent=persistent)
    average.epoch_end(1, 1)
    assert average.probabilities.tolist() == [0.5, 0.5]
    average.observe(torch.tensor([0]), torch.tensor([0.0]))
    average.epoch_end(1, 1)
    assert average.probabilities.tolist() == [0.5, 0.5]


def test_the_norm_of_a_path_goes_to_each_of_its_options_without_the_weight_of_its_loss():
    space = SearchSpace(Choice("width", (1, 2, 3)), Choice("depth", (1, 2)), allowed={"width": [0, 2]})
    for num_parameters, expected in ((None, 6.0), (lambda path: torch.tensor(9 * path[0] - 2), 1.5)):
        sampler = ImportanceSampler(space, num_parameters=num_parameters)
        sampler.observe(Draw((2, 0), weight=0.5), StepFeedback(torch.tensor(1.0), torch.ones(1), grad_norm=3.0))
        assert sampler.options["width"].average.tolist() == [0, expected]
        assert sampler.options["depth"].average.tolist() == [expected, 0]


def test_options_that_are_not_allowed_are_never_drawn():
    space = SearchSpace(Choice("width", (1, 2, 3)), Choice("depth", (1, 2)), allowed={"width": [0, 2]})
    sampler = learned_sampler(space, torch.tensor([1.0, 1.0, 9.0, 9.0]), share=0.9)
    probs = sampler.distributions()
    assert probs["width"].tolist() == pytest.approx([0.9 * 0.1 + 0.05, 0, 0.9 * 0.9 + 0.05])
    drawn = [sampler.draw(step)[0].path for step in range(500)]
    assert {path[0] for path in drawn} == {0, 2}
    assert sum(path[0] == 2 for path in drawn) / 500 == pytest.approx(0.86, abs=0.05)
    with pytest.raises(ValueError, match="not in the space"):
        sampler.probability((1, 0))


def test_rows_are_drawn_with_replacement_by_their_probabilities():
    sampler = ImportanceDataSampler(2000, lambda_max=1.0, seed=3)
    norms = torch.ones(2000)
    norms[:500], norms[-1] = 0, 501
    sampler.observe(torch.arange(2000), norms)
    assert sorted(sampler) != list(range(2000))
    sampler.rows.epoch_end(1, 1)
    drawn = list(sampler)
    assert len(sampler) == len(drawn) == 2000 and min(drawn) >= 500
    assert drawn.count(1999) / 2000 == pytest.approx(501 / 2000, abs=0.04)
    assert list(sampler) != drawn
    again = ImportanceDataSampler(2000, seed=3)
    assert list(again) == list(ImportanceDataSampler(2000, seed=3)) != list(ImportanceDataSampler(2000, seed=4))


@pytest.mark.parametrize(("point", "row"), [(0.0, 1), (1.0, 2)])
def test_draws_at_the_ends_of_the_unit_interval_are_rows_that_can_be_drawn(monkeypatch, point, row):
    sampler = ImportanceDataSampler(3, lambda_max=1.0)
    sampler.observe(torch.arange(3), torch.tensor([0.0, 1.0, 2.0]))
    sampler.rows.epoch_end(1, 1)
    monkeypatch.setattr(torch, "rand", lambda *sizes, **_: torch.full(sizes, point, dtype=torch.float64))
    assert list(sampler) == [row] * 3


@pytest.mark.parametrize("changes", [{"ema": 0.0}, {"ema": 1.1}, {"lambda_max": -0.1}, {"lambda_max": 1.1}])
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match="expected number >= 1"):
        ImportanceSampler(ToySupernet().space, **changes)
    with pytest.raises(ValueError, match="expected number >= 1"):
        ImportanceDataSampler(0)


# The loop


class IndexedData(torch.utils.data.Dataset):
    """Rows that know which they are."""

    def __init__(self, data: ToyData) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int):
        return self.data.x[row], self.data.y[row], row


def fit_with_importance(reweight: bool, told: bool = True, epochs: int = 4):
    """A short training with paths and data by importance; samplers, and what was seen of every step."""
    network, data = ToySupernet(), toy_data(64, seed=0, noise=NOISE)
    paths = ImportanceSampler(network.space, reweight=reweight, num_parameters=network.num_parameters)
    rows = ImportanceDataSampler(len(data), reweight=reweight)
    loader = torch.utils.data.DataLoader(IndexedData(data), batch_size=16, sampler=rows)
    steps = []

    def losses(model, batch):
        x, y, index = batch
        output = model(x)
        steps.append((model.path, index, rows.weights(index)))
        return Losses(class_losses(output, y), output, y, index if told else None, rows.weights(index))

    callback = DataImportance(rows, lambda f: output_gradient_norm(f.output, f.target, class_losses))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    SupernetTrainer(network, losses, optimizer, paths, [callback]).fit(loader, epochs)
    return network, paths, rows, steps


@pytest.mark.parametrize("reweight", [False, True])
def test_training_moves_both_distributions_away_from_uniform(reweight):
    _, paths, rows, steps = fit_with_importance(reweight)
    assert len(steps) == 16
    assert rows.rows.seen.sum() == len({row for _, index, _ in steps for row in index.tolist()})
    assert rows.rows.probabilities.std() > 1e-3
    widths = paths.distributions()["hidden"]
    assert float(widths.sum()) == pytest.approx(1.0) and widths.std() > 1e-3
    # The last epoch of four ended with 0.9 * 3 / 4 of the distribution learned.
    scores = torch.where(rows.rows.seen, rows.rows.average, rows.rows.average[rows.rows.seen].mean())
    torch.testing.assert_close(rows.rows.probabilities, 0.675 * scores / scores.sum() + 0.325 / 64)
    weighted = {weight for _, _, weights in steps for weight in weights.tolist()}
    assert (weighted == {1.0}) == (not reweight)


def test_the_first_norm_of_a_path_is_that_of_its_gradient_per_root_parameter():
    network, data = ToySupernet(), toy_data(32, seed=0)
    sampler = ImportanceSampler(network.space, reweight=True, num_parameters=network.num_parameters)
    sampler.options["hidden"].probabilities.copy_(torch.tensor([0.2, 0.3, 0.5]))
    trainer = SupernetTrainer(
        network, toy_losses, torch.optim.SGD(network.parameters(), lr=0.0), sampler, grad_clip=1e-3
    )
    trainer.train_step(data)
    (path,) = (p for p in network.space.enumerate() if all(
        sampler.options[name].seen[option] for name, option in zip(network.space, p, strict=True)
    ))  # fmt: skip
    norm = path_gradients(network, toy_losses, data, [path])[0].norm() / math.sqrt(network.num_parameters(path))
    option = path[list(network.space).index("hidden")]
    assert float(sampler.options["hidden"].average[option]) == pytest.approx(float(norm), rel=1e-5)


def test_a_loss_function_that_does_not_say_the_rows_is_refused():
    with pytest.raises(ValueError, match=r"no Losses\.index"):
        fit_with_importance(False, told=False)
