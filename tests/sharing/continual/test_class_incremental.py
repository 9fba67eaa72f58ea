"""Classes that arrive two at a time: what alignment adds to distillation, and what its cap prevents."""

import copy

import torch
from torch import nn

from ponita.sharing.continual import AlignConfig, ExemplarMemory, align_weights, grow_head, incremental_loss

WIDTH, CLASSES, STAGES, EACH, BUDGET, EPOCHS = 16, 10, 5, 150, 100, 20
CENTRES = torch.randn(CLASSES, 3, WIDTH, generator=torch.Generator().manual_seed(7))


def clusters(number, seed):
    """`number` points of each class, which has three clusters."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(CLASSES).repeat_interleave(number)
    which = torch.randint(3, (len(y),), generator=generator)
    return CENTRES[y, which] + 0.9 * torch.randn(len(y), WIDTH, generator=generator), y


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU())
        self.head = nn.Linear(64, 2, bias=False)

    def forward(self, x):
        return self.head(self.features(x))


def train(net, x, y, teacher, stage, generator):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4 / (stage + 1))
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            target = None if teacher is None else teacher(x[rows]).detach()
            optimizer.zero_grad()
            incremental_loss(net(x[rows]), y[rows], target).backward()
            optimizer.step()


def learned(seed, config, align=True):
    """Accuracy on all classes seen, after each stage."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    (x, y), (x_test, y_test) = clusters(EACH, seed), clusters(60, 99)
    net, teacher, memory, found = Net(), None, ExemplarMemory(BUDGET), []
    for stage in range(STAGES):
        old, seen = 2 * stage, 2 * stage + 2
        if stage > 0:
            net.head = grow_head(net.head, seen, config.head_init)
        new = ((y >= old) & (y < seen)).nonzero()[:, 0]
        rows = torch.cat([new, torch.tensor(memory.indices(), dtype=torch.long)])
        train(net, x[rows], y[rows], teacher, stage, generator)
        if stage > 0 and align:
            align_weights(net.head, old, p=config.p, max_gamma=config.max_gamma)
        with torch.no_grad():
            memory.update(new.tolist(), net.features(x[new]), y[new])
            tested = y_test < seen
            found.append(float((net(x_test[tested]).argmax(1) == y_test[tested]).double().mean()))
        teacher = copy.deepcopy(net)
    return found


def test_alignment_adds_to_distillation_when_heads_are_fresh():
    config, last, average = AlignConfig(), 0.0, 0.0
    for seed in range(2):
        with_, without = learned(seed, config), learned(seed, config, align=False)
        assert with_[0] == without[0]
        last += (with_[-1] - without[-1]) / 2
        average += (sum(with_) - sum(without)) / len(with_) / 2
    assert last > 0.02 and average > 0.01


def test_without_its_cap_alignment_harms_heads_whose_old_rows_are_kept():
    capped, uncapped = (AlignConfig(head_init="copy", max_gamma=most) for most in (1.0, None))
    lost = [learned(seed, capped)[-1] - learned(seed, uncapped)[-1] for seed in range(2)]
    assert sum(lost) / 2 > 0.05
