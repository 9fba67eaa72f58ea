"""Weights moved for an evaluation: the same bits in every mode, back afterwards, and in how much memory."""

import weakref

import pytest
import torch
from support.one_byte_replicas import bytes_of
from support.one_byte_worker import loss, network, spsa
from support.potentials import oxide_potential
from torch import nn
from torch.func import functional_call

from ponita.nn.memo import is_plain
from ponita.sharing.federated.one_byte import OneByteSPSA, evaluation, gaussian
from ponita.sharing.federated.one_byte.evaluation import MODES

GENERATOR = torch.Generator().manual_seed(0)
POS = 1.6 * torch.randn(9, 3, generator=GENERATOR)
TARGET = torch.randn(9, 3, generator=GENERATOR)
NUMBERS = torch.tensor([8, 12, 8, 8, 12, 12, 8, 8, 12])
BATCH = torch.arange(3).repeat_interleave(3)


class Forces(nn.Module):
    """Energies and forces of a potential as what a module computes."""

    def __init__(self, **changes):
        super().__init__()
        self.potential = oxide_potential(dtype=torch.float32, **changes)

    def forward(self, pos):
        return self.potential.energy_forces(pos, NUMBERS, batch=BATCH)


def force_loss(model):
    def closure(params):
        predicted = functional_call(model, params, (POS,))
        return (predicted.forces - TARGET).square().mean() + 1e-3 * predicted.energy.square().mean()

    return closure


def trained(mode, kernel="mlp", pattern="", frozen=False, steps=4, **options):
    """An optimiser after some steps on energies and forces."""
    model = Forces(kernel=kernel)
    chosen = [(name, p) for name, p in model.named_parameters() if pattern in name]
    model.requires_grad_(not frozen)
    made = OneByteSPSA(chosen, lr=1e-4, eps=1e-2, samples=2, mode=mode, model=model, **options)
    for _ in range(steps):
        made.step(force_loss(model))
    return made, model


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("kernel", ["mlp", "fused", "spline"])
def test_modes_give_the_same_bytes_and_weights_for_a_potential_with_forces(kernel, frozen):
    made = {mode: trained(mode, kernel, frozen=frozen)[0] for mode in MODES}
    first = made["functional"]
    assert all(one.log.entries == first.log.entries for one in made.values())
    assert len({one.digest() for one in made.values()}) == 1
    assert first.digest() != trained("functional", kernel, steps=0)[0].digest()
    assert len({byte for _, messages in first.log for byte in messages[0]}) > 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pattern", ["readouts", "basis", "fiber_kernel", "conv.kernel"])
def test_what_is_remembered_of_other_weights_follows_a_change(mode, pattern):
    """A network that has computed before, and remembers kernels, sends what one does that has not."""
    made, model = trained(mode, "spline", pattern, frozen=True)
    fresh, again = Forces(kernel="spline"), Forces(kernel="spline")
    for one in (fresh, again):
        one.load_state_dict(model.state_dict())
        one.requires_grad_(False)
    with torch.no_grad():
        again(POS)
    sent = []
    for one, other in ((model, mode), (again, mode), (fresh, "functional")):
        chosen = [(name, p) for name, p in one.named_parameters() if pattern in name]
        late = OneByteSPSA(chosen, lr=1e-4, eps=1e-2, samples=2, mode=other, model=one)
        late.time = made.time
        sent.append(bytes_of(late, force_loss(one)))
        with torch.no_grad():
            assert torch.equal(one(POS).forces, model(POS).forces)
    assert sent[0] == sent[1] == sent[2]


@pytest.mark.parametrize("noise", [None, gaussian])
def test_modes_agree_without_gradients_inside_too(noise):
    options = {} if noise is None else {"noise": noise}
    made = []
    for mode in MODES:
        model = network()
        made.append(spsa(model, 0, mode=mode, model=model, **options))
        for _ in range(5):
            made[-1].step(loss(model, 0))
    assert len({one.digest() for one in made}) == 1 and made[0].log.entries == made[2].log.entries


