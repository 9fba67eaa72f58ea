"""Controllers whose decisions depend on those before, and their formulas by hand."""

import torch
from torch import nn

from ponita.sharing.search.controller import Controller
from ponita.sharing.search.space import Choice, SearchSpace

CUBE = SearchSpace(*(Choice(name, (1, 2, 3)) for name in "abc"))


UNEVEN = SearchSpace(
    Choice("width", (4, 8)), Choice("kind", ("x", "y", "z", "w"), ordered=False), Choice("depth", (1, 2, 3))
)


RESTRICTED = UNEVEN.restrict(kind=[1, 3], depth=[1])


def rough(space, scale=0.5, **options):
    """A controller in float64 whose weights are large enough that decisions depend on those before."""
    controller = Controller(space, hidden=8, **options).double()
    generator = torch.Generator().manual_seed(3)
    for parameter in controller.parameters():
        nn.init.normal_(parameter, std=scale, generator=generator)
    return controller


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


def gradient(value, module, **options):
    return flat(torch.autograd.grad(value, list(module.parameters()), materialize_grads=True, **options))


def by_hand(controller, architectures):
    """Logits of every decision and states, by an LSTM cell and the formulas."""
    lstm, heads = controller.lstm, controller.heads
    cell = nn.LSTMCell(lstm.input_size, lstm.hidden_size).double()
    for name, parameter in cell.named_parameters():
        parameter.data = getattr(lstm, f"{name}_l0").data
    decisions = torch.tensor(architectures)
    sizes = [len(choice) for choice in controller.space.values()]
    state = tuple(torch.zeros(len(decisions), lstm.hidden_size, dtype=torch.float64) for _ in range(2))
    state = cell(controller.start.expand(len(decisions), -1), state)
    logits, states = [], [state[0]]
    for t, size in enumerate(sizes):
        raw = state[0] @ heads.weight[t, :size].T + heads.bias[t, :size]
        logits.append(heads.tanh_constant * torch.tanh(raw / heads.temperature))
        rows = torch.tensor([sum(sizes[:t]) + int(option) for option in decisions[:, t]])
        state = cell(controller.embedding.weight[rows], state)
        states.append(state[0])
    return logits, states, decisions
