"""Supermasks: nothing is forgotten, to the last bit; what is selected, what may change, and where a task starts from."""

import math

import pytest
import torch
from torch import nn

from ponita import Ponita
from ponita.geometry import fully_connected
from ponita.geometry.symmetry import grid_symmetry
from ponita.sharing.continual import KnnTransfer, Learning, TopKMask, attach_supermasks, check_optimizer, learn_task
from ponita.sharing.continual.knn_transfer import Choice, start_from
from ponita.sharing.continual.supermask import num_kept, pack, unpack
from ponita.testing import assert_equivariant

CLASSES, CLUSTERS, WIDTH = 4, 24, 12


def centres() -> torch.Tensor:
    return torch.randn(CLUSTERS, WIDTH, generator=torch.Generator().manual_seed(5))


def task_data(task: int, number: int = 600, seed: int = 0, labels_of: int | None = None):
    """Four classes over 24 clusters; tasks give the same clusters other classes."""
    order = torch.Generator().manual_seed(50 + (task if labels_of is None else labels_of))
    label = torch.randperm(CLUSTERS, generator=order) % CLASSES
    generator = torch.Generator().manual_seed(1000 * seed + task)
    cluster = torch.randint(CLUSTERS, (number,), generator=generator)
    x = centres()[cluster] + 0.7 * torch.randn(number, WIDTH, generator=generator)
    return x, label[cluster]


class Net(nn.Module):
    def __init__(self, width: int = 64):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, width, bias=False), nn.Linear(width, width, bias=False)
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.head = nn.Linear(width, CLASSES, bias=False)

    def features(self, x):
        h = nn.functional.gelu(self.norms[0](self.first(x)))
        return nn.functional.gelu(self.norms[1](self.second(h)))

    def forward(self, x):
        return self.head(self.features(x))


def learner(density=0.1, exclusive=True, seed=0, **options):
    torch.manual_seed(seed)
    net = Net()
    return net, attach_supermasks(net, density, exclusive=exclusive, **options)


