"""The checks of chapter 05: right answers pass, and each usual mistake fails with its name."""
import math

import pytest
import torch
import torch.nn.functional as F

from lib.exercises import chapter05


def drop_cls(attention):
    patches = attention[:, :, 1:, 1:]
    return patches / patches.sum(-1, keepdim=True)


def attention_distance(attention, rows, columns, patch):
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double() * patch
    return (attention * torch.cdist(places, places)).sum(-1).mean(-1)


def nmi(attention):
    h_k, h_k_given_q = entropies(attention)
    return (h_k - h_k_given_q) / (math.log(attention.shape[-1]) * h_k).sqrt().clamp(min=1e-6)


def entropies(attention, axis=-2):
    return torch.special.entr(attention.mean(axis)).sum(-1), torch.special.entr(attention).sum(-1).mean(-1)


def far_head(side):
    return torch.eye(side**2).flip(0)


def head_similarity(attention):
    heads, units = attention.shape[1], F.normalize(attention, dim=-1)
    cosines = torch.einsum("bgqk,bhqk->bgh", units, units) / attention.shape[2]
    return cosines[:, ~torch.eye(heads, dtype=torch.bool)].mean(1)


# Other right answers

def logits_of_patches(attention):
    return attention[:, :, 1:, 1:].log().softmax(-1)


def in_loops(attention, rows, columns, patch):
    found = torch.zeros(len(attention))
    for head, weights in enumerate(attention):
        for q in range(rows * columns):
            for k in range(rows * columns):
                way = math.dist(divmod(q, columns), divmod(k, columns))
                found[head] += weights[q, k] * patch * way / (rows * columns)
    return found


def from_the_definition(attention):
    """The double sum, and natural or other logarithms cancel."""
    patches, p_k = attention.shape[-1], attention.mean(-2, keepdim=True)
    information = torch.where(attention > 0, attention * (attention / p_k).log2(), 0).sum((-2, -1)) / patches
    return information / (math.log2(patches) * torch.special.entr(p_k).sum((-2, -1)) / math.log(2)).sqrt().clamp(min=1e-6)


