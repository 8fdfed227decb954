"""The checks of chapter 04: right answers pass, and each usual mistake fails with its name."""
import pytest
import torch

from lib.exercises import chapter04


def knn_votes(cosine, labels, classes, k, temperature, weigh=lambda c, t: (c / t).exp(), near=True):
    nearest = (cosine if near else -cosine).topk(k).indices
    votes = torch.zeros(classes)
    for n in nearest:
        votes[labels[n]] += weigh(cosine[n], temperature)
    return votes / votes.sum()


def votes_by_softmax(cosine, labels, classes, k, temperature):
    values, nearest = cosine.sort(descending=True)
    return (values[:k] / temperature).softmax(0) @ torch.eye(classes)[labels[nearest[:k]]]


def votes_once(cosine, labels, classes, k, temperature):
    votes, near = torch.zeros(classes), cosine.topk(k)
    votes[labels[near.indices]] += (near.values / temperature).exp()
    return votes / votes.sum()


def whiten(vectors, others, keep):
    values, directions = torch.linalg.eigh(torch.cov(vectors.T, correction=0))     # the smallest first
    return (others - vectors.mean(0)) @ directions[:, -keep:] / values[-keep:].sqrt()


def whitened(vectors, others, keep, power=1.0, mean=None, scale=1.0):
    centred = vectors - vectors.mean(0)
    _, singular, rows = torch.linalg.svd(centred, full_matrices=False)
    deviation = singular[:keep] / len(vectors) ** 0.5
    return scale * (others - (vectors.mean(0) if mean is None else mean)) @ rows[:keep].T / deviation**power


def quietest(vectors, others, keep):
    values, directions = torch.linalg.eigh(torch.cov(vectors.T, correction=0))
    return (others - vectors.mean(0)) @ directions[:, :keep] / values[:keep].sqrt()


def paired_interval(first, second, draws, ends=(0.025, 0.975)):
    difference = torch.stack([first[some].double().mean() - second[some].double().mean() for some in draws])
    return tuple(difference.quantile(torch.tensor(ends).double()).tolist())


def image_by_image(first, second, draws):
    each = first.double() - second.double()
    return each[draws].mean(1).quantile(torch.tensor([0.025, 0.975]).double())


def mean_iou(predicted, truth, classes):
    found = []
    for k in range(classes):
        either = ((predicted == k) | (truth == k)).sum()
        if either:
            found.append((((predicted == k) & (truth == k)).sum() / either).item())
    return sum(found) / len(found)


def by_confusion(predicted, truth, classes):
    table = torch.zeros(classes, classes).double()
    for p, t in zip(predicted.flatten(), truth.flatten()):
        table[t, p] += 1
    return (table.diag() / (table.sum(0) + table.sum(1) - table.diag())).nanmean()


def over(predicted, truth, classes, below):
    """both / below(both, predicted, true), the mean over classes that are there."""
    both, p, t = (torch.stack([x.sum() for x in some]).double() for some in (
        [(predicted == k) & (truth == k) for k in range(classes)], [predicted == k for k in range(classes)],
        [truth == k for k in range(classes)]))
    return (both / below(both, p, t)).nanmean()


def test_the_helpers_behind_the_mistakes_are_right_themselves():
    x, y = torch.randn(9, 4).double(), torch.randn(3, 4).double()
    torch.testing.assert_close(whitened(x, y, 2) @ whitened(x, y, 2).T, whiten(x, y, 2) @ whiten(x, y, 2).T)
    p, t = torch.randint(2, (2, 3, 4, 4))
    assert over(p, t, 2, lambda both, p, t: p + t - both).item() == pytest.approx(mean_iou(p, t, 2))


@pytest.mark.parametrize("name, answer", [
    ("knn_votes", knn_votes), ("knn_votes", votes_by_softmax), ("whiten", whiten), ("whiten", whitened),
    ("paired_interval", paired_interval), ("paired_interval", image_by_image),
    ("mean_iou", mean_iou), ("mean_iou", by_confusion),
])
def test_a_right_answer_passes(name, answer, verdict):
    result, line = verdict(getattr(chapter04, f"check_{name}"), answer)
    assert result is True and line.startswith("Right. "), line


def unpaired(first, second, draws):
    return paired_interval_of(first[draws].double().mean(1) - second[draws.roll(1, 0)].double().mean(1))


def paired_interval_of(difference, ends=(0.025, 0.975)):
    return difference.quantile(torch.tensor(ends).double())


