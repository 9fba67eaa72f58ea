"""The model of properties: units, graphs, equivariance, checkpoints."""

import pytest
import torch
from support.graphs import small_ponita

from ponita.geometry import fully_connected, grid_symmetry, rotate
from ponita.models import PropertyModel, load, save

NUMBERS = torch.tensor([6, 1, 1, 8, 1, 7])
BATCH = torch.tensor([0, 0, 0, 1, 1, 1])


def property_model(graph="full", dtype=torch.float64, elements=(1, 6, 7, 8), unit=1.0, **changes):
    options = {"in_channels": len(elements), "in_vector_channels": 0, "out_channels": 2, "out_vector_channels": 1}
    network = small_ponita(dtype, **{**options, "pooling": "sum", **changes})
    model = PropertyModel(network, elements, ["U0", "gap", "dipole"], ["eV", "eV", "D"], graph, unit=unit)
    references = torch.tensor([[-13.6, 0.0], [-1029.1, 0.0], [-1485.2, 0.0], [-2042.3, 0.0]], dtype=torch.float64)
    model.set_normalization(references, torch.tensor([0.3, 6.8]), torch.tensor([10.0, 1.3, 0.7]))
    return model


def positions(dtype=torch.float64):
    return 1.2 * torch.randn(6, 3, dtype=dtype)


def test_outputs_are_atoms_and_mean_and_spread_times_the_network():
    model, pos = property_model(), positions()
    found = model(pos, NUMBERS, batch=BATCH)
    x = torch.nn.functional.one_hot(torch.tensor([1, 0, 0, 3, 0, 2]), 4).double()
    plain = model.network(pos, fully_connected(BATCH), x=x, batch=BATCH)
    atoms = torch.tensor([-1029.1 - 2 * 13.6, -2042.3 - 13.6 - 1485.2], dtype=torch.float64)
    torch.testing.assert_close(found.scalars[:, 0], atoms + 0.3 + 10.0 * plain.scalars[:, 0])
    torch.testing.assert_close(found.scalars[:, 1], 6.8 + 1.3 * plain.scalars[:, 1])
    torch.testing.assert_close(found.vectors, 0.7 * plain.vectors)
    alone = model(pos[3:], NUMBERS[3:])
    torch.testing.assert_close(alone.scalars, found.scalars[1:])


@pytest.mark.parametrize("num_orientations", [12, 20])
def test_the_vector_turns_with_the_molecule_exactly_under_symmetries_of_the_grid(num_orientations):
    model, pos = property_model(num_orientations=num_orientations), positions()
    found = model(pos, NUMBERS, batch=BATCH)
    for turn in grid_symmetry(num_orientations)[[7, 31]]:
        turned = model(rotate(pos, turn), NUMBERS, batch=BATCH)
        torch.testing.assert_close(turned.vectors, found.vectors @ turn.T, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(turned.scalars, found.scalars, rtol=1e-11, atol=1e-9)
    assert found.vectors.abs().min() > 1e-6


def test_a_translation_changes_nothing():
    model, pos = property_model(), positions()
    for a, b in zip(model(pos, NUMBERS, batch=BATCH), model(pos + 3.0, NUMBERS, batch=BATCH), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_the_graph_of_the_radius_is_that_of_the_networks_cutoff():
    pos = torch.tensor(
        [[0.0, 0, 0], [1.0, 0, 0], [2.5, 0, 0], [0, 0, 0], [0, 1.9, 0], [0, 4.0, 0]], dtype=torch.float64
    )
    near = property_model("radius", cutoff=2.0)
    assert near.edges(pos, BATCH).T.tolist() == [[1, 0], [0, 1], [2, 1], [1, 2], [4, 3], [3, 4]]
    assert property_model("full", cutoff=2.0).edges(pos, BATCH).shape[1] == 12
    full = property_model("full", cutoff=2.0)
    full.load_state_dict(near.state_dict())
    torch.testing.assert_close(near(pos, NUMBERS, batch=BATCH), full(pos, NUMBERS, batch=BATCH))


def test_lengths_are_in_the_unit_of_the_network():
    pos = positions()
    plain, scaled = (property_model("radius", cutoff=2.0, unit=unit) for unit in (1.0, 1.5))
    scaled.load_state_dict(plain.state_dict())
    assert 0 < scaled.edges(1.5 * pos, BATCH).shape[1] == plain.edges(pos, BATCH).shape[1] < 12
    found, expected = scaled(1.5 * pos, NUMBERS, batch=BATCH), plain(pos, NUMBERS, batch=BATCH)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="unit=0; expected a positive length"):
        property_model(unit=0)


def test_bonds_must_be_given():
    model, pos = property_model("bonds", mode="cloud"), positions()
    with pytest.raises(ValueError, match="reads covalent bonds; pass them as edge_index"):
        model(pos, NUMBERS, batch=BATCH)
    bonds = torch.tensor([[0, 0, 3, 3], [1, 2, 4, 5]])
    found = model(pos, NUMBERS, torch.cat([bonds, bonds.flip(0)], dim=1), BATCH)
    assert found.scalars.shape == (2, 2) and found.vectors.shape == (2, 1, 3)


def test_a_saved_model_returns_the_same_numbers(tmp_path):
    model, pos = property_model("radius", torch.float32, cutoff=3.0, unit=1.3), positions(torch.float32)
    save(model, tmp_path / "model.pt")
    again = load(tmp_path / "model.pt")
    assert isinstance(again, PropertyModel) and again.config == model.config
    assert again.names == ("U0", "gap", "dipole") and again.units == ("eV", "eV", "D")
    for a, b in zip(again(pos, NUMBERS, batch=BATCH), model(pos, NUMBERS, batch=BATCH), strict=True):
        assert torch.equal(a, b)


def test_total_energies_keep_their_digits_in_float32():
    model = property_model(dtype=torch.float64).float()
    assert {model.references.dtype, model.shift.dtype, model.scale.dtype} == {torch.float64}
    found = model(positions(torch.float32), NUMBERS, batch=BATCH)
    assert found.scalars.dtype == torch.float64 and found.vectors.dtype == torch.float32
    assert model.references[1, 0] == -1029.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph": "knn"}, "graph='knn'"),
        ({"graph": "radius"}, "graph='radius' needs a network with a cutoff"),
        ({"elements": (1, 6, 6, 8)}, "expected distinct atomic numbers"),
        ({"pooling": None}, "pooling='sum' or 'mean', not None"),
        ({"out_channels": 3}, r"out_channels \+ out_vector_channels=3, not 4"),
        ({"in_channels": 5}, "in_channels=4, not 5"),
        ({"in_vector_channels": 1}, "in_vector_channels=0, not 1"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        property_model(**changes)


def test_unknown_elements_and_flat_targets_are_named():
    model = property_model()
    with pytest.raises(ValueError, match=r"atomic numbers \[9\] are unknown to this model"):
        model(positions()[:2], torch.tensor([1, 9]))
    with pytest.raises(ValueError, match=r"numbers has shape \[2\] and dtype torch.float32"):
        model(positions()[:2], torch.tensor([1.0, 6.0]))
    with pytest.raises(ValueError, match="the scale of gap is not positive"):
        model.set_normalization(torch.zeros(4, 2), torch.zeros(2), torch.tensor([1.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match="expected different names, and a unit for each"):
        PropertyModel(model.network, model.elements, ["a", "a", "b"], ["", "", ""])
