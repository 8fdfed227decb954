"""The checks of chapter 12: right answers pass, and each usual mistake fails with its name."""
from math import prod

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

from lib.exercises import chapter12
from lib.models import layouts
from lib.objectives.contrastive import info_nce


def misfits(wanted, given):
    return sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))


def vit_parameters(dim, depth, patch, patches):
    block = 12 * dim**2 + 13 * dim
    return 3 * patch**2 * dim + 2 * dim + (1 + patches) * dim + depth * block + 2 * dim


def gathered_info_nce(queries, keys, rank, temperature):
    logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / temperature
    return F.cross_entropy(logits, rank * len(queries) + torch.arange(len(queries)))


def whole_variance(counts, means, variances):
    shares = (counts / counts.sum())[:, None]
    mean = (shares * means).sum(0)
    return (shares * (variances + (means - mean) ** 2)).sum(0)


# Other right answers

def three_loops(wanted, given):
    missing = [name for name in wanted if name not in given]
    left = [name for name in given if name not in wanted]
    return sorted(missing + left + [name for name in wanted if name in given and tuple(given[name]) != tuple(wanted[name])])


def summed_shapes(dim, depth, patch, patches):
    size = layouts.Size(dim, depth, 1, patch, patch * round(patches**0.5))
    return sum(torch.Size(shape).numel() for shape in layouts.vit_shapes(size).values())


def query_by_query(queries, keys, rank, temperature):
    losses = []
    for i, query in enumerate(queries):
        cosines = torch.stack([query @ key / (query.norm() * key.norm()) for key in keys]) / temperature
        losses.append(cosines.logsumexp(0) - cosines[rank * len(queries) + i])
    return float(sum(losses) / len(losses))


def from_second_moments(counts, means, variances):
    n = counts.sum()
    second = (counts[:, None] * (variances + means**2)).sum(0) / n
    return second - ((counts[:, None] * means).sum(0) / n) ** 2


# Mistakes

def units(queries, keys):
    return F.normalize(queries, dim=1), F.normalize(keys, dim=1)


def info(queries, keys, first=8, temperature=1.0, prepare=units, **options):
    q, k = prepare(queries, keys)
    return F.cross_entropy(q @ k.T / temperature, first + torch.arange(len(q)), **options)


def variance(counts, means, variances, weigh=(1, 1, 1), read=lambda x: x, spread=torch.square):
    """weigh: whether the mean, the variances within and those between are weighed by counts."""
    shares, equal = (counts / counts.sum())[:, None], torch.full((len(counts), 1), 1 / len(counts), dtype=means.dtype)
    of_mean, within, between = (shares if w else equal for w in weigh)
    return read((within * variances).sum(0) + (between * spread(means - (of_mean * means).sum(0))).sum(0))


def test_the_answers_are_the_librarys():
    for dim, depth, patch, grid in ((24, 2, 4, 3), (12, 3, 2, 4)):
        vit = VisionTransformer(img_size=patch * grid, patch_size=patch, embed_dim=dim, depth=depth, num_heads=3, num_classes=0)
        assert vit_parameters(dim, depth, patch, grid**2) == sum(p.numel() for p in vit.parameters())
    queries, keys = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(2 * 0.3 * gathered_info_nce(queries, keys, 0, 0.3), info_nce(queries, keys, 0.3)[0])


def test_the_helpers_behind_the_mistakes_are_right_themselves():
    generator = torch.Generator().manual_seed(1)
    queries, keys = torch.randn(4, 6, generator=generator).double(), torch.randn(12, 6, generator=generator).double()
    torch.testing.assert_close(info(queries, keys, temperature=0.4), gathered_info_nce(queries, keys, 2, 0.4))
    counts, means, variances = torch.tensor([2.0, 5]).double(), *torch.rand(2, 2, 3, generator=generator).double()
    torch.testing.assert_close(variance(counts, means, variances), whole_variance(counts, means, variances))


@pytest.mark.parametrize("name, answer", [
    ("misfits", misfits), ("misfits", three_loops),
    ("vit_parameters", vit_parameters), ("vit_parameters", summed_shapes),
    ("gathered_info_nce", gathered_info_nce), ("gathered_info_nce", query_by_query),
    ("whole_variance", whole_variance), ("whole_variance", from_second_moments),
])
def test_a_right_answer_passes(name, answer, verdict):
    result, line = verdict(getattr(chapter12, f"check_{name}"), answer)
    assert result is True and line.startswith("Right. "), line