@pytest.mark.parametrize("name, answer, message", [
    ("knn_votes", lambda *a: knn_votes(*a, weigh=lambda c, t: 1), "counts the same"),
    ("knn_votes", lambda *a: knn_votes(*a, weigh=lambda c, t: c.exp()), "temperature is missing"),
    ("knn_votes", lambda *a: knn_votes(*a, weigh=lambda c, t: (c * t).exp()), "do not multiply"),
    ("knn_votes", lambda *a: knn_votes(*a, weigh=lambda c, t: c), "exponential is missing"),
    ("knn_votes", lambda c, y, n, k, t: knn_votes(c, y, n, len(c), t), "only the k nearest"),
    ("knn_votes", lambda *a: knn_votes(*a, near=False), "the farthest"),
    ("knn_votes", lambda c, y, n, k, t: knn_votes(c, y, n, k, t) * (c.topk(k).values / t).exp().sum(), "do not sum to 1"),
    ("knn_votes", lambda c, y, n, k, t: (knn_votes(c, y, n, k, t) * (c.topk(k).values / t).exp().sum()).softmax(0), "sums is"),
    ("knn_votes", lambda *a: knn_votes(*a).argmax(), "That is the class"),
    ("knn_votes", votes_once, "Use index_add_"),
    ("knn_votes", lambda c, l, n, k, t: knn_votes(c.sort(descending=True).values, l, n, k, t), "not the first k labels"),
    ("whiten", lambda x, y, k: whitened(x, y, k, mean=0), "Take the mean of the first"),
    ("whiten", lambda x, y, k: whitened(x, y, k, mean=y.mean(0)), "not of the second"),
    ("whiten", lambda x, y, k: whitened(y, y, k), "are those of the first argument"),
    ("whiten", lambda x, y, k: whitened(x, y, k, power=0), "do not divide"),
    ("whiten", lambda x, y, k: whitened(x, y, k, power=2), "not by the variance"),
    ("whiten", quietest, "the quietest"),
    ("whiten", lambda x, y, k: whitened(x, y, k, scale=len(x) ** -0.5), "the root of N"),
    ("whiten", lambda x, y, k: whitened(x, y, k, scale=(39 / 40) ** 0.5), "not of N - 1"),
    ("whiten", lambda x, y, k: (whitened(x, x, k), whitened(x, y, k)), "return the whitened `others` alone"),
    ("whiten", lambda x, y, k: whitened(x, x, k), "the shape (6, 3) was expected"),
    ("paired_interval", unpaired, "the same images"),
    ("paired_interval", lambda a, b, d: paired_interval(a, torch.zeros_like(b), d), "first network alone"),
    ("paired_interval", lambda a, b, d: paired_interval(b, a, d), "the other way round"),
    ("paired_interval", lambda a, b, d: paired_interval(a, b, d, (0.05, 0.95)), "90 %"),
    ("paired_interval", lambda a, b, d: paired_interval(a, b, d, (0.0, 1.0)), "the smallest and the largest"),
    ("paired_interval", lambda a, b, d: paired_interval_of(a.double()[d].mean(1)) - paired_interval_of(b.double()[d].mean(1)),
     "differences of ends"),
    ("paired_interval", lambda a, b, d: paired_interval(a, b, d)[::-1], "Low comes first"),
    ("paired_interval", lambda a, b, d: 0.1, "a float came"),
    ("mean_iou", lambda p, t, n: (p == t).double().mean(), "share of pixels"),
    ("mean_iou", lambda p, t, n: mean_iou(p, t, n) * 4 / 5, "count it as 0"),
    ("mean_iou", lambda p, t, n: (mean_iou(p, t, n) * 4 + 1) / 5, "count it as 1"),
    ("mean_iou", lambda p, t, n: mean_iou(p, t, n) * 4 / 3, "nowhere true counts too"),
    ("mean_iou", lambda p, t, n: torch.stack([((p == k) & (t == k)).sum((1, 2)) / ((p == k) | (t == k)).sum((1, 2))
                                              for k in range(n)]).nanmean(), "all images first"),
    ("mean_iou", lambda *a: over(*a, lambda both, p, t: p + t), "count twice"),
    ("mean_iou", lambda *a: over(*a, lambda both, p, t: (p + t) / 2), "Dice"),
    ("mean_iou", lambda *a: over(*a, lambda both, p, t: t), "wrongly claimed"),
    ("mean_iou", lambda p, t, n: (p == t).sum() / (2 * t.numel() - (p == t).sum()), "one fraction"),
])
def test_a_mistake_is_named(name, answer, message, verdict):
    result, line = verdict(getattr(chapter04, f"check_{name}"), answer)
    assert result is False and line.startswith("Not right: ") and message in line, line


@pytest.mark.parametrize("answer", [knn_votes, whiten, mean_iou])
def test_no_two_mistakes_have_the_same_result(answer, none_alike):
    none_alike(getattr(chapter04, f"check_{answer.__name__}"), answer)
