"""The strategy for Flower: the same bits as the average without it, and labs that fail."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import ArrayRecord, MetricRecord

from ponita.sharing.federated import AverageParticipating, Bernoulli, FedAU, Mifa
from ponita.sharing.federated.flower import ServerStrategy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
LABS = ["0", "1", "2", "3"]


def reply(state, lab=None, error=False):
    """What the strategy reads of a message."""
    metrics = {"num-examples": 5} if lab is None else {"num-examples": 5, "lab": int(lab)}
    content = SimpleNamespace(
        array_records={"arrays": ArrayRecord(state)}, metric_records={"metrics": MetricRecord(metrics)}
    )
    return SimpleNamespace(content=content, has_error=lambda: error, error=SimpleNamespace(reason="no power"))


def begin():
    generator = torch.Generator().manual_seed(0)
    return {"w": torch.randn(3, 4, generator=generator), "n": torch.tensor([7])}


def trained(state, lab, round_):
    generator = torch.Generator().manual_seed(100 * round_ + int(lab))
    return {"w": state["w"] + torch.randn(3, 4, generator=generator), "n": torch.tensor([99])}


def strategy(server=None, **options):
    made = ServerStrategy(server or FedAU(LABS, cutoff=5), **options)
    return made


@pytest.mark.parametrize("kind", [FedAU, AverageParticipating])
def test_ten_rounds_have_the_bits_of_the_average_without_flower(kind):
    made, alone, pattern = strategy(kind(LABS)), kind(LABS), Bernoulli(dict.fromkeys(LABS, 0.5), 1)
    state = reference = begin()
    for number in range(10):
        made._state = state
        present = sorted(pattern.round(), reverse=True)
        arrays, metrics = made.aggregate_train(number, [reply(trained(state, lab, number), lab) for lab in present])
        assert metrics["labs"] == len(present)
        updates = {lab: {"w": trained(reference, lab, number)["w"] - reference["w"]} for lab in present}
        reference = alone.step(reference, updates)
        state = arrays.to_torch_state_dict()
        assert torch.equal(state["w"], reference["w"]) and torch.equal(state["n"], torch.tensor([7]))


def test_a_round_without_replies_and_errors_count_as_absence(tmp_path, caplog):
    path = tmp_path / "labs.pt"
    made = strategy(FedAU(LABS, cutoff=None), checkpoint=path)
    made._state = begin()
    made.aggregate_train(1, [])
    with caplog.at_level("INFO"):
        made.aggregate_train(2, [reply(begin(), "1", error=True)])
    assert "round 2, no update: no power" in caplog.text and made.present == []
    arrays, metrics = made.aggregate_train(
        3, [reply({**begin(), "w": begin()["w"] * float("nan")}, "2"), reply(begin(), "1")]
    )
    assert dict(metrics) == {"labs": 1, "rejected": 1} and torch.equal(arrays.to_torch_state_dict()["w"], begin()["w"])
    assert made.server.weights.weight("1") == 3 and made.present == ["1"]
    again = strategy(FedAU(LABS, cutoff=None), checkpoint=path)
    assert again.server.weights.state_dict() == made.server.weights.state_dict()


def test_labs_have_names_by_their_numbers():
    names = ["bonn", "aachen", "celle"]
    made = strategy(AverageParticipating(names, shares={"bonn": 0.5, "aachen": 0.25, "celle": 0.25}), names=names)
    made._state = begin()
    sent = {"0": 1.0, "2": 4.0}
    arrays, _ = made.aggregate_train(1, [reply({"w": begin()["w"] + step}, lab) for lab, step in sent.items()])
    assert made.present == ["bonn", "celle"]
    assert torch.allclose(arrays.to_torch_state_dict()["w"], begin()["w"] + 2.0)  # bonn counts twice
    for number in (-1, 3):
        with pytest.raises(ValueError, match=f"a reply of lab {number}; expected a number from 0 to 2"):
            made.aggregate_train(2, [reply(begin(), number)])
    with pytest.raises(ValueError, match="expected those of the roster"):
        strategy(FedAU(names), names=["bonn", "aachen", "dessau"])


def test_a_server_that_remembers_updates_is_kept_too(tmp_path):
    made = strategy(Mifa(LABS), checkpoint=tmp_path / "labs.pt")
    made._state = begin()
    made.aggregate_train(1, [reply(trained(begin(), "1", 0), "1")])
    again = strategy(Mifa(LABS), checkpoint=tmp_path / "labs.pt").server.last
    assert list(again) == ["1"] and torch.equal(again["1"]["w"], made.server.last["1"]["w"])


def test_replies_that_lie_are_refused():
    made = strategy()
    made._state = begin()
    with pytest.raises(ValueError, match="a reply has no 'lab' among its metrics"):
        made.aggregate_train(1, [reply(begin())])
    with pytest.raises(ValueError, match="two replies of lab 1"):
        made.aggregate_train(1, [reply(begin(), "1"), reply(begin(), "1")])
    with pytest.raises(ValueError, match="not on the roster"):
        made.aggregate_train(1, [reply(begin(), "9")])
    with pytest.raises(ValueError, match="differs from the global state"):
        made.aggregate_train(1, [reply({"other": torch.ones(2)}, "1")])