def fitting(net, bank, task, steps=60, seed=0, decay=0.0, labels_of=None):
    x, y = task_data(task, labels_of=labels_of)
    generator = torch.Generator().manual_seed(seed)

    def fit(phase):
        lr = 0.01 if phase == "score" else 0.03
        optimizer = torch.optim.AdamW(bank.parameters_for_phase(), lr=lr, weight_decay=decay)
        for _ in range(steps):
            rows = torch.randint(len(x), (64,), generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()

    return fit


def accuracy(net, bank, task, labels_of=None):
    bank.set_task(task)
    x, y = task_data(task, 500, seed=1, labels_of=labels_of)
    with torch.no_grad():
        return float((net(x).argmax(1) == y).double().mean())


def learned(tasks, mode="exssnet", density=0.1, steps=60, seed=0):
    net, bank = learner(density, mode != "ssnet", seed)
    after = []
    for task in range(tasks):
        fit = fitting(net, bank, task, steps if mode != "supsup" else 2 * steps, seed)
        learn_task(bank, fit, mode, generator=torch.Generator().manual_seed(100 * seed + task))
        after.append(accuracy(net, bank, task))
    return net, bank, after


def test_the_mask_keeps_the_largest_and_gradients_pass_with_their_sign():
    scores = torch.tensor([0.5, -2.0, 0.1], requires_grad=True)
    weight, gradient = torch.tensor([3.0, 4.0, 5.0]), torch.tensor([1.0, 10.0, 100.0])
    mask = TopKMask.apply(scores, 1)
    assert mask.tolist() == [0, 1, 0]
    ((weight * mask) @ gradient).backward()
    assert scores.grad.tolist() == [3, -40, 500]


@pytest.mark.parametrize(("number", "density", "kept"), [(1000, 0.1, 100), (768, 0.02, 16), (7, 0.5, 4), (10, 1.0, 10)])
def test_so_many_are_kept(number, density, kept):
    assert num_kept(number, density) == kept


def test_bits_are_packed_eight_to_a_byte():
    mask = torch.rand(7, 5, generator=torch.Generator().manual_seed(0)) < 0.4
    assert pack(mask).shape == (5,) and pack(mask).dtype == torch.uint8
    assert torch.equal(unpack(pack(mask), (7, 5)), mask)


def test_earlier_tasks_stay_the_same_to_the_last_bit():
    net, bank = learner()
    probe, outputs, weights = task_data(0, 40, seed=2)[0], [], []
    for task in range(4):
        learn_task(bank, fitting(net, bank, task, 30))
        bank.set_task(task)
        outputs.append(net(probe).detach())
        weights.append([layer.parametrizations.weight.original.detach().clone() for layer in bank.layers()])
        for earlier in range(task + 1):
            bank.set_task(earlier)
            assert torch.equal(net(probe), outputs[earlier])
            for mask, now, then in zip(bank.masks.values(), weights[-1], weights[earlier], strict=True):
                assert torch.equal(now[mask.of_task(earlier)], then[mask.of_task(earlier)])
    moved = [(a != b).double().mean() for a, b in zip(weights[0], weights[-1], strict=True)]
    assert max(moved) > 0.05


def test_without_exclusion_weights_of_earlier_tasks_change():
    _, bank, after = learned(4, "ssnet")
    net = bank.model
    final = [accuracy(net, bank, task) for task in range(4)]
    assert sum(after) - sum(final) > 0.02
    _, bank, after = learned(4)
    assert [accuracy(bank.model, bank, task) for task in range(4)] == after


def test_training_weights_beats_masks_of_frozen_ones():
    gains = [sum(learned(3, seed=seed)[2]) - sum(learned(3, "supsup", seed=seed)[2]) for seed in (0, 1)]
    assert sum(gains) / 6 > 0.02


def test_decay_and_used_optimisers_are_caught():
    net, bank = learner()
    learn_task(bank, fitting(net, bank, 0, 5))
    with pytest.raises(RuntimeError, match="weights of earlier tasks changed"):
        learn_task(bank, fitting(net, bank, 1, 5, decay=0.1))
    with pytest.raises(ValueError, match="set weight_decay=0"):
        check_optimizer(torch.optim.AdamW(net.parameters()))
    used = torch.optim.Adam(bank.parameters_for_phase() or list(net.parameters()))
    bank.phase("weight")
    used = torch.optim.Adam(bank.parameters_for_phase())
    assert check_optimizer(used) is used
    net(task_data(0)[0]).sum().backward()
    used.step()
    with pytest.raises(ValueError, match="was used before"):
        check_optimizer(used)


@pytest.mark.parametrize("density", [0.1, 0.02])
def test_what_is_free_shrinks_by_the_density(density):
    torch.manual_seed(0)
    bank = attach_supermasks(Net(200), density)
    generator = torch.Generator().manual_seed(0)
    for task in range(20):
        bank.begin_task(task, generator)
        bank.finish_scores()
    for task in (0, 1, 10, 19):
        assert bank.free_fraction(task) == pytest.approx((1 - density) ** task, abs=0.05)
    assert bank.free_fraction(0) == 1.0


def test_a_full_network_is_said_to_be_full():
    _, bank = learner(0.9)
    generator = torch.Generator().manual_seed(0)
    for task in range(2):
        bank.begin_task(task, generator)
        bank.finish_scores()
    bank.begin_task(2, generator)
    with pytest.warns(UserWarning, match="may be trained, the rest belongs to earlier tasks"):
        bank.finish_scores()


def test_scores_outside_of_the_mask_are_trained_and_weights_are_not():
    net, bank = learner()
    bank.begin_task(0, torch.Generator().manual_seed(0))
    bank.phase("score")
    net(task_data(0)[0]).square().sum().backward()
    scores = next(iter(bank.masks.values())).scores
    assert (scores.grad != 0).double().mean() > 0.9
    assert all(layer.parametrizations.weight.original.grad is None for layer in bank.layers())
    bank.finish_scores()
    bank.phase("weight")
    net(task_data(0)[0]).square().sum().backward()
    for layer, mask in zip(bank.layers(), bank.masks.values(), strict=True):
        gradient = layer.parametrizations.weight.original.grad
        assert not gradient[~mask.of_task(0)].any() and gradient[mask.of_task(0)].any()


def test_the_donor_is_the_task_with_the_same_labels():
    net, bank, _ = learned(3)
    for labels_of in range(3):
        x, y = task_data(3 + labels_of, 600, labels_of=labels_of)
        choice = KnnTransfer(k=10).choose(bank, net.features, x, y, CLASSES)
        assert choice.task == labels_of and len(choice.scores) == 3
    assert bank.task == 2
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    assert KnnTransfer(margin=0.05).choose(bank, net.features, x, shuffled, CLASSES).task is None


def test_numbers_are_predicted_by_the_mean_of_the_neighbours():
    net, bank, _ = learned(1)
    x, _ = task_data(0, 600)
    near, far = x[:, 0] + x[:, 1], torch.randn(600, generator=torch.Generator().manual_seed(3))
    scores = [KnnTransfer().choose(bank, net.features, x, y, None) for y in (near, far)]
    assert scores[0].scores[0] > 0.3 and scores[0].task == 0
    assert scores[1].scores[0] < 0 and scores[1].task is None


def test_a_start_from_a_donor_has_its_mask_and_leaves_it_alone():
    _, bank, _ = learned(2, steps=5)
    before = [mask.packed.clone() for mask in bank.masks.values()]
    bank.begin_task(2, torch.Generator().manual_seed(1))
    fresh = [mask.scores.abs().flatten().sort().values for mask in bank.masks.values()]
    start_from(bank, 0)
    for mask, packed, sizes in zip(bank.masks.values(), before, fresh, strict=True):
        assert torch.equal(mask.packed, packed)
        torch.testing.assert_close(mask.scores.abs().flatten().sort().values, sizes)
        kept = TopKMask.apply(mask.scores, mask.keep).bool()
        assert torch.equal(kept, mask.of_task(0))


def test_repeated_tasks_are_learned_faster_from_their_donor():
    gains = []
    for seed in (0, 1):
        for use in (True, False):
            net, bank, _ = learned(2, seed=seed)
            x, y = task_data(7, 600, labels_of=1)
            donor = (
                (lambda net=net, bank=bank, x=x, y=y: KnnTransfer().choose(bank, net.features, x, y, CLASSES))
                if use
                else None
            )
            generator = torch.Generator().manual_seed(seed)
            choice = learn_task(bank, fitting(net, bank, 7, 12, seed, labels_of=1), donor=donor, generator=generator)
            assert choice.task == (1 if use else None)
            x, y = task_data(7, 500, seed=1, labels_of=1)
            found = float((net(x).argmax(1) == y).double().mean())
            gains.append(found if use else -found)
    assert sum(gains) > 0.02


def test_tasks_are_stored_as_bits_and_restored():
    net, bank, after = learned(2, steps=20)
    assert bank.task_bytes() == sum(math.ceil(layer.weight.numel() / 8) for layer in bank.layers())
    other, restored = learner(seed=9)
    other.load_state_dict(net.state_dict())
    restored.load_state_dict(bank.state_dict())
    assert restored.num_tasks == 2
    assert [accuracy(other, restored, task) for task in (0, 1)] == after


@pytest.mark.parametrize("stop", ["score", "weight"])
def test_learning_that_stops_in_a_phase_goes_on_to_the_same_bits(stop):
    """Half of a phase, its state into another network, and the other half."""

    def begun():
        net, bank = learner()
        learn_task(bank, fitting(net, bank, 0, 5))
        learning = Learning(bank)
        learning.begin(generator=torch.Generator().manual_seed(1))
        if stop == "weight":
            fitting(net, bank, 1, 5)("score")
            learning.begin_weights()
        fitting(net, bank, 1, 5)(stop)
        return net, bank, learning

    def ended(net, bank, learning):
        fitting(net, bank, 1, 5, seed=1)(stop)
        if stop == "score":
            learning.begin_weights()
            fitting(net, bank, 1, 5)("weight")
        learning.finish()
        return [net(task_data(0, 40, seed=2)[0]).detach() for task in (0, 1) if bank.set_task(task) is None]

    whole = ended(*begun())
    net, _, learning = begun()
    other, restored = learner(seed=9)
    other.load_state_dict(net.state_dict())
    again = Learning(restored)
    again.load_state_dict(learning.state_dict())
    assert again.phase == stop and restored.task == 1
    assert all(torch.equal(a, b) for a, b in zip(whole, ended(other, restored, again), strict=True))


def test_what_was_protected_before_a_stop_is_checked_after_it():
    net, bank = learner()
    learn_task(bank, fitting(net, bank, 0, 5))
    learning = Learning(bank)
    learning.begin()
    learning.begin_weights()
    state = learning.state_dict()
    with torch.no_grad():
        next(bank.layers()).parametrizations.weight.original.add_(1)
    again = Learning(bank)
    again.load_state_dict(state)
    with pytest.raises(RuntimeError, match="weights of earlier tasks changed"):
        again.finish()


def test_each_task_has_biases_of_its_own_where_asked():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, CLASSES))
    bank = attach_supermasks(net, 0.3, per_task=["0.bias", "2.bias"])
    probe, outputs = task_data(0, 30, seed=2)[0], []
    for task in range(3):
        learn_task(bank, fitting(net, bank, task, 20))
        outputs.append(net(probe).detach())
    for task in range(3):
        bank.set_task(task)
        assert torch.equal(net(probe), outputs[task])
    values = []
    for task in range(3):
        bank.set_task(task)
        values.append(net[0].bias.detach().clone())
    assert not torch.equal(values[0], values[1])


