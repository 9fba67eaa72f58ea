"""Benchmarks of operators: what is timed agrees with the reference, and work is counted right."""

from __future__ import annotations

import pytest
import torch

from ponita.tasks.bench import cases, operators, rates, tables


@pytest.fixture
def tiny(tmp_path):
    return cases.make("tiny", tmp_path)


def test_operators_of_all_backends_agree_with_the_reference(tiny, monkeypatch):
    errors, failed = operators.check(tiny)
    assert not failed and "torch" in errors and errors["torch"].keys() == operators.OPERATORS.keys()
    right = operators.OPERATORS["K3 pair_product"]
    slightly_wrong = {torch.float64: 1.0, torch.float32: 1.0001}
    monkeypatch.setitem(
        operators.OPERATORS, "K3 pair_product", lambda ops, a: right(ops, a) * slightly_wrong[a.x.dtype]
    )
    assert "K3" in operators.check(tiny)[1]["torch"]
    part = operators.measure(tiny, 1)
    assert "torch" not in part["seconds"] and "K1 pair_conv" in part["seconds"]["eager"]


def test_eager_forms_do_what_the_operators_do(tiny):
    """On a graph with a kernel for every edge, where the two have the same operands."""
    a = operators.operands(tiny)
    sender, receiver = a.edge_index
    assert operators.eager_works(a)["K3 pair_product"]().shape[0] == tiny.sizes["E"]
    torch.manual_seed(0)
    works = operators.eager_works(a)
    torch.manual_seed(0)
    kernel = torch.randn(len(sender), *a.x.shape[1:])
    basis = torch.randn(len(sender), a.x.shape[1], a.basis.shape[2])
    single = {"graph": (sender, receiver), "two_way": 0}
    b = operators.Operands(**{**vars(a), **single, "kernel": kernel, "basis": basis})
    for name, work in works.items():
        expected = operators.OPERATORS[name](operators.reference, b)
        torch.testing.assert_close(work(), expected, rtol=1e-4, atol=1e-4)


def test_work_is_counted_in_operands_and_sums(tiny):
    work = operators.least_work(operators.operands(tiny))
    n, edges, pairs, o, c, b = 10, 50, 30, 12, 8, 8
    assert work["K1 pair_conv"] == {"bytes": 4 * (2 * n * o * c + pairs * o * c), "flops": 2 * edges * o * c}
    stream = {"bytes": 4 * (2 * n * o * c + pairs * o * b + c * b), "flops": 2 * (edges + pairs * b) * o * c}
    assert work["K4 basis_conv"] == work["K6 weight_gradient"] == stream
    nodes = (64 + 2) * (32 + 2)
    spline = 4 * (2 * n * o * c + 17 * pairs * o + nodes * c)
    assert work["spline_conv"] == {"bytes": spline, "flops": 2 * (edges + 16 * pairs) * o * c}


def test_the_roofline_is_the_slower_of_copying_and_computing():
    part = {
        "kind": "operators",
        "work": {"K1": {"bytes": 2_000_000, "flops": 1_000_000}},
        "rates": {"copy": 1e9, "product": 1e10},
        "seconds": {"eager": {"K1": [8e-3]}, "cpp": {"K1": [4e-3, 5e-3]}},
    }
    head, eager, cpp = tables.table(part)
    assert head[-1] == "of the roofline"
    assert eager[1:2] + eager[3:] == ("eager", "0.2", "0.1", "25%")
    assert cpp[2].split() == ["4.00", "(4.50,", "0.50)", "2.00x"] and cpp[3:] == ("0.5", "0.2", "50%")
    part["rates"]["product"] = 2.5e8
    assert tables.table(part)[2][-1] == "100%"


def test_rates_count_reads_and_writes(monkeypatch):
    monkeypatch.setitem(rates.PRODUCT, "cpu", 64)
    monkeypatch.setattr(rates, "_least", lambda work, repeats: (work(), 1e-3)[1])
    device = torch.device("cpu")
    assert rates.copy_rate(4000, device, 3) == pytest.approx(8e6)
    assert rates.product_rate(device, 3) == pytest.approx(2 * 64**3 * 1e3)
