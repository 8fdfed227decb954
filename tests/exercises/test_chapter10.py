"""The checks of chapter 10: right answers pass, and each usual mistake fails with its name."""
import pytest
import torch
import torch.nn.functional as F

from lib.analysis.agreement import kendall_tau
from lib.analysis.invariance import compare
from lib.evaluation.few_shot import over_tokens
from lib.exercises import chapter10


def partial(kl, kp, lp):
    return (kl - kp * lp) / ((1 - kp**2) * (1 - lp**2)) ** 0.5


def cosines(features, transformed, normalise=(1, 1), dim=1, centre=0):
    x, y = (z - centre * z.mean(0) for z in (features, transformed))
    return (F.normalize(x, dim=dim) if normalise[0] else x) @ (F.normalize(y, dim=dim) if normalise[1] else y).T


def against(cosine, chance=None):
    n = len(cosine)
    chance = (cosine.sum() - cosine.trace()) / (n * (n - 1)) if chance is None else chance
    return (cosine.trace() / n - chance) / (1 - chance)


def invariance(features, transformed):
    return against(cosines(features, transformed))


def tau(first, second):
    a, b = (torch.sign(x[:, None] - x[None]) for x in (first, second))
    return (a * b).sum() / (len(first) * (len(first) - 1))


def halves(right):
    return right[:, ::2].double().mean(1), right[:, 1::2].double().mean(1)


def best_token(right):
    even, odd = halves(right)
    return (odd[even.argmax()] + even[odd.argmax()]) / 2


# Other right answers

def regression(kl, kp, lp):
    """With vectors that have these cosines, P regressed out of the two others."""
    vectors = torch.linalg.cholesky(torch.tensor([[1.0, kl, kp], [kl, 1.0, lp], [kp, lp, 1.0]], dtype=torch.float64))
    first, second, third = vectors
    first, second = (v - (v @ third) * third for v in (first, second))
    return (first @ second / (first.norm() * second.norm())).item()


