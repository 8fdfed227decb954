"""Agreement of probes against SciPy, scikit-learn and plain resampling, and where it is known."""
import math

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.metrics import f1_score

from lib.analysis import agreement as module
from lib.analysis.agreement import accuracy_rank_agreement, class_rank_tau, kendall_tau, outcomes, prediction_f1, top_ranks
from lib.errors import CourseError


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scipy_tau(x, y) -> float:
    return kendalltau(np.asarray(x), np.asarray(y)).statistic


# ----------------------------------------------------------------------------------------------------------------- tau

@pytest.mark.parametrize("levels", [2, 4, 1000])
def test_tau_is_that_of_scipy_with_ties_and_without(levels, monkeypatch):
    x, y = ((levels * torch.rand(3, 5, 9, generator=torch.Generator().manual_seed(seed))).floor() for seed in (0, 1))
    found = kendall_tau(x, (x + y) / 2)
    assert found.shape == (3, 5) and found.dtype == torch.float64
    expected = [scipy_tau(a, b) for a, b in zip(x.flatten(0, 1), (x + y).flatten(0, 1), strict=True)]
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)
    monkeypatch.setattr(module, "PAIRS", 200)                      # two rows at a time
    assert kendall_tau(x, x + y).flatten().tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_taus_that_are_known():
    x = torch.tensor([1, 2, 3, 4])
    assert kendall_tau(x, 10 * x) == 1 and kendall_tau(x, -x) == -1
    assert kendall_tau(x, torch.tensor([1, 2, 4, 3])).item() == pytest.approx(4 / 6)
    assert kendall_tau(x, torch.tensor([1, 1, 2, 2])).item() == pytest.approx(4 / math.sqrt(6 * 4))
    assert kendall_tau(x, torch.ones(4)).isnan()
    for a, b in [(x, x[:3]), (x[:1], x[:1]), (x[0], x[0])]:
        with pytest.raises(CourseError, match=r"expected the same shape \(..., C\), C at least 2"):
            kendall_tau(a, b)


# ------------------------------------------------------------------------------------------------------ image by image

def slow_top(a: list[float], b: list[float], k: int) -> float:
    ranks = [{c: place for place, c in enumerate(sorted(range(len(s)), key=lambda c, s=s: -s[c]), start=1)} for s in (a, b)]
    union = [c for c in range(len(a)) if min(ranks[0][c], ranks[1][c]) <= k]
    return scipy_tau(*([min(r[c], k + 1) for c in union] for r in ranks))


@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_taus_of_images_against_plain_loops(k):
    first, noise = gaussian(20, 8), gaussian(20, 8, seed=1)
    found = class_rank_tau(first, first + noise, k)
    assert found.tolist() == pytest.approx([slow_top(a, b, k) for a, b in zip(first.tolist(), (first + noise).tolist(),
                                                                              strict=True)], abs=1e-12)
    if k == 8:
        assert torch.equal(found, class_rank_tau(first, first + noise))
        assert found.tolist() == pytest.approx([scipy_tau(a, b) for a, b in zip(first, first + noise, strict=True)])
    assert torch.equal(class_rank_tau(first, 3 * first + 1, k), torch.ones(20, dtype=torch.float64))


def test_top_lists_that_are_known():
    first = torch.tensor([[4.0, 3, 2, 1, 0]])
    apart, reverse = torch.tensor([[2.0, 1, 4, 3, 0]]), first.flip(1)
    assert top_ranks(apart, 2).tolist() == [[3, 3, 1, 2, 3]]
    assert class_rank_tau(first, apart, 2).item() == pytest.approx(-0.8)         # 4 of 6 pairs discordant, 1 tied in each
    assert class_rank_tau(first, reverse).item() == -1
    assert class_rank_tau(first, apart, 1).item() == -1 and class_rank_tau(first, first, 1).item() == 1


@pytest.mark.parametrize(("a", "b", "k", "message"), [
    ((4, 3), (4, 2), None, r"scores \(4, 3\) and \(4, 2\); expected both"), ((4,), (4,), None, "expected both"),
    ((4, 1), (4, 1), None, "at least 2 classes"), ((4, 3), (4, 3), 0, "the top 0 of 3 classes; take 1 to 3"),
    ((4, 3), (4, 3), 4, "the top 4 of 3")])