def half_turn(side):
    head = torch.zeros(side, side, side, side)
    for row in range(side):
        for column in range(side):
            head[row, column, (row + side // 2) % side, (column + side // 2) % side] = 1
    return head.flatten(2).flatten(0, 1)


def pair_by_pair(attention):
    heads = attention.shape[1]
    pairs = [(g, h) for g in range(heads) for h in range(g + 1, heads)]
    return torch.stack([F.cosine_similarity(attention[:, g], attention[:, h], dim=-1).mean(-1) for g, h in pairs]).mean(0)


# Mistakes

def kept(attention, rows=slice(1, None), columns=slice(1, None), over=-1):
    patches = attention[:, :, rows, columns]
    return patches / patches.sum(over, keepdim=True)


def weighted(attention, rows, columns, patch, way=lambda steps: steps.square().sum(-1).sqrt(), row=None):
    n = torch.arange(rows * columns)
    places = patch * torch.stack([n // (row or columns), n % columns], 1).double()
    return (attention * way(places[:, None] - places)).sum(-1).mean(-1)


def normalised(attention, by=lambda h_q, h_k: (h_q * h_k).sqrt(), axis=-2, base=1.0):
    h_k, h_k_given_q = entropies(attention, axis)
    return (h_k - h_k_given_q) / base / by(torch.tensor(math.log(attention.shape[-1])), h_k)


def without_zeros_in_mind(attention):
    keys = attention.mean(-2)
    h_k, rows = -(keys * keys.log()).sum(-1), -(attention * attention.log()).sum(-1)
    return (h_k - rows.mean(-1)) / (math.log(attention.shape[-1]) * h_k).sqrt()


def cosines(maps, own=False, unit=True):
    """(B, H, ..., K) -> (B,): mean over pairs of heads, and over what lies between."""
    maps = F.normalize(maps, dim=-1) if unit else maps
    products = torch.einsum("bg...k,bh...k->b...gh", maps, maps)
    keep = torch.ones(maps.shape[1], maps.shape[1], dtype=torch.bool) if own else ~torch.eye(maps.shape[1], dtype=torch.bool)
    return products[..., keep].flatten(1).mean(1)


def test_the_helpers_behind_the_mistakes_are_right_themselves():
    attention = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1)).double().softmax(-1)
    torch.testing.assert_close(kept(attention), drop_cls(attention))
    torch.testing.assert_close(weighted(attention[0], 3, 4, 8), attention_distance(attention[0], 3, 4, 8))
    torch.testing.assert_close(normalised(attention[0]), nmi(attention[0]))
    torch.testing.assert_close(cosines(attention), head_similarity(attention))


@pytest.mark.parametrize("name, answer", [
    ("drop_cls", drop_cls), ("drop_cls", logits_of_patches),
    ("attention_distance", attention_distance), ("attention_distance", in_loops),
    ("nmi", nmi), ("nmi", from_the_definition), ("far_head", far_head), ("far_head", half_turn),
    ("head_similarity", head_similarity), ("head_similarity", pair_by_pair),
])
def test_a_right_answer_passes(name, answer, verdict):
    result, line = verdict(getattr(chapter05, f"check_{name}"), answer)
    assert result is True and line.startswith("Right. "), line


@pytest.mark.parametrize("name, answer, message", [
    ("drop_cls", lambda a: a[:, :, 1:, 1:], "no longer sum to 1"),
    ("drop_cls", lambda a: kept(a, over=-2), "You made the columns sum to 1"),
    ("drop_cls", lambda a: kept(a, over=(-2, -1)), "not by the sum of them all"),
    ("drop_cls", lambda a: a[:, :, 1:, 1:].softmax(-1), "already makes it flatter"),
    ("drop_cls", lambda a: kept(a, slice(-1), slice(-1)), "you dropped the last"),
    ("drop_cls", lambda a: a[:, :, 1:, 1:] + a[:, :, 1:, :1] / 5, "does not go in equal parts"),
    ("drop_cls", lambda a: kept(a, rows=slice(None)), "drop it as a query too"),
    ("drop_cls", lambda a: a[:, :, 1:], "drop it as a key too"),
    ("drop_cls", lambda a: drop_cls(a + 1e-8), "Do you add a little before you divide?"),
    ("attention_distance", lambda a, r, c, p: attention_distance(a, r, c, 1), "This is in patches"),
    ("attention_distance", lambda *x: weighted(*x, lambda s: s.square().sum(-1)), "the squares of the distances, in"),
    ("attention_distance", lambda a, r, c, p: p * weighted(a, r, c, 1, lambda s: s.square().sum(-1)), "the squares of the d"),
    ("attention_distance", lambda a, r, c, p: weighted(a, r, c, p, lambda s: s.abs().sum(-1)), "the way is straight"),
    ("attention_distance", lambda a, r, c, p: attention_distance(a, c, r, p), "Rows and columns changed places"),
    ("attention_distance", lambda a, r, c, p: weighted(a, r, c, p, row=r), "not n // rows"),
    ("attention_distance", lambda a, r, c, p: attention_distance(a, r, c, p) * r * c, "sum over queries"),
    ("attention_distance", lambda a, r, c, p: attention_distance(a, r, c, p) / (r * c), "number of keys too"),
    ("attention_distance", lambda a, r, c, p: attention_distance(0 * a + 1 / (r * c), r, c, p), "what uniform attention gives"),
    ("attention_distance", lambda a, r, c, p: attention_distance(F.one_hot(a.argmax(-1)), r, c, p), "strongest key"),
    ("attention_distance", lambda *x: attention_distance(*x).mean(), "All heads went into one"),
    ("attention_distance", lambda *x: attention_distance(*x)[None], "the shape (2,) was expected, and (1, 2) came"),
    ("nmi", lambda a: entropies(a)[0] - entropies(a)[1], "This is the mutual information"),
    ("nmi", lambda a: normalised(a, lambda h_q, h_k: h_q), "divide by H(q) alone"),
    ("nmi", lambda a: normalised(a, lambda h_q, h_k: h_k), "divide by H(k) alone"),
    ("nmi", lambda a: normalised(a, lambda h_q, h_k: (h_q + h_k) / 2), "by the mean of H(q) and H(k)"),
    ("nmi", lambda a: normalised(a, lambda h_q, h_k: h_q * h_k), "take the root of that"),
    ("nmi", lambda a: normalised(a, axis=-1), "for uniform; it is the mean over queries"),
    ("nmi", lambda a: normalised(a, base=math.log(2)), "base 2"),
    ("nmi", lambda a: (entropies(a)[0] - 8 * entropies(a)[1]) / (math.log(8) * entropies(a)[0]).sqrt(), "not the sum"),
    ("nmi", lambda a: -nmi(a), "The sign is the other way round"),
    ("nmi", lambda a: nmi(a) if len(a) > 1 else torch.ones(1), "There is nothing to be known here"),
    ("nmi", lambda a: nmi(a).mean(), "All heads went into one"),
    ("nmi", without_zeros_in_mind, "Is 0 log 0 taken as 0?"),
    ("nmi", lambda a: normalised(a), "for a head whose queries all look at one key, 0 was expected, and nan came"),
    ("far_head", lambda side: torch.eye(side**2), "The NMI is right; send each query further"),
    ("far_head", lambda side: torch.eye(side**2).roll(1, 1), "send each query further"),
    ("far_head", lambda side: torch.full((side**2, side**2), side**-2.0), "All queries share their keys"),
    ("far_head", lambda side: torch.eye(side**2)[torch.arange(side**2) // 2], "Some queries share a key"),
    ("far_head", lambda side: torch.eye(side**2)[torch.arange(side**2) // 2].T, "transpose it"),
    ("far_head", lambda side: 2 * far_head(side), "at least 0 and sum to 1, and they do not."),
    ("far_head", lambda side: 2 * far_head(side) - torch.eye(side**2), "at least 0"),
    ("far_head", lambda side: torch.eye(side), "a row and a column for each patch"),
    ("far_head", lambda side: far_head(8), "for a grid of 6 x 6, the shape"),
    ("head_similarity", lambda a: cosines(a, own=True), "leave the pairs of a head with itself out"),
    ("head_similarity", lambda a: cosines(a, unit=False), "These are dot products"),
    ("head_similarity", lambda a: cosines(a.flatten(2)), "in a row"),
    ("head_similarity", lambda a: cosines(a.mean(2)), "before you compare"),
    ("head_similarity", lambda a: cosines(a.transpose(1, 2)), "compares two queries"),
    ("head_similarity", lambda a: cosines(a - a.mean(-1, keepdim=True)), "This is a correlation"),
    ("head_similarity", lambda a: 3 * cosines(a), "the sum over pairs"),
    ("head_similarity", lambda a: cosines(a) / 2, "Each pair counts once"),
    ("head_similarity", lambda a: cosines(a) / 3, "all H x H places"),
    ("head_similarity", lambda a: (cosines(a[:, :2]) + cosines(a[:, 1:])) / 2, "Only neighbouring heads"),
    ("head_similarity", lambda a: cosines(a).mean(), "All images went into one"),
])
def test_a_mistake_is_named(name, answer, message, verdict):
    result, line = verdict(getattr(chapter05, f"check_{name}"), answer)
    assert result is False and line.startswith("Not right: ") and message in line, line


def test_the_distance_of_each_query_is_named(verdict):
    def each(attention, rows, columns, patch):
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double() * patch
        return (attention * torch.cdist(places, places)).sum(-1)

    assert "take the mean over queries" in verdict(chapter05.check_attention_distance, each)[1]


def test_an_unknown_mistake_still_says_what_came(verdict):
    assert verdict(chapter05.check_nmi, lambda attention: torch.full((3,), 0.25)) == (
        False, "Not right: For 3 heads on 8 patches, the second a permutation, 1.0000 was expected at [1], and 0.2500 came.")


@pytest.mark.parametrize("answer", [drop_cls, attention_distance, nmi, head_similarity])
def test_no_two_mistakes_have_the_same_result(answer, none_alike):
    none_alike(getattr(chapter05, f"check_{answer.__name__}"), answer)
