"""The checks of chapter 06: right answers pass, and each usual mistake fails with its name."""
import math

import pytest
import torch
import torch.nn.functional as F

from lib.analysis.spectra import token_spectrum
from lib.analysis.tokens import neighbour_purity, project_tokens, unison
from lib.exercises import chapter06


def unison_of(before, after):
    steps = after - before
    return steps.mean(0).square().sum() / steps.square().sum(1).mean()


def gram_spectrum(tokens):
    centred = tokens - tokens.mean(0)
    gram = centred @ centred.T / (len(tokens) - 1)
    return torch.linalg.eigvalsh(gram).flip(0)[:-1].log()


def project(tokens, k):
    centred = tokens - tokens.mean(0)
    return centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:k].T


def by_number(tokens, k, image_of, own=-math.inf):
    unit = F.normalize(tokens.flatten(0, 1), dim=-1)
    image = image_of(torch.arange(len(unit)), tokens)
    nearest = (unit @ unit.T).fill_diagonal_(own).topk(k).indices
    return (image[nearest] == image[:, None]).double().mean()


def image_purity(tokens, k):
    return purity(tokens, k)


# Other right answers

def token_by_token(before, after):
    steps = [b - a for a, b in zip(before, after, strict=True)]
    mean = sum(steps) / len(steps)
    return float(mean @ mean) / (sum(float(s @ s) for s in steps) / len(steps))


def pair_by_pair(before, after):
    """The mean step's square is the mean product of every two steps."""
    steps = after - before
    products = steps @ steps.T
    return products.mean() / products.diagonal().mean()


def from_the_covariance(tokens):
    return torch.linalg.eigvalsh(tokens.T.cov()).flip(0)[:len(tokens) - 1].log()


def from_singular_values(tokens):
    values = torch.linalg.svdvals(tokens - tokens.mean(0))[:-1]
    return (values**2 / (len(tokens) - 1)).log()


def from_eigh(tokens, k):
    centred = tokens - tokens.mean(0)
    return centred @ torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :k]


def mirrored(tokens, k):
    u, s, _ = torch.linalg.svd(tokens - tokens.mean(0), full_matrices=False)
    return -(u * s)[:, :k]


def neighbour_by_neighbour(tokens, k):
    points = [(image, token) for image, tokens_of in enumerate(tokens) for token in tokens_of]
    hits = []
    for i, (image, token) in enumerate(points):
        others = [(torch.cosine_similarity(token, t, dim=0).item(), m) for j, (m, t) in enumerate(points) if j != i]
        hits += [m == image for _, m in sorted(others, reverse=True)[:k]]
    return sum(hits) / len(hits)


# Mistakes

def purity(tokens, k, prepare=lambda x: F.normalize(x, dim=-1), likeness=lambda x: x @ x.T, itself=False, extra=0):
    x = prepare(tokens).flatten(0, 1)
    near = likeness(x)
    if not itself:
        near = near.fill_diagonal_(-torch.inf)
    image = torch.arange(len(x)) // tokens.shape[1]
    return (image[near.topk(k + extra).indices] == image[:, None]).double().mean()


def spectrum(tokens, dim=0, centre=1, over=None, order=slice(None, -1), flip=True, read=torch.log):
    x = tokens - centre * tokens.mean(dim, keepdim=True)
    values = torch.linalg.eigvalsh(x @ x.T / (over or len(tokens) - 1))
    return read((values.flip(0) if flip else values)[order].clamp(min=1e-300))


def projected(tokens, look=1, take=1, rows=lambda vh: vh[:2].T):
    directions = torch.linalg.svd(tokens - look * tokens.mean(0), full_matrices=False).Vh
    return (tokens - take * tokens.mean(0)) @ rows(directions)


def test_the_answers_are_the_librarys():
    generator = torch.Generator().manual_seed(4)
    before, after = torch.randn(2, 3, 9, 12, generator=generator).double()
    torch.testing.assert_close(unison_of(before[0], after[0]), unison(before, after)[0])
    torch.testing.assert_close(gram_spectrum(before[0]), token_spectrum(before)[0])
    torch.testing.assert_close(image_purity(before, 3), neighbour_purity(before, 3).mean())
    both = torch.cat([before[0], after[0]])
    torch.testing.assert_close(project(both, 3)[:9].abs(), project_tokens(before[0], after[0]).before.abs())


