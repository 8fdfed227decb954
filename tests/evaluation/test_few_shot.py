"""Few-shot probes against scikit-learn, one probe at a time; who is drawn; the best of many tokens without luck."""
import math

import pytest
import torch
from sklearn.linear_model import Ridge

from lib.errors import CourseError
from lib.evaluation.few_shot import RIDGES, draw_shots, few_shot_probe, over_tokens


def clusters(n: int, seed: int, noise: float, classes: int = 5, dim: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Features around one centre for each class, the same centres for every seed, far from the origin and of unlike scale."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=g)
    return (centres[labels] + noise * torch.randn(n, dim, generator=g)) * torch.logspace(-2, 2, dim) + 7, labels


def test_as_many_of_each_class_are_drawn_as_asked_for():
    labels = torch.randint(5, (200,), generator=torch.Generator().manual_seed(0))
    drawn, rest = draw_shots(labels, 7, seed=3)
    assert torch.bincount(labels[drawn]).tolist() == [7] * 5
    assert sorted(drawn.tolist() + rest.tolist()) == list(range(200))
    assert torch.equal(drawn, draw_shots(labels, 7, seed=3)[0])
    assert set(drawn.tolist()) != set(draw_shots(labels, 7, seed=4)[0].tolist())
    assert drawn.sort().values.tolist() != drawn.tolist()          # not the first of each class in the source


def slow_probe(features, labels, queries, shots, seed):
    """scikit-learn's ridge with a bias of its own, one class against the rest, one probe, one ridge at a time, float64."""
    drawn, rest = draw_shots(labels, shots, seed)
    mean, std = features[drawn].double().mean(0), features[drawn].double().std(0) + 1e-6
    x, held, asked = (((z.double() - mean) / std).numpy() for z in (features[drawn], features[rest], queries))
    found = []
    for ridge in RIDGES:
        models = [Ridge(alpha=len(x) * ridge).fit(x, [1.0 if c == label else -1.0 for label in labels[drawn].tolist()])
                  for c in range(int(labels.max()) + 1)]
        guess, answer = (torch.stack([torch.from_numpy(m.predict(z)) for m in models]).argmax(0) for z in (held, asked))
        found.append(((guess == labels[rest]).float().mean().item(), -len(found), answer, ridge))
    _, _, answer, ridge = max(found, key=lambda f: f[:2])
    return answer, ridge


@pytest.mark.parametrize("seed", [0, 1])
def test_against_the_slow_one(seed):
    features, labels = clusters(150, 0, noise=2.5)
    queries, _ = clusters(80, 1, noise=2.5)
    predicted, ridge = few_shot_probe(features, labels, queries, 6, seed)
    answer, chosen = slow_probe(features, labels, queries, 6, seed)
    assert torch.equal(predicted, answer) and ridge.item() == pytest.approx(chosen)


def test_many_probes_at_once_are_the_same_one_by_one():
    parts = [clusters(120, 0, noise) for noise in (0.5, 2.0, 4.0, 8.0)]
    asked = [clusters(50, 1, noise)[0] for noise in (0.5, 2.0, 4.0, 8.0)]
    labels = parts[0][1]
    features, queries = torch.stack([f for f, _ in parts]).unflatten(0, (2, 2)), torch.stack(asked).unflatten(0, (2, 2))
    predicted, ridges = few_shot_probe(features, labels, queries)
    assert predicted.shape == (2, 2, 50) and ridges.shape == (2, 2) and len(ridges.unique()) > 1
    for i in range(2):
        for j in range(2):
            alone, ridge = few_shot_probe(features[i, j], labels, queries[i, j])
            assert torch.equal(predicted[i, j], alone) and ridges[i, j] == ridge


def test_classes_are_found_where_there_are_any():
    features, labels = clusters(150, 0, noise=0.3)
    queries, truth = clusters(200, 1, noise=0.3)
    predicted, ridge = few_shot_probe(features, labels, queries)
    assert (predicted == truth).float().mean() > 0.98 and ridge == RIDGES[0]      # all penalties do, so it is the first
    nothing = torch.randn(150, 12, generator=torch.Generator().manual_seed(5))
    right = few_shot_probe(nothing, labels, torch.randn(400, 12, generator=torch.Generator().manual_seed(6)))[0] == \
        clusters(400, 1, 0.3)[1]
    assert right.float().mean().item() == pytest.approx(0.2, abs=0.08)
    same = few_shot_probe(torch.full((150, 12), 0.1), labels, torch.full((9, 12), 0.1))[0]
    assert len(same.unique()) == 1                                 # features that do not differ: one answer for all


def test_queries_have_no_say():
    features, labels = clusters(120, 0, noise=2.0)
    queries, _ = clusters(60, 1, noise=2.0)
    whole, ridge = few_shot_probe(features, labels, queries)
    other, again = few_shot_probe(features, labels, torch.cat([queries[:20], 1000 * queries]))
    assert torch.equal(whole[:20], other[:20]) and ridge == again


def test_labels_of_images_not_drawn_choose_the_penalty_and_nothing_else():
    features, labels = clusters(150, 0, noise=2.0)
    drawn, rest = draw_shots(labels)
    answers = []
    for shift in range(4):
        changed = features.clone()
        changed[rest] = features[rest].roll(shift, 0)              # drawn images are the same, and so is each fit
        answers.append(tuple(few_shot_probe(changed, labels, features)[0].tolist()))
    assert len(set(answers)) <= len(RIDGES) and drawn.shape == (50,)


# ------------------------------------------------------------------------------------------------------------ over tokens

def test_worst_mean_and_best_of_tokens_that_differ():
    right = torch.zeros(3, 100, dtype=torch.bool)
    right[0, :20], right[1, :90], right[2, :50] = True, True, True
    worst, mean, best = over_tokens(right)
    assert (worst, best) == (pytest.approx(0.2), pytest.approx(0.9)) and mean == pytest.approx(160 / 300)


def test_the_best_of_many_coins_is_a_coin():
    coins = torch.rand(64, 100, generator=torch.Generator().manual_seed(0)) < 0.5
    worst, mean, best = over_tokens(coins)
    assert coins.double().mean(1).max() > 0.6 and coins.double().mean(1).min() <= 0.4
    assert abs(worst - 0.5) < 0.1 and abs(best - 0.5) < 0.1 and abs(mean - 0.5) < 0.02


def test_over_tokens_by_hand():
    right = torch.tensor([[1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 0]], dtype=torch.bool)
    # even images: 1, 0; odd images: 0, 2/3. Best on the even is token 0, which has 0 on the odd; best on the odd has 0.
    assert over_tokens(right) == (pytest.approx((2 / 3 + 1) / 2), pytest.approx(5 / 12), 0.0)


@pytest.mark.parametrize(("changes", "said"), [
    (dict(shots=30), "30 images a class were asked for"),
    (dict(shots=0), "0 images a class were asked for"),
    (dict(shots=20), "some left over to choose the penalty by"),
    (dict(labels=torch.arange(40) % 2 * 2), "with 0 in the smallest of 3 classes"),
    (dict(labels=torch.zeros(39, dtype=torch.int64)), "a few-shot probe needs features"),
    (dict(queries=torch.zeros(5, 3)), "a few-shot probe needs features"),
    (dict(queries=torch.zeros(2, 5, 4)), "a few-shot probe needs features"),
    (dict(features=torch.zeros(40)), "a few-shot probe needs features"),
    (dict(features=torch.full((40, 4), math.inf)), "needs finite features"),
    (dict(queries=torch.full((5, 4), math.nan)), "needs finite features"),
])
def test_what_cannot_be_probed_is_named(changes, said):
    given = dict(features=torch.zeros(40, 4), labels=torch.arange(40) % 2, queries=torch.zeros(5, 4))
    with pytest.raises(CourseError, match=said):
        few_shot_probe(**given | changes)


@pytest.mark.parametrize("right", [torch.ones(4), torch.ones(4, 1), torch.ones(0, 4)])
def test_answers_of_no_use_are_named(right):
    with pytest.raises(CourseError, match="expected \\(tokens, images\\)"):
        over_tokens(right.bool())