@pytest.mark.parametrize("name, answer, message", [
    ("misfits", lambda w, g: sorted(w.keys() ^ g.keys()), "compare shapes too"),
    ("misfits", lambda w, g: sorted(n for n in w if w[n] != g.get(n)), "that the network lacks count too"),
    ("misfits", lambda w, g: sorted(n for n in g if g[n] != w.get(n)), "that the file lacks count too"),
    ("misfits", lambda w, g: sorted(w.keys() - g.keys()), "the missing ones only"),
    ("misfits", lambda w, g: sorted(g.keys() - w.keys()), "left over only"),
    ("misfits", lambda w, g: sorted(n for n in w.keys() & g.keys() if w[n] != g[n]), "Names that one of the two lacks"),
    ("misfits", lambda w, g: sorted(n for n in w.keys() | g.keys() if w.get(n) == g.get(n)), "the names that fit"),
    ("misfits", lambda w, g: sorted(w | g), "These are all names"),
    ("misfits", lambda w, g: misfits({n: prod(s) for n, s in w.items()}, {n: prod(s) for n, s in g.items()}), "entry by entry"),
    ("misfits", lambda w, g: misfits(w, g)[::-1], "Sort them"),
    ("misfits", lambda w, g: set(misfits(w, g)), "sorted() makes one"),
    ("misfits", lambda w, g: misfits(w, g) if w != g else sorted(w), "[] was expected"),
    ("vit_parameters", lambda d, n, p, k: vit_parameters(d, n, p, k) - 2 * d, "the last norm, or CLS"),
    ("vit_parameters", lambda d, n, p, k: vit_parameters(d, n, p, k - 1), "the CLS token, its position, or the bias"),
    ("vit_parameters", lambda d, n, p, k: vit_parameters(d, n, p, k) - 2 * p**2 * d, "three colours"),
    ("vit_parameters", lambda d, n, p, k: vit_parameters(d, n, p, k) - 4 * n * d, "The norms of the blocks are missing"),
    ("vit_parameters", lambda d, n, p, k: vit_parameters(d, n, p, k) - 9 * n * d, "linear layers are missing"),
    ("vit_parameters", lambda d, n, p, k: vit_parameters(d, n, p, k) - 3 * n * d, "keys and values have biases too"),
    ("vit_parameters", lambda d, n, p, k: vit_parameters(d, n, p, k) - n * d * d, "three matrices"),
    ("vit_parameters", lambda d, n, p, k: vit_parameters(d, n, p, k) - 4 * n * d * d, "8 dim²"),
    ("vit_parameters", lambda d, n, p, k: vit_parameters(d, 1, p, k), "Count all blocks"),
    ("vit_parameters", lambda d, n, p, k: vit_parameters(d, n, p, k) + 1000 * (d + 1), "leave the classifier out"),
    ("vit_parameters", lambda d, n, p, k: vit_parameters(d, n, p, k) if d < 100 else 7, "For ViT-B/16, 85798656"),
    ("gathered_info_nce", lambda q, k, r, t: info(q, k, 0, t), "not the first ones"),
    ("gathered_info_nce", lambda q, k, r, t: info(q, k[8:], 0, t), "your own keys only"),
    ("gathered_info_nce", lambda q, k, r, t: info(q, k, r, t), "not at rank."),
    ("gathered_info_nce", lambda q, k, r, t: info(q, k, 4, t), "The ranks begin at 0"),
    ("gathered_info_nce", lambda q, k, r, t: info(q, k), "Divide the cosines by the temperature"),
    ("gathered_info_nce", lambda q, k, r, t: info(q, k, temperature=1 / t), "you multiply"),
    ("gathered_info_nce", lambda q, k, r, t: info(q, k, 8, t, lambda q, k: (q, k)), "queries and keys by their length"),
    ("gathered_info_nce", lambda q, k, r, t: info(q, k, 8, t, lambda q, k: (F.normalize(q, dim=1), k)), "Divide the keys"),
    ("gathered_info_nce", lambda q, k, r, t: info(q, k, 8, t, lambda q, k: (q, F.normalize(k, dim=1))), "Divide the queries"),
    ("gathered_info_nce", lambda q, k, r, t: info(q, k, 8, t, reduction="sum"), "not the sum"),
    ("gathered_info_nce", lambda q, k, r, t: 2 * t * gathered_info_nce(q, k, r, t), "No factor in front"),
    ("gathered_info_nce", lambda q, k, r, t: -gathered_info_nce(q, k, r, t), "minus the logarithm"),
    ("gathered_info_nce", lambda q, k, r, t: info(q, k, 8, t) if r else 0.0, "For process 0"),
    ("whole_variance", lambda n, m, v: variance(n, 0 * m, v), "between their means is missing"),
    ("whole_variance", lambda n, m, v: variance(n, m, 0 * v), "within processes is missing"),
    ("whole_variance", lambda n, m, v: variance(n, m, v, (1, 0, 1)), "weigh the variances."),
    ("whole_variance", lambda n, m, v: variance(n, m, v, (1, 1, 0)), "squared distances of the means"),
    ("whole_variance", lambda n, m, v: variance(n, m, v, (0, 1, 1)), "weigh their means as well"),
    ("whole_variance", lambda n, m, v: variance(n, m, v, (0, 0, 0)), "weigh everything"),
    ("whole_variance", lambda n, m, v: v.mean(0), "Weigh the variances too"),
    ("whole_variance", lambda n, m, v: variance(n, m, 0 * v) + variance(n, 0 * m, v.sqrt()) ** 2, "standard deviations do not"),
    ("whole_variance", lambda n, m, v: whole_variance(n, m, v) * 12 / 11, "not by one less"),
    ("whole_variance", lambda n, m, v: variance(n, m, v, spread=torch.abs), "The square is missing"),
    ("whole_variance", lambda n, m, v: variance(n, 0 * m, v + m**2), "Subtract the square of the whole mean"),
    ("whole_variance", lambda n, m, v: variance(n, m, v, read=torch.sqrt), "not the standard deviation"),
    ("whole_variance", lambda n, m, v: whole_variance(n, m, v).mean(), "the shape (2,) was expected, and () came"),
])
def test_a_mistake_is_named(name, answer, message, verdict):
    result, line = verdict(getattr(chapter12, f"check_{name}"), answer)
    assert result is False and line.startswith("Not right: ") and message in line, line


def test_an_unknown_mistake_still_says_what_came(verdict):
    result, line = verdict(chapter12.check_gathered_info_nce, lambda *arguments: 0.123)
    assert result is False and line.endswith("was expected, and 0.1230 came."), line


@pytest.mark.parametrize("answer", [vit_parameters, gathered_info_nce, whole_variance])
def test_no_two_mistakes_have_the_same_result(answer, none_alike):
    none_alike(getattr(chapter12, f"check_{answer.__name__}"), answer)
