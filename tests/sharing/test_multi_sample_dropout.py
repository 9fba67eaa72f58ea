"""Multi-sample dropout: variance of its gradient, what its loss is, and read-outs of networks."""

import pytest
import torch
from torch import nn

from ponita import Ponita
from ponita.models import Potential
from ponita.sharing.regularization import MultiSampleHead, ReadoutSampler
from ponita.tasks.potential import EnergyForceTask

POS = torch.tensor([[0.0, 0, 0], [0.9, 0.1, 0.2], [-0.2, 1.1, 0.1], [0.3, -0.4, 1.2]], dtype=torch.float64)
GRAPH = torch.tensor([0, 0, 1, 1])
EDGES = torch.tensor([[1, 0, 3, 2], [0, 1, 2, 3]])


def network(**options) -> Ponita:
    torch.manual_seed(3)
    sizes = {"hidden_channels": 8, "basis_channels": 8, "num_layers": 2, "num_orientations": 12, "cutoff": 3.0}
    return Ponita(2, out_channels=2, out_vector_channels=1, **{**sizes, **options}).double()


def run(model: Ponita, pos: torch.Tensor = POS):
    return model(pos, EDGES, torch.eye(2, dtype=torch.float64)[[0, 1, 0, 1]], batch=GRAPH, num_graphs=2)


def test_the_variance_of_the_gradient_falls_as_one_over_the_samples():
    torch.manual_seed(0)
    h, y = torch.randn(16, 10), torch.randn(16, 1)

    def variance(samples: int, draws: int = 3000) -> float:
        head = MultiSampleHead(nn.Linear(10, 1), samples, 0.3)
        torch.nn.init.constant_(head.head.weight, 0.3)
        gradients = []
        for _ in range(draws):
            (gradient,) = torch.autograd.grad(head.loss(h, y, nn.functional.mse_loss), [head.head.weight])
            gradients.append(gradient.flatten())
        return torch.stack(gradients).var(0).sum().item()

    single = variance(1)
    for samples in (2, 4, 8):
        assert 0.85 * samples < single / variance(samples) < 1.15 * samples


def test_one_sample_is_plain_dropout_and_evaluation_is_the_head():
    head, h = MultiSampleHead(nn.Linear(6, 2), 1, 0.4), torch.randn(5, 6)
    torch.manual_seed(1)
    found = head(h)
    torch.manual_seed(1)
    torch.testing.assert_close(found[0], head.head(nn.functional.dropout(h, 0.4)))
    assert torch.equal(head.eval()(h), head.head(h)[None])
    assert torch.equal(MultiSampleHead(head.head, 8, 0.0)(h), head.head(h)[None])
    assert MultiSampleHead(head.head, 8, 0.5)(h).shape == (8, 5, 2)


def test_the_loss_of_samples_is_that_of_their_mean_and_their_variance():
    torch.manual_seed(0)
    head, h, y = (
        MultiSampleHead(nn.Linear(6, 1), 4, 0.4).double(),
        torch.randn(5, 6).double(),
        torch.randn(5, 1).double(),
    )
    torch.manual_seed(1)
    loss = head.loss(h, y, nn.functional.mse_loss)
    torch.manual_seed(1)
    samples = head(h)
    expected = (samples.mean(0) - y).square().mean() + samples.var(0, unbiased=False).mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(("samples", "p"), [(0, 0.5), (2, 1.0), (2, -0.1)])
def test_samples_and_probabilities_are_checked(samples, p):
    with pytest.raises(ValueError, match=r"expected at least one sample, and 0 <= p < 1"):
        MultiSampleHead(nn.Identity(), samples, p)
    with pytest.raises(ValueError, match=r"expected at least one sample, and 0 <= p < 1"):
        ReadoutSampler(network(), samples, p)


def test_a_network_runs_once_for_all_samples_and_returns_their_mean():
    model = network().train()
    calls = []
    model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    plain = run(model)
    sampler = ReadoutSampler(model, 6, 0.4)
    assert torch.equal(run(model).scalars, plain.scalars)  # not before it is told of a batch
    sampler.begin(GRAPH, 2, torch.Generator().manual_seed(0))
    calls.clear()
    mean = run(model)
    added = sampler.deviations()
    assert len(calls) == 1
    assert added.scalars.shape == (6, 2, 2) and added.vectors.shape == (6, 2, 1, 3)
    torch.testing.assert_close(added.scalars.mean(0), torch.zeros(2, 2).double(), rtol=0, atol=1e-12)
    assert (mean.scalars - plain.scalars).abs().max() > 1e-3 and added.scalars.abs().max() > 1e-3
    sampler.begin(GRAPH, 2)
    assert torch.equal(run(model.eval()).scalars, plain.scalars)
    assert sampler.deviations().scalars.abs().max() == 0
    sampler.remove()
    sampler.begin(GRAPH, 2)
    assert torch.equal(run(model.train()).scalars, plain.scalars)