def pair_by_pair(features, transformed):
    cosine = [[torch.cosine_similarity(x, y, dim=0).item() for y in transformed] for x in features]
    n = len(cosine)
    paired = sum(cosine[i][i] for i in range(n)) / n
    other = sum(cosine[i][j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return (paired - other) / (1 - other)


def count(first, second):
    pairs = [(i, j) for i in range(len(first)) for j in range(i)]
    same = sum(((first[i] > first[j]) == (second[i] > second[j])).item() for i, j in pairs)
    return (2 * same - len(pairs)) / len(pairs)


def product(first, second):
    return ((first[:, None] - first[None]) * (second[:, None] - second[None])).sum()


def image_by_image(right):
    def share(token, images):
        return sum(right[token, i].item() for i in images) / len(images)
    even, odd = range(0, right.shape[1], 2), range(1, right.shape[1], 2)
    tokens = range(len(right))
    return (share(max(tokens, key=lambda t: share(t, even)), odd) + share(max(tokens, key=lambda t: share(t, odd)), even)) / 2


def test_the_answers_are_the_librarys():
    generator = torch.Generator().manual_seed(4)
    x, y = torch.randn(2, 9, 5, generator=generator).double() + 1
    whole = compare(x[:, None], y[:, None])
    torch.testing.assert_close(invariance(x, y), whole.invariance.mean())
    torch.testing.assert_close(tau(x[0], y[0]), kendall_tau(x[0], y[0]))
    right = torch.rand(7, 30, generator=generator) < 0.5
    assert best_token(right).item() == pytest.approx(over_tokens(right).best)


def ratio_by_image(cosine):
    own = cosine.diagonal()
    others = (cosine.sum(1) - own) / (len(cosine) - 1)
    return ((own - others) / (1 - others)).mean()


@pytest.mark.parametrize("name, answer", [
    ("partial", partial), ("partial", regression),
    ("invariance", invariance), ("invariance", pair_by_pair),
    ("tau", tau), ("tau", count), ("tau", kendall_tau),
    ("best_token", best_token), ("best_token", image_by_image), ("best_token", lambda right: over_tokens(right).best),
])
def test_a_right_answer_passes(name, answer, verdict):
    result, line = verdict(getattr(chapter10, f"check_{name}"), answer)
    assert result is True and line.startswith("Right. "), line


@pytest.mark.parametrize("name, answer, message", [
    ("partial", lambda kl, kp, lp: kl - kp * lp, "Divide by the roots"),
    ("partial", lambda kl, kp, lp: partial(kl, kp, lp) / ((1 - kp**2) * (1 - lp**2)) ** 0.5, "stand the square roots"),
    ("partial", lambda kl, kp, lp: (kl - kp * lp) / ((1 - kp) * (1 - lp)) ** 0.5, "are squared"),
    ("partial", lambda kl, kp, lp: (kl - kp * lp) / (kp * lp), "1 less the squares"),
    ("partial", lambda kl, kp, lp: (kl - kp - lp) / ((1 - kp**2) * (1 - lp**2)) ** 0.5, "not their sum"),
    ("partial", lambda kl, kp, lp: kl / ((1 - kp**2) * (1 - lp**2)) ** 0.5, "what both owe to P"),
    ("partial", lambda kl, kp, lp: (kl - kp * lp) / (1 - kp**2) ** 0.5, "two factors below"),
    ("partial", lambda kl, kp, lp: (kl - kp * lp) / (1 - lp**2) ** 0.5, "two factors below"),
    ("invariance", lambda x, y: cosines(x, y).diagonal().mean(), "set it against that of other images"),
    ("invariance", lambda x, y: ratio_by_image(cosines(x, y)), "a ratio for each image"),
    ("invariance", lambda x, y: ratio_by_image(cosines(x, y).T), "a ratio for each transformed image"),
    ("invariance", lambda x, y: cosines(x, y).diagonal().mean() - (cosines(x, y).sum() - cosines(x, y).trace()) / 20,
     "the room there is above chance"),
    ("invariance", lambda x, y: against(cosines(x, y), cosines(x, y).mean()), "leave the diagonal out"),
    ("invariance", lambda x, y: against(cosines(x, y), (cosines(x, y).sum() - cosines(x, y).trace()) / 25), "not n²"),
    ("invariance", lambda x, y: against(cosines(x, y, (0, 0))), "Cosines, not products"),
    ("invariance", lambda x, y: against(cosines(x, y, (1, 0))), "length of the transformed"),
    ("invariance", lambda x, y: against(cosines(x, y, (0, 1))), "length of the untransformed"),
    ("invariance", lambda x, y: against(cosines(x, y), (cosines(x, x).sum() - 5) / 20), "Others are transformed too"),
    ("invariance", lambda x, y: against(cosines(x, y, dim=0)), "normalise rows"),
    ("invariance", lambda x, y: 1 - invariance(x, y), "1 less that"),
    ("invariance", lambda x, y: against(cosines(x, y, centre=1)), "No mean is taken off"),
    ("invariance", lambda x, y: cosines(x, y).diagonal(), "the shape () was expected, and (5,) came"),
    ("tau", lambda x, y: 2 * tau(x, y), "divide by C (C - 1)."),
    ("tau", lambda x, y: tau(x, y) * 30 / 36, "not by C²"),
    ("tau", lambda x, y: 15 * tau(x, y), "divide by the number of pairs"),
    ("tau", lambda x, y: 30 * tau(x, y), "each twice"),
    ("tau", lambda x, y: (tau(x, y) + 1) / 2, "take off the share of the others"),
    ("tau", lambda x, y: (1 - tau(x, y)) / 2, "in another order"),
    ("tau", lambda x, y: tau(x, -y), "upside down"),
    ("tau", lambda x, y: torch.corrcoef(torch.stack([x, y]))[0, 1], "Pearson's"),
    ("tau", lambda x, y: torch.corrcoef(torch.stack([z.argsort().argsort().double() for z in (x, y)]))[0, 1], "Spearman's"),
    ("tau", lambda x, y: product(x, y) / 30, "sign of a difference"),
    ("best_token", lambda right: right.double().mean(1).max(), "chosen on the images it is measured on"),
    ("best_token", lambda right: sum(h.max() for h in halves(right)) / 2, "change the halves over"),
    ("best_token", lambda right: halves(right)[1][halves(right)[0].argmax()], "the other way round"),
    ("best_token", lambda right: halves(right)[0][halves(right)[1].argmax()], "the other way round"),
    ("best_token", lambda right: best_token(torch.stack([right[:, :11], right[:, 11:]], 2).flatten(1)), "every second image"),
    ("best_token", lambda right: 1 - best_token(~right), "the worst token"),
    ("best_token", lambda right: right.double().mean(), "the mean of all tokens"),
    ("best_token", lambda right: 2 * best_token(right), "dividing by two"),
])
def test_a_mistake_is_named(name, answer, message, verdict):
    result, line = verdict(getattr(chapter10, f"check_{name}"), answer)
    assert result is False and line.startswith("Not right: ") and message in line, line


@pytest.mark.parametrize("answer", [partial, invariance, tau, best_token])
def test_no_two_mistakes_have_the_same_result(answer, none_alike):
    none_alike(getattr(chapter10, f"check_{answer.__name__}"), answer)