def test_scores_that_do_not_fit(a, b, k, message):
    with pytest.raises(CourseError, match=message):
        class_rank_tau(torch.zeros(a), torch.zeros(b), k)


def test_outcomes():
    found = outcomes(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 2]), torch.tensor([0, 1, 1, 0]))
    assert {name: which.tolist() for name, which in found.items()} == {
        "both right": [True, False, False, False], "both wrong": [False, False, False, True],
        "one right": [False, True, True, False]}


# ------------------------------------------------------------------------------------------------------ class by class

def probes(images: int = 40, classes: int = 12, noise: float = 0.2, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Predictions of two probes that find similar classes easy, and labels; class 3 has no images."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(images)
    labels = labels[labels != 3]
    ease = torch.linspace(0.1, 0.9, classes)
    both = []
    for _ in range(2):
        right = torch.rand(len(labels), generator=g) < (ease + noise * torch.randn(classes, generator=g))[labels]
        both.append(torch.where(right, labels, (labels + 1) % classes))
    return *both, labels


def test_tau_of_accuracies_and_its_interval_against_plain_resampling():
    first, second, labels = (x.numpy() for x in probes())
    present, g = np.unique(labels), np.random.default_rng(0)

    def tau(draw) -> float:
        drawn = [draw(np.flatnonzero(labels == c)) for c in present]
        return scipy_tau(*([(p[i] == labels[i]).mean() for i in drawn] for p in (first, second)))

    expected = tau(lambda members: members)
    taus = [tau(lambda members: g.choice(members, len(members))) for _ in range(400)]
    found = accuracy_rank_agreement(*probes(), resamples=2000)
    assert found.tau == pytest.approx(expected, abs=1e-12) and 0.2 < expected < 1
    assert [found.low, found.high] == pytest.approx(np.nanquantile(taus, [0.025, 0.975]).tolist(), abs=0.06)
    assert found.low < found.tau - 0.05 < found.tau < found.high and len(present) == 11


def test_probes_that_agree_and_probes_that_do_not():
    first, second, labels = probes()
    assert accuracy_rank_agreement(first, first, labels) == (1, 1, 1)            # the same images for both, so no noise
    assert accuracy_rank_agreement(first, second, labels) == accuracy_rank_agreement(first, second, labels)
    assert accuracy_rank_agreement(first, second, labels) != accuracy_rank_agreement(first, second, labels, seed=1)
    opposite = torch.where(first == labels, (labels + 1) % 12, labels)
    assert accuracy_rank_agreement(first, opposite, labels).tau == -1
    few, many = (accuracy_rank_agreement(*probes(n, noise=0.1)) for n in (10, 400))
    assert few.high - few.low > many.high - many.low
    perfect = accuracy_rank_agreement(labels, labels, labels)
    assert all(math.isnan(x) for x in perfect)                     # all classes equally easy: there is no order


@pytest.mark.parametrize(("change", "message"), [
    ({"second": torch.zeros(3, dtype=torch.int64)}, r"predictions \(4,\) and \(3,\) for labels \(4,\)"),
    ({"labels": torch.zeros(4, dtype=torch.int64)}, r"1 class\(es\) and 1000 resamples"), ({"resamples": 0}, "0 resamples")])
def test_predictions_that_do_not_fit(change, message):
    given = {"first": torch.tensor([0, 1, 1, 0]), "second": torch.tensor([0, 1, 1, 1]), "labels": torch.tensor([0, 1, 0, 1])}
    with pytest.raises(CourseError, match=message):
        accuracy_rank_agreement(**given | change)


def test_f1_is_that_of_scikit_learn():
    first, second, _ = probes()
    for a, b in [(first, second), (first, first), (torch.tensor([0, 0, 7]), torch.tensor([1, 0, 2]))]:
        assert prediction_f1(a, b) == pytest.approx(f1_score(a, b, average="macro")) == pytest.approx(prediction_f1(b, a))
    assert prediction_f1(first, first) == 1 and prediction_f1(torch.zeros(3).long(), torch.ones(3).long()) == 0
    for a, b in [(first, first[1:]), (first[:0], first[:0])]:
        with pytest.raises(CourseError, match=r"expected both \(n,\), at least one image"):
            prediction_f1(a, b)