@pytest.mark.parametrize("mode", MODES)
def test_measuring_leaves_every_bit_also_where_the_loss_fails(mode):
    model = network()
    made = spsa(model, 0, mode=mode, model=model)
    kinds, names, before = [type(m) for m in model.modules()], [n for n, _ in model.named_parameters()], made.digest()
    bytes_of(made, loss(model, 0))

    def fails(params):
        if mode != "functional":
            assert made.digest() == before or mode == "snapshot"
            assert not torch.equal(model[0].weight, dict(model.named_parameters())["0.weight"]) or mode == "snapshot"
        raise ArithmeticError("no loss")

    with pytest.raises(ArithmeticError):
        made.step(fails)
    assert made.digest() == before and made.time == 0
    assert [type(m) for m in model.modules()] == kinds and [n for n, _ in model.named_parameters()] == names
    assert all(p.requires_grad and isinstance(p, nn.Parameter) for p in model.parameters())


def test_moved_modules_are_not_taken_for_plain_ones():
    model = network()
    made = spsa(model, 0, mode="lazy", model=model)
    seen = []

    def closure(params):
        seen.append((params, is_plain(model[0]), model[0].weight is model[0].weight, model[0].weight.requires_grad))
        return model[0].weight.sum()

    made.step(closure)
    assert seen == [({}, False, False, False)] * 4 and is_plain(model[0])


@pytest.mark.parametrize("mode", MODES)
def test_a_loss_that_differentiates_inside_keeps_no_graph_of_the_weights(mode):
    model, x = network(), torch.ones(1, 4)
    made = spsa(model, 0, mode=mode, model=model)
    with torch.no_grad(), made.evaluation.along(made.direction(0, 0, 0), made.eps) as params, torch.enable_grad():
        assert not functional_call(model, params, (x,)).requires_grad
        assert functional_call(model, params, (x.clone().requires_grad_(),)).requires_grad
    assert model(x).requires_grad


class Alive:
    """Counts tensors of moved weights that are held at once."""

    def __init__(self, monkeypatch):
        self.references, self.most, self.numbers = [], 0, 0
        original = evaluation.moved

        def counted(weight, radius, direction):
            result = original(weight, radius, direction)
            self.references = [one for one in self.references if one() is not None] + [weakref.ref(result)]
            held = [one() for one in self.references]
            self.most, self.numbers = max(self.most, len(held)), max(self.numbers, sum(t.numel() for t in held))
            return result

        monkeypatch.setattr(evaluation, "moved", counted)


def evaluate(made, closure):
    """One loss, along one direction."""
    with torch.no_grad(), made.evaluation.along(made.direction(0, 0, 0), made.eps) as params:
        return closure(params)


@pytest.mark.parametrize("mode, tensors, numbers", [("functional", 6, 45), ("snapshot", 1, 16), ("lazy", 2, 20)])
def test_lazy_holds_the_weights_of_a_layer_and_functional_all(mode, tensors, numbers, monkeypatch):
    alive, model = Alive(monkeypatch), network()
    evaluate(spsa(model, 0, mode=mode, model=model), loss(model, 0))
    assert (alive.most, alive.numbers) == (tensors, numbers)


def test_forces_keep_what_was_read_so_lazy_saves_nothing(monkeypatch):
    counts = {}
    for mode in ("functional", "lazy"):
        with monkeypatch.context() as patch:
            alive = Alive(patch)
            made, model = trained(mode, pattern="linear", steps=0)
            evaluate(made, force_loss(model))
            counts[mode] = alive.numbers
    assert counts["functional"] == sum(p.numel() for p in made.named.values())
    largest = max(p.numel() for p in made.named.values())
    assert counts["lazy"] > 0.7 * counts["functional"] > 4 * largest


def test_a_snapshot_is_kept_where_it_is_told():
    model = network()
    made = spsa(model, 0, mode="snapshot", saved_on="meta")
    assert {copy.device.type for copy in made.evaluation.saved.values()} == {"meta"}


MISTAKES = {
    "mode": (lambda: {"mode": "inplace"}, r"mode='inplace'; expected one of \['functional', 'snapshot', 'lazy'\]"),
    "no model": (lambda: {"mode": "lazy"}, "needs the model"),
    "another model": (lambda: {"mode": "lazy", "model": network()}, r"\['0.weight', '0.bias', '2.weight'\] are not in"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named(case):
    options, message = MISTAKES[case]
    with pytest.raises(ValueError, match=message):
        spsa(network(), 0, **options())


def test_recurrent_layers_are_refused_by_lazy():
    layer = nn.GRU(3, 4)
    with pytest.raises(ValueError, match="cannot move the weights of GRU"):
        OneByteSPSA(layer.named_parameters(), lr=1.0, mode="lazy", model=layer)
