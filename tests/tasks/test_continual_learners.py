"""Learners of a stream: phases, first weights, what they store and write, and mistakes in their options."""

import copy
import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from support.continual import ELEMENTS, NETWORK, RECIPE, assert_same, fresh

from ponita.nn import calibrate
from ponita.tasks.continual.learners import Recipe
from ponita.tasks.continual.masked_learner import METHODS, make_learner, plain_copy
from ponita.tasks.continual.potential import ContinualPotentialTask
from ponita.tasks.continual.report import MethodErrors, forgetting, record, report_text
from ponita.tasks.continual.stages import Stages, check_trainer
from ponita.tasks.continual.stream import RMD17StreamDataModule


def test_each_phase_begins_with_an_optimiser_without_memory():
    learner = make_learner("exssnet", fresh(), RECIPE)
    learner.open(Stages(2, 4))
    optimizer = torch.optim.Adam(learner.parameters())
    pos, numbers = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 6, 8, 1])
    seen = []
    for epoch in range(8):
        learner.start_epoch(epoch // 4, epoch % 4, optimizer)
        seen.append(len(optimizer.state))
        optimizer.zero_grad()
        learner.potential(pos, numbers).sum().backward()
        optimizer.step()
        if epoch == 3:
            learner.finish()
    assert [count == 0 for count in seen] == [True, False, True, False] * 2


def test_phases_share_the_epochs_of_a_stage():
    for method, share, expected in (
        ("separate", 0.5, [("all", 6)]),
        ("supsup", 0.5, [("score", 6)]),
        ("exssnet", 0.5, [("score", 3), ("weight", 3)]),
        ("ssnet", 0.3, [("score", 2), ("weight", 4)]),
        ("exssnet", 0.01, [("score", 1), ("weight", 5)]),
        ("exssnet", 0.99, [("score", 5), ("weight", 1)]),
    ):
        learner = make_learner(method, fresh(), Recipe(0.3, share, 1e-3, 1e-3, 1e-3, 0))
        learner.open(Stages(2, 6))
        assert [(phase.name, phase.epochs) for phase in learner.phases] == expected
    assert [learner.at(epoch)[1] for epoch in range(6)] == [0, 1, 2, 3, 4, 0]


def test_networks_begin_alike_and_calibration_is_nothing_to_signs():
    methods = {method: make_learner(method, fresh(), RECIPE) for method in METHODS}
    methods["separate"].open(Stages(3, 2))
    for one, other in itertools.combinations(methods["separate"].potentials, 2):
        assert_same(dict(one.state_dict()), dict(other.state_dict()))
    assert_same(dict(methods["sequential"].only.state_dict()), dict(fresh().state_dict()))
    calibrated = fresh()
    pos = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    calibrate(calibrated, {"pos": pos, "numbers": torch.tensor([1, 6, 8, 1, 6, 1])})
    assert not torch.equal(calibrated.network.blocks[0].conv.kernel.weight, fresh().network.blocks[0].conv.kernel.weight)  # fmt: skip
    assert_same(dict(make_learner("exssnet", calibrated, RECIPE).state_dict()), dict(methods["exssnet"].state_dict()))


def test_first_scores_are_drawn_from_the_seed_and_the_stage():
    def masks(method, seed):
        learner = make_learner(method, fresh(), Recipe(0.3, 0.5, 1e-3, 1e-3, 1e-3, seed))
        learner.open(Stages(2, 4))
        for stage in (0, 1):
            learner.start_epoch(stage, 0, torch.optim.Adam(learner.parameters()))
            learner.finish()
        return learner.learning.bank.masks["network.blocks.0.linear_1"].packed

    first = masks("exssnet", 0)
    assert not torch.equal(first[0], first[1]) and not torch.equal(first, masks("exssnet", 1))
    assert torch.equal(first, masks("supsup", 0))


def test_storage_is_that_of_bits_of_own_parameters_and_of_what_is_shared():
    potential = fresh()
    matrices = [p.numel() for p in potential.parameters() if p.dim() == 2]
    rest = sum(p.numel() for p in potential.parameters() if p.dim() < 2)
    bits = sum(math.ceil(number / 8) for number in matrices)
    network = 4 * (sum(matrices) + rest)
    expected = {
        "separate": (network, 0),
        "sequential": (0, network),
        "supsup": (bits + 4 * rest, bits),
        "ssnet": (bits + 4 * rest, 4 * sum(matrices)),
        "exssnet": (bits + 4 * rest, 4 * sum(matrices)),
    }
    learners = {method: make_learner(method, fresh(), RECIPE) for method in METHODS}
    for learner in learners.values():
        learner.open(Stages(2, 4))
        for stage in (0, 1):
            learner.start_epoch(stage, 0, torch.optim.Adam(learner.parameters()))
            learner.finish()
    stored = {method: learner.stored_bytes() for method, learner in learners.items()}
    assert stored == expected
    found = {method: MethodErrors([[1.0], [2.0, 3.0]], [[1.0], [2.0, 3.0]], [4.0, 5.0], [6.0, 7.0]) for method in METHODS}  # fmt: skip
    results = record(["a", "b", "c"], found, stored)
    assert results["molecules"] == ["a", "b"] and results["methods"]["exssnet"]["forgetting"] == 1.0
    assert results["methods"]["separate"]["kb"] == pytest.approx(2 * network / 1000)
    assert results["methods"]["supsup"]["kb"] == pytest.approx((2 * (bits + 4 * rest) + bits) / 1000)
    assert "4.5" in report_text(results) and "6.5" in report_text(results)


def test_forgetting_is_what_errors_grew_by_since_a_molecule_was_just_learned():
    assert forgetting([[1.0], [5.0, 2.0], [4.0, 9.0, 3.0]]) == pytest.approx(((4 - 1) + (9 - 2)) / 2)
    assert forgetting([[1.0]]) is None and forgetting([]) is None


def test_a_plain_copy_is_apart_from_what_it_is_of():
    learner = make_learner("exssnet", fresh(), RECIPE)
    learner.open(Stages(1, 4))
    learner.start_epoch(0, 0, torch.optim.Adam(learner.parameters()))
    learner.finish()
    copied = plain_copy(learner.potential)
    masked = copied.network.blocks[0].linear_1.weight
    assert float((masked != 0).double().mean()) == pytest.approx(0.3, abs=0.05)
    assert_same(dict(copied.state_dict()), dict(copy.deepcopy(copied).state_dict()))
    before = masked.clone()
    learner.potential.network.blocks[0].linear_1.parametrizations.weight.original.data.zero_()
    assert torch.equal(copied.network.blocks[0].linear_1.weight, before)


def task(**options):
    return ContinualPotentialTask(**{"network": NETWORK, "elements": ELEMENTS, **options})


def trainer(**options):
    good = {"world_size": 1, "reload_dataloaders_every_n_epochs": 1, "max_epochs": 12, "max_steps": -1}
    return SimpleNamespace(**{**good, "fast_dev_run": False, **options})


MISTAKES = {
    "method": (lambda: task(methods=["exssnet", "best"]), "'best'.*expected different ones of"),
    "method twice": (lambda: task(methods=["supsup", "supsup"]), "expected different ones of"),
    "no method": (lambda: task(methods=[]), "expected different ones of"),
    "a method alone": (lambda: make_learner("best", fresh(), RECIPE), "method 'best'"),
    "molecule": (lambda: RMD17StreamDataModule(["water"]), "'water'.*expected different ones"),
    "molecule twice": (lambda: RMD17StreamDataModule(["ethanol", "ethanol"]), "expected different ones"),
    "no epochs": (lambda: RMD17StreamDataModule(["ethanol"], 0), "expected at least 1 of both"),
    "density 0": (lambda: task(density=0.0), "density=0.0; expected a share above 0"),
    "density": (lambda: task(density=1.5), "density=1.5"),
    "share": (lambda: task(score_share=1.0), "score_share=1.0"),
    "rate": (lambda: task(score_lr=0.0), "positive rates"),
    "one epoch": (lambda: make_learner("exssnet", fresh(), RECIPE).open(Stages(2, 1)), "takes 2 at least"),
    "epochs": (lambda: check_trainer(trainer(max_epochs=11), Stages(3, 4)), "--trainer.max_epochs 12"),
    "steps": (lambda: check_trainer(trainer(max_steps=5), Stages(3, 4)), "max_steps=5"),
    "loaders": (
        lambda: check_trainer(trainer(reload_dataloaders_every_n_epochs=0), Stages(3, 4)),
        "all epochs have the data of the first stage",
    ),
    "devices": (lambda: check_trainer(trainer(world_size=2), Stages(3, 4)), "2 devices; .* runs on one"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named(case):
    check_trainer(trainer(), Stages(3, 4))
    make, message = MISTAKES[case]
    with pytest.raises(ValueError, match=message):
        make()
