"""The checks of chapter 09: right answers pass, and each usual mistake fails with its name."""
import pytest
import torch

from lib.analysis.receptive_field import radius
from lib.analysis.similarity import CKA, gram, linear_cka
from lib.exercises import chapter09


def biased_cka(x, y):
    k, l = (z @ z.T for z in (x - x.mean(0), y - y.mean(0)))
    return (k * l).sum() / (k.norm() * l.norm())


def hsic(k, l, zero=(True, True), trace=1, sums=1, chains=2, over=None):
    n = len(k)
    k, l = (m - m.diag().diag() if z else m for m, z in zip((k, l), zero, strict=True))
    total = trace * (k * l).sum() + sums * k.sum() * l.sum() / ((n - 1) * (n - 2)) - chains * (k @ l).sum() / (n - 2)
    return total / (n * (n - 3) if over is None else over)


def norm_ratio(before, after):
    return (before.norm(dim=1) / (after - before).norm(dim=1)).mean()


def half_radius(field, centre, off=0.5, share=0.5):
    rows, columns = torch.arange(field.shape[0]) + off - centre[0], torch.arange(field.shape[1]) + off - centre[1]
    distance, order = (rows[:, None] ** 2 + columns**2).sqrt().flatten().sort()
    held = field.flatten()[order].cumsum(0) / field.sum()
    return distance[(held < share).sum()].item()


# Other right answers

def from_features(x, y):
    a, b = x - x.mean(0), y - y.mean(0)
    return (a.T @ b).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())


def entry_by_entry(k, l):
    n, others = len(k), [(i, j) for i in range(len(k)) for j in range(len(k)) if i != j]
    trace = sum(k[i, j] * l[j, i] for i, j in others)
    sums = sum(k[i, j] for i, j in others) * sum(l[i, j] for i, j in others)
    chains = sum(k[i, j] * l[j, m] for i, j in others for m in range(n) if m != j)
    return float((trace + sums / ((n - 1) * (n - 2)) - 2 * chains / (n - 2)) / (n * (n - 3)))


def token_by_token(before, after):
    ratios = [torch.dist(b, torch.zeros_like(b)) / torch.dist(a, b) for a, b in zip(after, before, strict=True)]
    return float(sum(ratios) / len(ratios))


def pixel_by_pixel(field, centre):
    pixels = sorted((((r + .5 - centre[0]) ** 2 + (c + .5 - centre[1]) ** 2) ** .5, field[r, c].item())
                    for r in range(field.shape[0]) for c in range(field.shape[1]))
    held = 0.0
    for distance, value in pixels:
        held += value
        if held >= 0.5 * field.sum():
            return distance


def test_the_answers_are_the_librarys():
    generator = torch.Generator().manual_seed(8)
    x, y = torch.randn(9, 5, generator=generator).double(), torch.randn(9, 4, generator=generator).double()
    assert float(biased_cka(x, y)) == pytest.approx(linear_cka(x, y, biased=True), abs=1e-6)
    k, l, cka = gram(x), gram(y), CKA()
    cka.update([k], [l])
    assert (hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt()).item() == pytest.approx(cka.compute().item(), abs=1e-9)
    field = torch.rand(6, 8, generator=generator)
    assert half_radius(field, (2.5, 3.0)) == pytest.approx(radius(field, (2.5, 3.0)).item(), abs=1e-6)


RIGHT = [("biased_cka", biased_cka), ("biased_cka", from_features), ("biased_cka", lambda x, y: linear_cka(x, y, biased=True)),
         ("hsic", hsic), ("hsic", entry_by_entry), ("norm_ratio", norm_ratio), ("norm_ratio", token_by_token),
         ("half_radius", half_radius), ("half_radius", pixel_by_pixel), ("half_radius", radius)]


@pytest.mark.parametrize("name, answer", RIGHT)
def test_a_right_answer_passes(name, answer, verdict):
    result, line = verdict(getattr(chapter09, f"check_{name}"), answer)
    assert result is True and line.startswith("Right. "), line


def _cos(k, l):
    return (k * l).sum() / (k.norm() * l.norm())


def _k(x):
    return (x - x.mean(0)) @ (x - x.mean(0)).T


def _lengths(x, y):
    return _k(x).norm() * _k(y).norm()


