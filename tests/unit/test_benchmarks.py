"""Benchmarks: the reference they measure against, their counters, and that a wrong variant is not timed."""

from __future__ import annotations

import copy
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.graphs import random_graph, small_ponita
from torch import nn

from ponita.tasks.bench import (
    cases,
    gate,
    geometry,
    measure,
    memory,
    operators,
    record,
    scaling,
    suite,
    tables,
    variants,
)
from ponita.tasks.bench.eager import EagerReference, from_ponita, gradients_like, tensor_powers
from ponita.tasks.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads that wait for each other make small tensors slow; and `ponita bench` sets their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny(tmp_path):
    return cases.make("tiny", tmp_path)


def force_loss(model, inputs):
    pos = inputs["pos"].clone().requires_grad_()
    out = model(**{**inputs, "pos": pos})
    energy = out.scalars.square().sum() + out.vectors.square().sum()
    (force,) = torch.autograd.grad(energy, pos, create_graph=True)
    force.square().sum().backward()
    return out, force


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"axis_smoothing": 0.0, "cutoff": 2.5, "layer_scale": 0.5},
        {"readouts": "last", "pooling": None, "degree": 2, "num_orientations": 5},
        {"pooling": "mean", "degree": 4},
    ],
)
def test_the_eager_reference_is_the_network(changes):
    model, inputs = small_ponita(**changes), random_graph((5, 4))
    eager = from_ponita(model)
    assert eager.basis[0].weight.shape[1] == sum(2**n for n in range(1, model.config["degree"] + 1))
    (ours, our_force), (theirs, their_force) = force_loss(model, inputs), force_loss(eager, inputs)
    torch.testing.assert_close(theirs.scalars, ours.scalars, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(theirs.vectors, ours.vectors, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(their_force, our_force, rtol=1e-9, atol=1e-9)
    gradients = gradients_like(model, eager)
    for name, parameter in model.named_parameters():
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-9, atol=1e-9 * max(scale, 1.0))


def test_the_eager_reference_sees_periodic_images():
    points = geometry.water_box(2, torch.Generator().manual_seed(0))
    network = {**cases.make("tiny", "").network, "cutoff": 3.0}
    case = cases.periodic("box", "water", [points], network, loops=True)
    inputs, model = cases.convert(case.inputs, torch.float64), case.base().double()
    assert inputs["edge_shift"].any()
    torch.testing.assert_close(from_ponita(model)(**inputs).scalars, model(**inputs).scalars, rtol=1e-10, atol=1e-10)


def test_the_eager_reference_is_of_published_networks_only():
    with pytest.raises(ValueError, match="published network"):
        from_ponita(small_ponita(kernel="spline", cutoff=3.0))
    with pytest.raises(ValueError, match="R3xS2"):
        from_ponita(small_ponita(space="R3", in_vector_channels=0, out_vector_channels=0))


def test_tensor_powers_keep_equal_monomials():
    powers = tensor_powers(torch.tensor([2.0, 3.0]), 3)
    assert powers.tolist() == [2, 3, 4, 6, 6, 9, 8, 12, 12, 18, 12, 18, 18, 27]


def test_saved_memory_counts_each_storage_once():
    a = torch.randn(1000, requires_grad=True)

    def work():
        b = a * 2  # keeps nothing large
        c = b.exp()  # keeps its result
        return c.view(10, 100) * c.view(10, 100)[:, :] + c.square().sum()  # views and the square keep the same storage

    assert memory.saved_bytes(work) == 4000
    # sin keeps its input, a; the product keeps both factors: a's sine is one storage more
    assert memory.saved_bytes(lambda: a.sin() * a) == 8000
    assert memory.saved_bytes(lambda: a.detach().exp() * 2) == 0


def test_saved_memory_sees_what_the_force_pass_and_custom_operators_keep(tiny):
    model = tiny.base()
    forward = memory.saved_bytes(lambda: model(**tiny.inputs).scalars)
    step = memory.saved_bytes(lambda: measure.loss(model, tiny.inputs))
    sizes = tiny.sizes
    pairs = (sizes["E"] - sizes["N"]) // 2 + sizes["N"]
    kernels = sizes["L"] * 4 * pairs * sizes["O"] * sizes["C"]
    assert kernels < forward < step
    eager = memory.saved_bytes(lambda: measure.loss(from_ponita(model), tiny.inputs))
    assert eager > 1.3 * step


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells the peak on Linux only")
def test_peak_memory_is_that_of_the_work():
    size = 2**27
    peak = memory.peak_bytes(lambda: torch.ones(size // 4).sum())
    assert peak is None or 0.9 * size < peak < 1.5 * size


def test_times_are_taken_in_turns():
    calls = []
    timings = measure.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert "".join(calls) == "ab" + "ababab"
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 3, "b": 3}
    assert all(timing.warm_up > 0 and min(timing.seconds) > 0 for timing in timings.values())


def test_measures_are_energy_forces_and_a_step(tiny):
    model = tiny.base()
    energy, forces = measure.energy_forces(model, tiny.inputs)
    torch.testing.assert_close(measure.forward(model, tiny.inputs), energy.detach())
    up = {**tiny.inputs, "pos": tiny.inputs["pos"].double()}
    assert gate.difference_error(model, cases.convert(up, torch.float64), forces.double()) < 1e-4
    measure.EAGER.training_step(model, tiny.inputs)
    assert all(p.grad is None for p in model.parameters())


def test_the_gate_lets_all_variants_of_the_library_pass(tiny):
    made, skipped = variants.build(tiny)
    errors, failed = gate.check(tiny, made)
    assert not failed
    assert {"eager", "mlp torch, every edge", "mlp torch", "spline torch", "tabulated torch"} <= made.keys()
    assert errors["mlp torch"]["gradients"] < 1e-10 and errors["tabulated torch"]["forces"] < 1e-4
    assert {"MACE", "NequIP"} <= skipped.keys() | made.keys()


class Off(nn.Module):
    """A network that is a little wrong in one respect."""

    def __init__(self, network, energy=0.0, force=0.0):
        super().__init__()
        self.network, self.energy, self.force = network, energy, force

    def forward(self, pos, *args, **kwargs):
        out = self.network(pos, *args, **kwargs)
        shift = self.force * (pos - pos.detach()).sum()
        return out._replace(scalars=out.scalars * (1 + self.energy) + shift)


@pytest.mark.parametrize("fault", [{"energy": 1e-6}, {"force": 1e-4}, {"energy": float("nan")}])
def test_the_gate_refuses_a_wrong_variant(tiny, fault, monkeypatch):
    made, _ = variants.build(tiny, ("mlp torch",))
    made["off"] = variants.Variant(Off(made["mlp torch"].model, **fault), "exact", prepare=variants.paired)
    _, failed = gate.check(tiny, made)
    assert list(failed) == ["off"] and "too large" in failed["off"]
    monkeypatch.setattr(variants, "build", lambda *_: (made, {}))
    part = suite.measure(tiny, (), 1)
    assert "off" in part["failed"] and "off" not in part["seconds"] and "mlp torch" in part["seconds"]


def test_the_gate_refuses_wrong_gradients_and_wrong_splines(tiny):
    made, _ = variants.build(tiny, ("mlp torch", "spline torch", "tabulated torch"))

    class WrongGradient(type(made["mlp torch"].model)):
        def forward(self, *args, **kwargs):
            self.lift.embedding.weight.register_hook(lambda g: 1.001 * g)
            return super().forward(*args, **kwargs)

    for name in ("mlp torch", "spline torch"):
        made[name].model.__class__ = WrongGradient
    coarse = variants.build(tiny, ("mlp torch",))[0]["mlp torch"].model.tabulate(nodes=(8, 4))
    made["tabulated torch"] = variants.Variant(coarse, "tabulated", measure.INFERENCE, prepare=variants.paired)
    _, failed = gate.check(tiny, made)
    assert failed.keys() == {"mlp torch", "spline torch", "tabulated torch"}
    assert "gradients" in failed["mlp torch"] and "gradients" in failed["spline torch"]


def test_wrong_forces_of_a_spline_show_against_differences(tiny):
    model = variants.build(tiny, ("spline torch",))[0]["spline torch"].model
    inputs = cases.convert(tiny.inputs, torch.float64)
    _, forces = measure.energy_forces(copy.deepcopy(model).double(), inputs)
    assert gate.difference_error(model, inputs, forces) < gate.DERIVATIVE
    assert gate.difference_error(model, inputs, 1.001 * forces) > gate.DERIVATIVE


def test_sweeps_keep_what_they_do_not_vary():
    found = scaling.cases(300)
    neighbours = {label: c.inputs["edge_index"].shape[1] / len(c.inputs["pos"]) for label, c in found.items()}
    assert neighbours["atoms 100"] == pytest.approx(20, rel=0.08) and neighbours["atoms 300"] == pytest.approx(
        20, rel=0.08
    )
    assert neighbours["neighbours 40"] == pytest.approx(40, rel=0.08)
    assert found["orientations 32"].network["num_orientations"] == 32


def test_departure_from_a_straight_line():
    assert scaling.departure({100: 1.0, 1000: 10.0}) == pytest.approx(0)
    assert scaling.departure({100: 1.0, 1000: 12.0}) == pytest.approx(0.1 / 1.1)
    assert scaling.departure({100: 1.0, 200: 2.0, 1000: 4.0}) == pytest.approx(0.5)


def test_departure_from_a_line_with_a_constant_part():
    assert scaling.departure_from_line({n: 3.0 + 0.01 * n for n in (100, 300, 1000, 10000)}) == pytest.approx(
        0, abs=1e-9
    )
    quadratic = {n: 1e-4 * n**2 for n in (100, 300, 1000, 10000)}
    assert scaling.departure_from_line(quadratic) > 0.3
    scaled = {n: 7 * t for n, t in quadratic.items()}
    assert scaling.departure_from_line(scaled) == pytest.approx(scaling.departure_from_line(quadratic))


def some_record(**times):
    seconds = {name: {"forward": values} for name, values in times.items()}
    return {"machine": {"cpu": "a", "threads": 1}, "cases": {"S2": {"seconds": seconds}}}


def test_comparing_takes_the_least_times():
    first, second = some_record(eager=[3.0, 2.0, 9.0], old=[1.0]), some_record(eager=[0.5, 0.8], new=[1.0])
    lines = "\n".join(record.compare(first, second))
    assert "S2, eager, forward" in lines and lines.split("eager, forward")[1].split()[:3] == [
        "2000.00",
        "500.00",
        "4.00",
    ]
    assert "only in the first: S2, old, forward" in lines and "only in the second: S2, new, forward" in lines
    second["machine"]["threads"] = 4
    assert "threads differs (1 and 4)" in next(record.compare(first, second))


def test_the_table_has_ratios_to_the_eager_reference():
    rows = tables.table(some_record(eager=[3.0, 2.0, 4.0], fast=[0.5, 0.6, 0.7])["cases"]["S2"])
    assert rows[1][1].split() == ["2000.0", "(3000.0,", "1000.0)", "1.00x"]
    assert rows[2][1].split() == ["500.0", "(600.0,", "100.0)", "4.00x"]


def test_the_command_measures_stores_and_reports(tmp_path, capsys, monkeypatch):
    out = tmp_path / "results" / "a.json"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(operators, "INNER", 1)
    monkeypatch.setattr(cases, "CASES", {**cases.CASES, "S2": cases.CASES["tiny"]})
    monkeypatch.setattr(scaling, "ORIENTATIONS", (6,))
    names = [
        "--case",
        "tiny",
        "K",
        "scaling",
        "--largest",
        "100",
        "--repeats",
        "2",
        "--variant",
        "mlp torch",
        "spline torch",
    ]
    main(["bench", *names, "--data", str(tmp_path), "--out", str(out)])
    printed = capsys.readouterr().out
    assert "spline torch" in printed and "x faster than eager" in printed
    stored = json.loads(out.read_text())
    assert stored["command"] == f"ponita bench {shlex.join([*names, '--out', str(out)])}"
    assert stored["machine"]["threads"] == 1 and stored["versions"]["torch"] == torch.__version__
    part = stored["cases"]["tiny"]
    assert part["seconds"].keys() == {"eager", "mlp torch", "spline torch"}
    assert all(len(times) == 2 for times in part["seconds"]["eager"].values())
    assert part["bytes"]["eager"]["saved"] > 0 and stored["cases"].keys() == {"tiny", "K", "scaling"}
    main(["bench", "compare", str(out), str(out)])
    assert "1.00" in capsys.readouterr().out

    docs = tmp_path / "docs"
    command = [sys.executable, ROOT / "benchmarks/report.py", "--results", out.parent, "--docs", docs]
    subprocess.run(list(map(str, command)), check=True)
    page = (docs / "benchmarks.md").read_text()
    assert "### tiny" in page and "| spline torch |" in page and "departs from its mean" in page
    assert (docs / "benchmarks.png").read_bytes()[:4] == b"\x89PNG"


def test_the_command_exits_with_an_error_when_something_is_wrong(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gate, "EXACT", 0.0)
    monkeypatch.setattr(gate, "SLACK", 0.0)
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--case", "tiny", "--repeats", "1", "--variant", "mlp torch"])
    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert "FAILED mlp torch" in captured.out and "tiny: mlp torch" in captured.err
    with pytest.raises(SystemExit):
        main(["bench", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert "ponita: error: cannot read" in capsys.readouterr().err


def test_the_eager_reference_is_a_module_of_its_own(tiny):
    eager = from_ponita(tiny.base())
    assert isinstance(eager, EagerReference) and not any("ponita.nn" in type(m).__module__ for m in eager.modules())
