"""What the hidden states of a controller know: correlations and their picture."""

import itertools
import math

import pytest
import scipy.stats
import torch
from support.controllers import CUBE, UNEVEN, rough

from ponita.sharing.search.controller import Controller
from ponita.sharing.search.hidden_states import hidden_state_correlation, pearson, spearman

# Hidden states.


def test_correlations_are_those_of_scipy_with_ties():
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(6, (200,), generator=generator)
    b = a + torch.randint(4, (200,), generator=generator) ** 2
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)
    assert pearson(a, b) == pytest.approx(scipy.stats.pearsonr(a.double(), b.double()).statistic, abs=1e-12)
    assert spearman(a, a.double().exp()) == pytest.approx(1) and spearman(a, -a) == pytest.approx(-1)
    # Of this length the mean of the constant is rounded, and differs from it.
    constant, series = torch.full((1000,), 0.1, dtype=torch.float64), torch.arange(1000)
    assert math.isnan(spearman(series, constant)) and math.isnan(pearson(constant, series))


def test_an_analysis_holds_every_pair_once():
    controller, asked = rough(CUBE), []
    found = hidden_state_correlation(
        controller, 20, generator=torch.Generator().manual_seed(0), score=lambda a: asked.append(a) or a[0] - 2.0 * a[1]
    )
    sample = controller.sample(20, torch.Generator().manual_seed(0))
    names, h = sample.architectures, sample.hidden.detach()
    assert found.architectures == names and found.num_different == len(set(names)) == len(asked) < 20
    assert not found.hidden.requires_grad and found.hidden.equal(h)
    pairs = list(itertools.combinations(range(20), 2))
    for row, (i, j) in enumerate(pairs):
        assert float(found.l2[row]) == pytest.approx(float((h[i] - h[j]).square().sum().sqrt()))
        assert float(found.cosine[row]) == pytest.approx(
            1 - float(h[i] @ h[j] / (h[i].norm() * h[j].norm())), abs=1e-12
        )
        assert float(found.distance[row]) == CUBE.distance(names[i], names[j])
        scores = [names[k][0] - 2.0 * names[k][1] for k in (i, j)]
        assert float(found.score_difference[row]) == abs(scores[0] - scores[1])
    assert len(found.l2) == len(found.cosine) == len(found.distance) == len(found.score_difference) == len(pairs)


def test_an_analysis_correlates_states_with_distances_and_scores():
    controller = rough(CUBE)
    found = hidden_state_correlation(controller, 30, score=lambda a: float(sum(a)))
    assert set(found.correlations) == set(itertools.product(("l2", "cosine"), ("distance", "score_difference")))
    for (states, target), seen in found.correlations.items():
        pair = getattr(found, states), getattr(found, target)
        assert (seen.spearman, seen.pearson) == (spearman(*pair), pearson(*pair))
    plain = hidden_state_correlation(controller, 30, distance=lambda a, b: abs(a[0] - b[0]))
    assert plain.score_difference is None and set(plain.correlations) == {("l2", "distance"), ("cosine", "distance")}
    names = plain.architectures
    assert plain.distance.tolist() == [abs(a[0] - b[0]) for a, b in itertools.combinations(names, 2)]


def test_given_architectures_are_read_in_place_of_draws():
    controller, names = rough(CUBE), [(0, 0, 0), (1, 2, 0), (1, 2, 2)]
    found = hidden_state_correlation(controller, architectures=names)
    assert found.architectures == names and found.distance.tolist() == [2, 3, 1]
    torch.testing.assert_close(found.hidden, controller.score(names).hidden.detach(), rtol=0, atol=0)


def test_analyses_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="2 architectures"):
        hidden_state_correlation(Controller(CUBE), n=2)
    with pytest.raises(ValueError, match="1 architectures"):
        hidden_state_correlation(Controller(CUBE), architectures=[(0, 0, 0)])


def test_a_policy_without_alternatives_correlates_with_nothing():
    single = CUBE.restrict(a=[1], b=[1], c=[1])
    found = hidden_state_correlation(Controller(single), 5)
    assert found.num_different == 1 and math.isnan(found.correlations["l2", "distance"].spearman)


def test_a_picture_shows_a_panel_for_each_quantity(tmp_path):
    pictures = pytest.importorskip("ponita.tasks.search.pictures")
    image = pytest.importorskip("matplotlib.image")
    with_scores = hidden_state_correlation(Controller(UNEVEN), 20, score=lambda a: a[1] + 0.01 * a[2] + 0.1 * a[0])
    plain = hidden_state_correlation(Controller(UNEVEN), 20)
    nothing = hidden_state_correlation(Controller(CUBE.restrict(a=[1], b=[1], c=[1])), 5)
    widths = []
    for number, analyses in enumerate(({"a": plain}, {"a": with_scores}, {"a": with_scores, "b": plain, "c": nothing})):
        pictures.draw_hidden_states(tmp_path / f"{number}.png", analyses)
        widths.append(image.imread(tmp_path / f"{number}.png").shape[1])
    assert widths == [widths[0], 2 * widths[0], 4 * widths[0]]
    with pytest.raises(ValueError, match="no analyses"):
        pictures.draw_hidden_states(tmp_path / "none.png", {})


def test_bins_of_a_picture_hold_means_and_deviations():
    binned = pytest.importorskip("ponita.tasks.search.pictures").binned
    x, y = torch.tensor([2.0, 1.0, 2.0, 1.0]), torch.tensor([5.0, 1.0, 9.0, 1.0])
    assert [part.tolist() for part in binned(x, y)] == [[1, 2], [1, 7], [0, 2]]
    centres, mean, deviation = binned(torch.arange(8.0).flip(0), torch.arange(8.0), num_bins=4)
    assert centres.tolist() == [0.5, 2.5, 4.5, 6.5] and mean.tolist() == [6.5, 4.5, 2.5, 0.5]
    assert deviation.tolist() == [0.5] * 4
