"""The checks of chapter 11: right answers pass, and each usual mistake fails with its name."""
import pytest
import torch

from lib.exercises import chapter11


def hybrid_loss(mim, cl, cl_weight):
    parts = [(1 - cl_weight, mim), (cl_weight, cl)]
    return sum(weight * loss for weight, loss in parts if weight)


def branches(mim, cl, cl_weight):
    if cl_weight == 0:
        return mim.item()
    return cl if cl_weight == 1 else torch.lerp(mim, cl, cl_weight)


def gradient_cosine(first, second):
    product = sum((a * b).sum() for a, b in zip(first, second))
    return product / (sum(a.square().sum() for a in first) * sum(b.square().sum() for b in second)) ** 0.5


def flat(first, second):
    a, b = (torch.cat([x.flatten() for x in some]) for some in (first, second))
    return torch.nn.functional.cosine_similarity(a, b, dim=0).item()


def beats_both(scores):
    return (scores > torch.maximum(scores[0], scores[-1])).all(dim=1)


def row_by_row(scores):
    return torch.tensor([all(s > max(scores[0, c], scores[-1, c]) for c, s in enumerate(row)) for row in scores])


def weighted(mim_share, cl_share):
    """A sum with these weights inside, and right at the ends."""
    return lambda mim, cl, w: hybrid_loss(mim, cl, w) if w in (0, 1) else mim_share(w) * mim + cl_share(w) * cl


def dot(a, b):
    return sum((x * y).sum() for x, y in zip(a, b))


@pytest.mark.parametrize("name, answer", [
    ("hybrid_loss", hybrid_loss), ("hybrid_loss", branches), ("balance", lambda mim, cl: mim / (mim + cl)),
    ("balance", lambda mim, cl: torch.tensor([1 / (1 + cl / mim)])), ("gradient_cosine", gradient_cosine),
    ("gradient_cosine", flat), ("beats_both", beats_both), ("beats_both", row_by_row),
])
def test_a_right_answer_passes(name, answer, verdict):
    result, line = verdict(getattr(chapter11, f"check_{name}"), answer)
    assert result is True and line.startswith("Right. "), line


@pytest.mark.parametrize("name, answer, message", [
    ("hybrid_loss", weighted(lambda w: w, lambda w: 1 - w), "you gave it to the masked one"),
    ("hybrid_loss", weighted(lambda w: 1, lambda w: w), "masked loss counts 1 - λ"),
    ("hybrid_loss", weighted(lambda w: 1 - w, lambda w: 1), "contrastive loss counts λ"),
    ("hybrid_loss", weighted(lambda w: (1 - w) / 2, lambda w: w / 2), "nothing is divided"),
    ("hybrid_loss", lambda mim, cl, w: (1 - w) * mim + w * cl, "Leave that half out"),
    ("balance", lambda mim, cl: cl / (mim + cl), "the larger gradient needs the smaller weight"),
    ("balance", lambda mim, cl: mim / cl, "lies between 0 and 1"),
    ("balance", lambda mim, cl: cl / mim, "That is 1 - λ over λ"),
    ("balance", lambda mim, cl: mim**2 / (mim**2 + cl**2), "not their squares"),
    ("gradient_cosine", lambda a, b: sum(gradient_cosine([x], [y]) for x, y in zip(a, b)) / len(a), "into one vector first"),
    ("gradient_cosine", dot, "divide by both norms"),
    ("gradient_cosine", lambda a, b: dot(a, b) / dot(a, a) ** 0.5, "norms of both"),
    ("gradient_cosine", lambda a, b: dot(a, b) / (dot(a, a) * dot(b, b)), "not by the squares"),
    ("gradient_cosine", lambda a, b: gradient_cosine(a, b).arccos(), "That is the angle"),
    ("gradient_cosine", lambda a, b: gradient_cosine(a[:1], b[:1]), "only the first tensors"),
    ("gradient_cosine", lambda a, b: gradient_cosine(a, b).abs(), "has a sign"),
    ("beats_both", lambda s: (s > torch.maximum(s[0], s[-1])).any(1), "above on one of them"),
    ("beats_both", lambda s: (s > torch.minimum(s[0], s[-1])).all(1), "compare with the worse"),
    ("beats_both", lambda s: (s > s[0]).all(1), "Only the first parent"),
    ("beats_both", lambda s: (s > s[-1]).all(1), "Only the second parent"),
    ("beats_both", lambda s: ~beats_both(s), "rows that do not"),
    ("beats_both", lambda s: beats_both(s).float(), "a tensor of torch.float32 came"),
    ("beats_both", lambda s: beats_both(s).tolist(), "a list came"),
])
def test_a_mistake_is_named(name, answer, message, verdict):
    result, line = verdict(getattr(chapter11, f"check_{name}"), answer)
    assert result is False and line.startswith("Not right: ") and message in line, line


@pytest.mark.parametrize("name, answer", [("hybrid_loss", hybrid_loss), ("balance", lambda mim, cl: mim / (mim + cl)),
                                          ("gradient_cosine", gradient_cosine), ("beats_both", beats_both)])
def test_no_two_mistakes_have_the_same_result(name, answer, none_alike):
    none_alike(getattr(chapter11, f"check_{name}"), answer)