def test_masked_networks_are_as_equivariant_as_before():
    torch.manual_seed(0)
    net = Ponita(1, hidden_channels=8, basis_channels=8, num_layers=2, num_orientations=12).double()
    bank = attach_supermasks(net, 0.3)
    bank.begin_task(0, torch.Generator().manual_seed(0))
    bank.finish_scores()
    pos = torch.randn(5, 3, dtype=torch.float64)
    inputs = {
        "pos": pos,
        "edge_index": fully_connected(torch.zeros(5, dtype=torch.long)),
        "x": torch.ones(5, 1).double(),
    }
    first = net(**inputs).scalars
    bank.begin_task(1, torch.Generator().manual_seed(1))
    bank.finish_scores()
    assert not torch.equal(net(**inputs).scalars, first)
    for task in (0, 1):
        bank.set_task(task)
        assert_equivariant(net, inputs, rotations=grid_symmetry(12)[:6], tolerance=1e-9)
    bank.set_task(0)
    assert torch.equal(net(**inputs).scalars, first)


def _with_scores(mode):
    learning = Learning(learner()[1], mode)
    learning.begin()
    return learning


MISTAKES = {
    "density": (lambda: attach_supermasks(Net(), 0.0), "density=0.0"),
    "no layers": (lambda: attach_supermasks(nn.GELU()), "no linear layers"),
    "twice": (lambda: attach_supermasks(learner()[0]), "parametrised already"),
    "out of turn": (lambda: learner()[1].begin_task(3), "the next is 0"),
    "not learned": (lambda: learner()[1].set_task(0), "task 0 was not learned"),
    "phase": (lambda: learner()[1].phase("sleep"), "expected one of"),
    "weights first": (lambda: learner()[1].phase("weight"), "are not finished"),
    "mode": (lambda: learn_task(learner()[1], print, "other"), "expected one of"),
    "ablation": (lambda: learn_task(learner()[1], print, "ssnet"), "attach the masks with exclusive=False"),
    "weights unasked": (lambda: Learning(learner()[1]).begin_weights(), "weights are trained after scores"),
    "masks alone": (lambda: _with_scores("supsup").begin_weights(), "weights are trained after scores"),
    "nothing begun": (lambda: Learning(learner()[1]).finish(), "no task was begun"),
    "neighbours": (lambda: KnnTransfer(k=0), "k=0"),
    "few": (
        lambda: KnnTransfer(k=50).choose(learner()[1], None, torch.zeros(9, 2), torch.zeros(9), 2),
        "9 samples leave 6 references",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named(case):
    make, message = MISTAKES[case]
    with pytest.raises(ValueError, match=message):
        make()
    assert Choice(None).scores == []