def test_the_helpers_behind_the_mistakes_are_right_themselves():
    tokens = torch.randn(6, 9, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(spectrum(tokens), gram_spectrum(tokens))
    torch.testing.assert_close(projected(tokens), project(tokens, 2))


@pytest.mark.parametrize("name, answer", [
    ("unison_of", unison_of), ("unison_of", token_by_token), ("unison_of", pair_by_pair),
    ("unison_of", lambda before, after: unison(before[None], after[None])[0]),
    ("gram_spectrum", gram_spectrum), ("gram_spectrum", from_the_covariance), ("gram_spectrum", from_singular_values),
    ("project", project), ("project", from_eigh), ("project", mirrored),
    ("image_purity", image_purity), ("image_purity", neighbour_by_neighbour),
])
def test_a_right_answer_passes(name, answer, verdict):
    result, line = verdict(getattr(chapter06, f"check_{name}"), answer)
    assert result is True and line.startswith("Right. "), line


@pytest.mark.parametrize("name, answer, message", [
    ("unison_of", lambda a, b: (b - a).mean(0).norm() / (b - a).norm(dim=1).mean(), "Lengths are squared"),
    ("unison_of", lambda a, b: (b - a).mean(0).square().sum() / (b - a).norm(dim=1).mean() ** 2, "square each length first"),
    ("unison_of", lambda a, b: unison_of(a, b) / len(a), "not the sum"),
    ("unison_of", lambda a, b: unison_of(a, b) * len(a) ** 2, "not the sum of steps"),
    ("unison_of", lambda a, b: (b - a).norm(dim=1).mean() ** 2 / (b - a).square().sum(1).mean(), "the mean of the lengths"),
    ("unison_of", lambda a, b: unison_of(a.T, b.T), "over channels"),
    ("unison_of", lambda a, b: unison_of(torch.zeros_like(a), b), "take steps"),
    ("unison_of", lambda a, b: 1 - unison_of(a, b), "1 less that"),
    ("unison_of", lambda a, b: ((b - a).mean(0) ** 2 / ((b - a) ** 2).mean(0)).mean(), "Sum the squares over the channels"),
    ("unison_of", lambda a, b: (b - a).mean(0), "the shape () was expected, and (4,) came"),
    ("gram_spectrum", lambda x: spectrum(x, order=slice(None)), "span P - 1 directions"),
    ("gram_spectrum", lambda x: torch.linalg.eigvalsh(x.T.cov()).flip(0), "That is the D x D covariance"),
    ("gram_spectrum", lambda x: spectrum(x, centre=0), "Take the mean token off"),
    ("gram_spectrum", lambda x: spectrum(x, dim=1), "every channel has a mean of its own"),
    ("gram_spectrum", lambda x: torch.linalg.eigvalsh(x.cov()).flip(0)[:4].log(), "torch.cov takes rows for variables"),
    ("gram_spectrum", lambda x: spectrum(x, over=5), "you divide by P."),
    ("gram_spectrum", lambda x: spectrum(x, over=1), "Divide by P - 1."),
    ("gram_spectrum", lambda x: spectrum(x, over=8), "D counts channels"),
    ("gram_spectrum", lambda x: spectrum(x, over=7), "you divide by D - 1"),
    ("gram_spectrum", lambda x: gram_spectrum(x).flip(0), "Largest first: eigvalsh"),
    ("gram_spectrum", lambda x: spectrum(x, flip=False), "leave out the smallest"),
    ("gram_spectrum", lambda x: spectrum(x, read=lambda v: v), "The logarithm is missing"),
    ("gram_spectrum", lambda x: spectrum(x, read=torch.log10), "the natural one"),
    ("gram_spectrum", lambda x: spectrum(x, read=lambda v: v.sqrt().log()), "a variance is their square"),
    ("project", lambda x, k: projected(x, look=0, take=0), "Take the mean token off before you look for directions."),
    ("project", lambda x, k: projected(x, look=0), "not only afterwards"),
    ("project", lambda x, k: projected(x, take=0), "before you project as well"),
    ("project", lambda x, k: projected(x, rows=lambda vh: vh[-2:].T), "those of least variance: eigh"),
    ("project", lambda x, k: projected(x, rows=lambda vh: vh.flip(0)[:2].T), "the least first"),
    ("project", lambda x, k: project(x, k).flip(1), "The second direction stands first"),
    ("project", lambda x, k: torch.linalg.svd(x - x.mean(0), full_matrices=False).U[:, :k], "This is U"),
    ("project", lambda x, k: projected(x, rows=lambda vh: vh[:, :2]), "you took its columns"),
    ("project", lambda x, k: torch.linalg.svd(x - x.mean(0)).Vh[:k].T, "These are the directions"),
    ("project", lambda x, k: torch.linalg.svd(x - x.mean(0)).Vh[:k], "These are the directions"),
    ("project", lambda x, k: project(x, 3), "the shape (7, 2) was expected, and (7, 3) came"),
    ("image_purity", lambda x, k: purity(x, k, itself=True), "no neighbour of its own"),
    ("image_purity", lambda x, k: purity(x, k, likeness=lambda y: -y @ y.T), "the k furthest"),
    ("image_purity", lambda x, k: purity(x, k, prepare=lambda y: y), "divide tokens by their length"),
    ("image_purity", lambda x, k: purity(x, k, prepare=lambda y: y, likeness=lambda y: -torch.cdist(y, y)), "not the distance"),
    ("image_purity", lambda x, k: 1 - purity(x, k), "of other images"),
    ("image_purity", lambda x, k: purity(x, k, extra=1), "not k + 1"),
    ("image_purity", lambda x, k: purity(x, k) * k, "not which share"),
    ("image_purity", lambda x, k: by_number(x, k, lambda i, x: i % x.shape[1]), "i % P is its place"),
    ("image_purity", lambda x, k: by_number(x, k, lambda i, x: i // len(x)), "not i // B"),
    ("image_purity", lambda x, k: by_number(x, k, lambda i, x: i // x.shape[1], own=0.0), "set its own to -inf"),
    ("image_purity", lambda x, k: 1.0, "you looked within one image"),
    ("image_purity", lambda x, k: purity(x, k, prepare=lambda y: F.normalize(y - y.mean((0, 1)), dim=-1)), "take no mean off"),
    ("image_purity", lambda x, k: neighbour_purity(x, k), "the shape () was expected, and (4,) came"),
])
def test_a_mistake_is_named(name, answer, message, verdict):
    result, line = verdict(getattr(chapter06, f"check_{name}"), answer)
    assert result is False and line.startswith("Not right: ") and message in line, line


def test_an_unknown_mistake_still_says_what_came(verdict):
    result, line = verdict(chapter06.check_image_purity, lambda tokens, k: 0.123)
    assert result is False and line.endswith("was expected, and 0.1230 came."), line


@pytest.mark.parametrize("answer", [unison_of, gram_spectrum, project, image_purity])
def test_no_two_mistakes_have_the_same_result(answer, none_alike):
    none_alike(getattr(chapter06, f"check_{answer.__name__}"), answer)