@pytest.mark.parametrize("name, answer, message", [
    ("biased_cka", lambda x, y: _cos(x @ x.T, y @ y.T), "Take the mean over images off"),
    ("biased_cka", lambda x, y: biased_cka(x, y) / _lengths(x, y), "you took their squares"),
    ("biased_cka", lambda x, y: biased_cka(x, y) * _lengths(x, y).sqrt(), "not their square root"),
    ("biased_cka", lambda x, y: torch.stack([(_k(x) @ _k(y)).sum() / _lengths(x, y)]), "expected, and (1,) came"),
    ("biased_cka", lambda x, y: biased_cka(x, y) if x.shape[1] != y.shape[1] else 0.5, "times 3, plus 7"),
    ("hsic", lambda k, l: (k * l).sum(), "was expected, and"),
    ("half_radius", lambda f, c: half_radius(f, c) if f.max() < 1.5 else 1.0, "one pixel, at the centre"),
    ("biased_cka", lambda x, y: _cos(*((z - z.mean(1, keepdim=True)) @ (z - z.mean(1, keepdim=True)).T for z in (x, y))),
     "you took one of each image"),
    ("biased_cka", lambda x, y: ((x - x.mean(0)).T @ (y - y.mean(0))).square().sum(), "Divide by the two lengths"),
    ("biased_cka", lambda x, y: biased_cka(x, y) ** 2, "the square of the cosine"),
    ("hsic", lambda k, l: hsic(k, l, (False, False)), "Set both diagonals to 0 first"),
    ("hsic", lambda k, l: hsic(k, l, (True, False)), "you did it to one matrix"),
    ("hsic", lambda k, l: hsic(k, l, (False, True)), "you did it to one matrix"),
    ("hsic", lambda k, l: hsic(k, l, over=1), "Divide by n (n - 3) at the end"),
    ("hsic", lambda k, l: hsic(k, l, over=25), "that is the biased one"),
    ("hsic", lambda k, l: hsic(k, l, chains=1), "counts twice"),
    ("hsic", lambda k, l: hsic(k, l, chains=-2), "is subtracted"),
    ("hsic", lambda k, l: hsic(k, l, sums=-1), "in the middle is added"),
    ("hsic", lambda k, l: hsic(k, l, sums=0), "in the middle is missing"),
    ("hsic", lambda k, l: hsic(k, l, chains=0), "The last term is missing"),
    ("hsic", lambda k, l: hsic(k, l, sums=20), "In the middle, divide by"),
    ("norm_ratio", lambda b, a: (b.norm(dim=1) / a.norm(dim=1)).mean(), "take z off"),
    ("norm_ratio", lambda b, a: ((a - b).norm(dim=1) / b.norm(dim=1)).mean(), "the skip stands above"),
    ("norm_ratio", lambda b, a: (a.norm(dim=1) / (a - b).norm(dim=1)).mean(), "what went in"),
    ("norm_ratio", lambda b, a: b.norm(dim=1).mean() / (a - b).norm(dim=1).mean(), "ratio of mean lengths"),
    ("norm_ratio", lambda b, a: b.norm() / (a - b).norm(), "one for all of them together"),
    ("norm_ratio", lambda b, a: norm_ratio(b.T, a.T), "yours run over tokens"),
    ("norm_ratio", lambda b, a: (b.norm(dim=1) / (a - b).norm(dim=1)).square().mean(), "left out the root"),
    ("norm_ratio", lambda b, a: (b.abs().sum(1) / (a - b).abs().sum(1)).mean(), "absolute values"),
    ("norm_ratio", lambda b, a: b.norm(dim=1) / (a - b).norm(dim=1), "The mean is missing"),
    ("norm_ratio", lambda b, a: (b.norm(dim=1) / (a - b).norm(dim=1)).sum(), "take the mean"),
    ("half_radius", lambda f, c: half_radius(torch.ones_like(f), c), "not half of the pixels"),
    ("half_radius", lambda f, c: half_radius(f, c, off=0.0), "half a pixel behind"),
    ("half_radius", lambda f, c: half_radius(f, c) ** 2, "Take the root"),
    ("half_radius", lambda f, c: half_radius(f, c[::-1]), "turned the centre around"),
    ("half_radius", lambda f, c: half_radius(f, (3.0, 4.5)), "not from the middle"),
    ("half_radius", lambda f, c: half_radius(f, c, share=1 - 1e-9), "holds all of it"),
    ("half_radius", lambda f, c: half_radius(f, c, share=0.5 / f.sum()), "not 0.5"),
])
def test_a_mistake_is_named(name, answer, message, verdict):
    result, line = verdict(getattr(chapter09, f"check_{name}"), answer)
    assert result is False and line.startswith("Not right: ") and message in line, line


@pytest.mark.parametrize("answer", [biased_cka, hsic, norm_ratio, half_radius])
def test_no_two_mistakes_have_the_same_result(answer, none_alike):
    none_alike(getattr(chapter09, f"check_{answer.__name__}"), answer)