def test_each_sample_is_dropout_of_the_pooled_features():
    model = network(readouts="last").train()
    kept = {}
    model.readouts["1"].register_forward_pre_hook(lambda module, inputs: kept.update(x=inputs[0].detach()))
    sampler = ReadoutSampler(model, 3, 0.5)
    sampler.begin(GRAPH, 2, torch.Generator().manual_seed(7))
    mean, added = run(model), sampler.deviations()
    masks = 2.0 * (torch.rand((3, 2, 8), generator=torch.Generator().manual_seed(7)) >= 0.5).double()
    pooled = torch.zeros(2, 8, dtype=torch.float64).index_add_(0, GRAPH, kept["x"].mean(1))
    linear = model.readouts["1"].linear
    weight, bias = linear.weight[:2], linear.bias[:2]
    torch.testing.assert_close(mean.scalars + added.scalars, (masks * pooled) @ weight.T + 2 * bias)


def test_a_draw_is_as_equivariant_as_the_network():
    model = network().train()
    sampler = ReadoutSampler(model, 2, 0.5)
    turn = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))  # a symmetry of the grid
    results = []
    for pos in (POS, POS @ turn):
        sampler.begin(GRAPH, 2, torch.Generator().manual_seed(0))
        results.append(run(model, pos))
    torch.testing.assert_close(results[1].scalars, results[0].scalars, rtol=0, atol=1e-11)
    torch.testing.assert_close(results[1].vectors, results[0].vectors @ turn, rtol=0, atol=1e-11)


def test_a_network_in_cloud_mode_is_refused():
    with pytest.raises(ValueError, match="mode='bundle'"):
        ReadoutSampler(network(mode="cloud"), 2, 0.5)


def test_the_energy_loss_of_a_potential_is_the_mean_over_samples_and_forces_are_of_the_mean():
    torch.manual_seed(0)
    task = EnergyForceTask(
        Ponita(2, hidden_channels=8, basis_channels=8, num_layers=2, cutoff=3.0), [1, 8], self_loops=False
    )
    assert isinstance(task.model, Potential)
    from torch_geometric.data import Batch, Data

    one = Data(
        pos=POS.float(), numbers=torch.tensor([1, 8, 1, 8]), energy=torch.zeros(1).double(), forces=torch.zeros(4, 3)
    )
    batch = Batch.from_data_list([one, one])
    task.sampler = ReadoutSampler(task.network, 5, 0.4)
    task.train()
    task.sampler.begin(batch.batch, 2, torch.Generator().manual_seed(0))
    losses = task.losses(batch)
    task.sampler.begin(batch.batch, 2, torch.Generator().manual_seed(0))
    mean = task(batch)
    energies = mean.energy + task.sampler.deviations().scalars[..., 0]
    torch.testing.assert_close(losses["energy"], energies.square().mean())
    torch.testing.assert_close(losses["forces"], mean.forces.square().mean())
    assert energies.var(0, unbiased=False).min() > 1e-8


def steps_to(samples: int, seed: int, goal: float = 0.25, p: float = 0.5, most: int = 1500) -> int:
    """Optimiser steps until the loss of evaluation on the training set is below the goal."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 8, generator=generator)
    y = torch.sin(x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    torch.manual_seed(seed)
    trunk, head = nn.Sequential(nn.Linear(8, 32), nn.Tanh()), MultiSampleHead(nn.Linear(32, 1), samples, p)
    optimizer = torch.optim.Adam([*trunk.parameters(), *head.parameters()], lr=5e-3)
    for step in range(most):
        optimizer.zero_grad()
        head.train().loss(trunk(x), y, nn.functional.mse_loss).backward()
        optimizer.step()
        if step % 5 == 0 and nn.functional.mse_loss(head.eval()(trunk(x))[0], y) < goal:
            return step
    return most


def test_more_samples_learn_in_fewer_steps_and_without_dropout_they_change_nothing():
    one, eight = (torch.tensor([steps_to(m, seed) for seed in range(4)], dtype=torch.float) for m in (1, 8))
    assert eight.mean() < 0.95 * one.mean()
    assert steps_to(1, 0, p=0.0) == steps_to(8, 0, p=0.0)
