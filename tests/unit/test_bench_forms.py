"""Benchmarks: other forms and other packages' networks, epochs, new shapes, and tables of them."""

from __future__ import annotations

import pytest
import torch

from ponita.data.rmd17 import load_rmd17
from ponita.tasks.bench import (
    captured,
    cases,
    compiled,
    epoch,
    gate,
    geometry,
    measure,
    peers,
    shapes,
    suite,
    tables,
    variants,
)


@pytest.fixture
def tiny(tmp_path):
    return cases.make("tiny", tmp_path)


@pytest.fixture
def aot_eager(monkeypatch):
    """All of torch.compile but the code it would write, which takes a minute."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    compiled.unavailable.cache_clear()
    yield
    compiled.unavailable.cache_clear()
    torch._dynamo.reset()


def test_the_compiled_reference_is_checked_with_its_parameter_gradients(tiny, aot_eager, monkeypatch):
    part = suite.measure(tiny, ("mlp torch",), 1, compiled=True)
    assert not part["failed"] and part["seconds"].keys() == {"eager", "eager compiled", "mlp torch"}
    assert part["errors"]["eager compiled"].keys() == {"energy", "forces", "gradients"}
    assert part["compile seconds"]["eager compiled"].keys() == {"forward", "energy_forces", "loss"}
    assert any(line.startswith("eager compiled: compiled in") for line in tables.remarks(part))
    assert "eager compiled" not in variants.build(tiny)[0]

    made, _ = variants.build(tiny, ("eager compiled",))

    def wrong_gradients(*args):  # with the right value, as a compiled derivative may be wrong
        value = compiled._loss(*args)
        return value.detach() + 1.001 * (value - value.detach())

    functions = {compiled._loss: wrong_gradients, compiled._energy_forces: compiled._energy_forces}
    made["eager compiled"].compiled._compiled.update(functions)
    errors, failed = gate.check(tiny, made)
    assert "gradients" in failed["eager compiled"] and "forces" not in failed["eager compiled"]
    assert errors["eager compiled"]["gradients"] == pytest.approx(1e-3, rel=0.01)


def test_where_nothing_can_be_compiled_the_reason_is_told(tiny, monkeypatch):
    monkeypatch.setattr(
        torch, "compile", lambda *_, **__: lambda _: (_ for _ in ()).throw(OSError("no compiler\nhere"))
    )
    compiled.unavailable.cache_clear()
    _, skipped = variants.build(tiny, ("eager compiled",))
    compiled.unavailable.cache_clear()
    assert skipped["eager compiled"] == "ImportError: torch.compile does not work here: no compiler"


@pytest.mark.parametrize("name", ["PyG SchNet", "PyG ViSNet"])
def test_networks_of_pyg_run_on_the_edges_of_the_case(name, tiny):
    torch.manual_seed(0)
    model = peers.MAKERS[name](tiny).double()
    inputs = cases.convert(tiny.inputs, torch.float64)
    energy, forces = measure.energy_forces(model, inputs)
    assert energy.shape == (2, 1) and float(forces.norm()) > 0
    measure.loss(model, inputs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert gate.difference_error(model, inputs, forces) < 1e-6
    fewer = {**inputs, "edge_index": inputs["edge_index"][:, :-3]}
    assert not torch.allclose(model(**fewer).scalars[1], energy[1])


@pytest.mark.parametrize("name", ["PyG SchNet", "PyG ViSNet"])
def test_networks_of_pyg_see_periodic_images(name):
    box = [geometry.water_box(2, torch.Generator().manual_seed(0))]
    case = cases.periodic("box", "water", box, {**cases.PUBLISHED, "cutoff": 2.5}, loops=True)
    torch.manual_seed(0)
    model, inputs = peers.MAKERS[name](case).double(), cases.convert(case.inputs, torch.float64)
    sender, receiver = inputs["edge_index"]
    moved, step = inputs["pos"].clone(), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    moved[0] += step
    shift = inputs["edge_shift"] + step * ((receiver == 0).double() - (sender == 0).double())[:, None]
    same = model(**{**inputs, "pos": moved, "edge_shift": shift}).scalars
    torch.testing.assert_close(same, model(**inputs).scalars, rtol=1e-10, atol=1e-10)
    other = model(**{**inputs, "pos": moved}).scalars
    assert float((other - same).detach().abs()) > 1e-6


def test_an_epoch_is_extrapolated_from_steps_that_train(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "PUBLISHED", {**cases.PUBLISHED, **small()})
    part = epoch.measure([], (), 2, tmp_path, "cpu")
    assert "from 2 measured steps of 190" in part["about"] and part["unit"] == "s" and not part["failed"]
    assert "eager" in part["seconds"] and len(part["seconds"]) == 3
    assert all(len(times["aspirin"]) == 2 for times in part["seconds"].values())
    assert tables.table(part)[0][0].startswith("s: least")

    pos, numbers, _ = geometry.molecule("aspirin", 15, tmp_path, torch.Generator().manual_seed(0))
    case = cases.molecules("", "", pos[:5], numbers, epoch.ELEMENTS)
    variant = variants.build(case, ("mlp torch",))[0]["mlp torch"]
    before = [p.detach().clone() for p in variant.model.parameters()]
    step = epoch.steps(variant, pos.split(5), numbers, "cpu")
    step()
    step()
    assert not any(torch.equal(p, q) for p, q in zip(variant.model.parameters(), before, strict=True))
    step()
    with pytest.raises(StopIteration):
        step()


def test_an_epoch_is_of_the_molecules_that_are_there(tmp_path, monkeypatch):
    present = ("ethanol", "uracil")

    def load(root, name, download):
        if name not in present:
            raise FileNotFoundError(name)

    assert epoch.found(tmp_path) == ["aspirin"] and load_rmd17 is epoch.load_rmd17
    monkeypatch.setattr(epoch, "load_rmd17", load)
    assert epoch.found(tmp_path) == ["ethanol", "uracil"]


def test_shapes_are_all_different_and_each_is_timed_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "PUBLISHED", {**cases.PUBLISHED, **small()})
    case = cases.make("S2", tmp_path)
    graphs = shapes.shapes(case)
    sizes = [graph["edge_index"].shape[1] for graph in graphs]
    assert len(set(sizes)) == len(sizes) > 45 and sizes == sorted(sizes) and sizes[-1] <= case.sizes["E"]
    monkeypatch.setattr(shapes, "SHAPES", 3)
    part = shapes.measure(case, ("mlp torch",))
    assert not part["failed"] and part["graphs compiled"] == {"eager": 0, "mlp torch": 0}
    assert {len(times) for by_pass in part["seconds"].values() for times in by_pass.values()} == {3}
    part["seconds"] = {"a": {"new shapes": [1.0, 3.0], "seen before": [0.5, 0.25]}}
    assert tables.table(part)[1] == ("a", "4.00", "3000.0", "0.75", "500.0", "")


def test_rates_of_inference_are_for_an_atom_and_a_day():
    part = {
        "sizes": {"N": 50, "G": 1},
        "seconds": {"eager": {"energy and forces": [0.002, 0.004, 0.003]}, "b": {"forward": [0.001]}},
        "graph seconds": {"neighbour list": [0.001], "pairs": [0.0008]},
    }
    head, row, other = tables.table(part)
    assert head[-2:] == ("µs/atom", "ns/day (with new lists)") and row[-2:] == ("60.0", "28.8 (18)")
    assert other[-2:] == ("", "") and len(other) == len(head)
    part["sizes"]["G"] = 2
    assert tables.table(part)[0][-1] == "µs/atom"


def test_quartiles_of_a_few_times():
    assert tables.spread([5.0]) == 0 and tables.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == 2


def test_work_that_a_device_has_no_memory_for_is_left_out(tiny, monkeypatch):
    def full():
        raise torch.OutOfMemoryError("full")

    assert measure.interleaved({"a": full, "b": list}, 2).keys() == {"b"}
    calls = measure.Calls(loss=lambda *_: full())
    eager = variants.Variant(variants.build(tiny, ("eager",))[0]["eager"].model, "exact", calls=calls)
    monkeypatch.setattr(variants, "build", lambda *_: ({"eager": eager}, {}))
    part = suite.measure(tiny, (), 1)
    assert part["skipped"] == {"eager, training step": measure.FULL}
    assert part["seconds"]["eager"].keys() == {"forward", "energy and forces"} and not part["bytes"]["eager"]


def small():
    return {"hidden_channels": 8, "basis_channels": 8, "num_layers": 2, "widening": 2, "num_orientations": 6}


def test_captured_calls_are_checked_on_other_positions_than_the_recorded(tiny, monkeypatch):
    class Recording:
        """Replays what it recorded, whatever the positions, if it is stuck."""

        stuck = False

        def __init__(self, work, example, device):
            self.work, self.inputs = work, dict(example)

        def __call__(self, pos):
            self.inputs |= {} if self.stuck else {"pos": pos}
            return self.work(self.inputs)

    monkeypatch.setattr(captured, "Captured", Recording)
    made, _ = variants.build(tiny, ("mlp torch",))
    variant = variants._captured(made["mlp torch"])
    assert variant.measures == measure.INFERENCE
    errors, failed = gate.check(tiny, {**made, "graph": variant})
    assert not failed and errors["graph"] == {"energy": 0.0, "forces": 0.0}
    inputs = variant.prepare(tiny.inputs)
    torch.testing.assert_close(variant.calls.forward(variant.model, inputs), measure.forward(variant.model, inputs))
    Recording.stuck = True
    _, failed = gate.check(tiny, {**made, "graph": variants._captured(made["mlp torch"])})
    assert "forces" in failed["graph"]
