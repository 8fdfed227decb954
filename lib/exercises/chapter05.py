"""Checks of chapter 05, how self-attentions behave."""
import math

import torch
from torch import Tensor

from lib.analysis.attention import attention_distance as distance_of_heads
from lib.analysis.attention import normalized_mutual_information, patch_distances
from lib.errors import CourseError
from lib.exercises import alike, check, compare


def _attention(*shape: int, sharpness: float = 2.0) -> Tensor:
    """Rows that sum to 1, sharp enough that no two mistakes agree by chance."""
    logits = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (sharpness * logits).softmax(-1)


@check
def check_drop_cls(drop_cls) -> str:
    """drop_cls(attention (B, H, N, N)) -> (B, H, N - 1, N - 1)."""
    attention = _attention(2, 3, 6, 6)
    kept = attention[..., 1:, 1:]
    last = attention[..., :-1, :-1]
    compare(drop_cls(attention.clone()), kept / kept.sum(-1, keepdim=True), {
        "Rows no longer sum to 1: divide each by what is left of it.": kept,
        "You made the columns sum to 1; a row is a query, so sum over the last axis.": kept / kept.sum(-2, keepdim=True),
        "Divide each row by its own sum, not by the sum of them all.": kept / kept.sum((-2, -1), keepdim=True),
        "A softmax of what is a probability already makes it flatter: divide by the sum.": kept.softmax(-1),
        "CLS is the first token; you dropped the last.": last / last.sum(-1, keepdim=True),
        "What CLS got does not go in equal parts to all patches: divide each row by its sum.":
            kept + attention[..., 1:, :1] / 5,
        "CLS is dropped as a key; drop it as a query too, the first row.":
            attention[..., 1:] / attention[..., 1:].sum(-1, keepdim=True),
        "CLS is dropped as a query; drop it as a key too, the first column.": attention[..., 1:, :],
    }, "For 2 images, 3 heads, CLS and 5 patches")
    little = attention.clone()
    little[..., 1:] *= 1e-5 / little[..., 1:].sum(-1, keepdim=True)
    little[..., 0] = 1 - 1e-5
    if not alike(drop_cls(little), kept / kept.sum(-1, keepdim=True)):
        raise CourseError("where CLS gets all but a hundred-thousandth of each row, the rest was expected as it is, brought to "
                          "a sum of 1, and something else came. Do you add a little before you divide? That mixes in a "
                          "uniform head (section 3)")
    return "Each patch shares its attention out over patches alone."


@check
def check_attention_distance(attention_distance) -> str:
    """attention_distance(attention (H, P, P), rows, columns, patch) -> (H,) pixels."""
    rows, columns, patch = 3, 4, 8
    attention = _attention(2, 12, 12)
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()
    steps = places[:, None] - places                                               # (P, P, 2)
    away = patch * steps.square().sum(-1).sqrt()

    def weighted(pixels: Tensor) -> Tensor:
        return (attention * pixels).sum(-1).mean(-1)

    compare(attention_distance(attention.clone(), rows, columns, patch), weighted(away), {
        "This is in patches; a patch is `patch` pixels wide.": weighted(away / patch),
        "You weigh the squares of the distances; take the root before you weigh.": weighted(away.square() / patch),
        "You weigh the squares of the distances, in pixels; take the root before you weigh.": weighted(away.square()),
        "This adds steps along rows and columns; the way is straight: the root of the sum of squares.":
            weighted(patch * steps.abs().sum(-1)),
        "Rows and columns changed places: patch n lies in row n // columns and column n % columns.":
            weighted(patch_distances((columns, rows), (patch, patch))),
        "Patch n lies in row n // columns, not n // rows.": weighted(_wrong_rows(rows, columns, patch)),
        "This is the sum over queries; take their mean.": weighted(away) * 12,
        "You divided by the number of keys too; the weights of a row sum to 1 already.": weighted(away) / 12,
        "This is what uniform attention gives: weigh the distances by `attention`.": away.mean().expand(2),
        "This is the distance to the strongest key alone; weigh all of them.":
            away.expand(2, 12, 12).take_along_dim(attention.argmax(-1, keepdim=True), -1).mean((-2, -1)),
        "All heads went into one number; keep one for each head.": weighted(away).mean(),
        "This is the distance of each query; take the mean over queries.": (attention * away).sum(-1),
    }, "For 2 heads on 3 rows of 4 patches of 8 pixels")
    return f"Uniform attention on 14 x 14 patches of 16 pixels would give {patch_distances((14, 14), (16, 16)).mean():.2f} px."


def _wrong_rows(rows: int, columns: int, patch: int) -> Tensor:
    """Distances when patch n is put in row n // rows and column n % columns."""
    n = torch.arange(rows * columns)
    places = patch * torch.stack([n // rows, n % columns], 1).double()
    return (places[:, None] - places).square().sum(-1).sqrt()


@check
def check_nmi(nmi) -> str:
    """nmi(attention (H, P, P)) -> (H,), from 0 to 1."""
    attention = _attention(3, 8, 8)
    attention[1] = torch.eye(8, dtype=torch.float64).roll(3, 1)                    # a permutation: zeros, and NMI 1
    keys = attention.mean(-2)
    h_k, rows = torch.special.entr(keys).sum(-1), torch.special.entr(attention).sum(-1)
    h_q, information = math.log(8), h_k - rows.mean(-1)
    right = information / (h_q * h_k).sqrt()
    got = nmi(attention.clone())
    if isinstance(got, Tensor) and got.shape == (3,) and got.isnan().any() and not got.isnan().all():
        raise CourseError("for a head in which each query looks at one key, 1 was expected, and nan came. Is 0 log 0 taken as "
                          "0? torch.special.entr does so")
    compare(got, right, {
        "This is the mutual information; divide it by the root of H(q) H(k).": information,
        "You divide by H(q) alone; divide by the root of H(q) H(k).": information / h_q,
        "You divide by H(k) alone; divide by the root of H(q) H(k).": information / h_k,
        "You divide by the mean of H(q) and H(k); divide by the root of their product.": information / ((h_q + h_k) / 2),
        "You divide by H(q) H(k); take the root of that.": information / (h_q * h_k),
        "You take p(k) for uniform; it is the mean over queries: rows, axis -2.": 1 - rows.mean(-1) / h_q,
        "One logarithm is to base 2 and another is not.": information / math.log(2) / (h_q * h_k).sqrt(),
        "H(k|q) is the mean over queries, not the sum.": (h_k - rows.sum(-1)) / (h_q * h_k).sqrt(),
        "The sign is the other way round: I = H(k) - H(k|q).": -right,
        "All heads went into one number; keep one for each head.": right.mean(),
    }, "For 3 heads on 8 patches, the second a permutation")
    one_key = nmi(torch.zeros(1, 8, 8, dtype=torch.float64).index_fill(-1, torch.tensor([3]), 1.0))
    if isinstance(one_key, Tensor) and one_key.isnan().any():
        raise CourseError("for a head whose queries all look at one key, 0 was expected, and nan came. There H(k) is 0, and "
                          "what you divide by too: keep it above a tiny number, .clamp(min=1e-6)")
    compare(one_key, torch.zeros(1, dtype=torch.float64), {
        "There is nothing to be known here: the key is the same whatever the query is.": torch.ones(1, dtype=torch.float64),
    }, "For a head whose queries all look at one key")
    return "The permutation gives 1, whatever it permutes."


@check
def check_far_head(far_head) -> str:
    """far_head(side) -> (P, P) attention on a grid of side x side patches, P = side²."""
    for side in (8, 6):
        patches, given = side**2, f"for a grid of {side} x {side}"
        head = far_head(side)
        if not isinstance(head, Tensor):
            raise CourseError(f"{given}, a tensor was expected, and a {type(head).__name__} came. Is the return missing?")
        if head.shape != (patches, patches):
            raise CourseError(f"{given}, the shape {(patches, patches)} was expected, and {tuple(head.shape)} came. "
                              "A head has a row and a column for each patch")
        head = head.double()
        if not (head >= 0).all() or not torch.allclose(head.sum(1), torch.ones(patches, dtype=torch.float64), atol=1e-5):
            hint = " Your columns do: transpose it." if torch.allclose(head.sum(0), head.new_ones(patches), atol=1e-5) else ""
            raise CourseError(f"{given}, rows should be at least 0 and sum to 1, and they do not.{hint}")
        away = patch_distances((side, side), (8, 8))
        distance, nmi = distance_of_heads(head[None, None], away).item(), normalized_mutual_information(head[None, None]).item()
        if nmi < 0.999:
            hint = ("All queries share their keys" if nmi < 0.01 else
                    "Some queries share a key: each key may be looked at by one query alone")
            raise CourseError(f"{given}, an NMI of 1 was expected, and {nmi:.2f} came. {hint}")
        if distance <= away.mean():
            raise CourseError(f"{given}, more than {away.mean():.2f} px were expected, what uniform attention gives, and "
                              f"{distance:.2f} came. The NMI is right; send each query further")
    return "Far is one thing, the same for all is another."


@check
def check_head_similarity(head_similarity) -> str:
    """head_similarity(attention (B, H, P, P)) -> (B,), mean cosine of two heads' maps for the same query."""
    attention = _attention(2, 3, 5, 5, sharpness=1.0)
    units = torch.nn.functional.normalize(attention, dim=-1)
    cosines = torch.einsum("bgqk,bhqk->bghq", units, units).mean(-1)               # (B, H, H)
    pairs = ~torch.eye(3, dtype=torch.bool)
    flat, average = (torch.nn.functional.normalize(x, dim=-1) for x in (attention.flatten(2), attention.mean(2)))
    queries = (units @ units.mT)[..., ~torch.eye(5, dtype=torch.bool)].mean((-2, -1))
    products = torch.einsum("bgqk,bhqk->bghq", attention, attention).mean(-1)
    centred = torch.nn.functional.normalize(attention - attention.mean(-1, keepdim=True), dim=-1)
    compare(head_similarity(attention.clone()), cosines[:, pairs].mean(1), {
        "A head is always like itself: leave the pairs of a head with itself out.": cosines.mean((1, 2)),
        "These are dot products; divide by the lengths of both maps.": products[:, pairs].mean(1),
        "One cosine for the maps of all queries in a row: take one for each query, then the mean.":
            (flat @ flat.mT)[:, pairs].mean(1),
        "You average over queries before you compare; compare query by query.": (average @ average.mT)[:, pairs].mean(1),
        "This compares two queries of a head; compare two heads for a query.": queries,
        "This is a correlation: do not take out the mean.":
            torch.einsum("bgqk,bhqk->bghq", centred, centred).mean(-1)[:, pairs].mean(1),
        "This is the sum over pairs; take the mean.": cosines[:, pairs].sum(1) / 2,
        "You divide by all H x H places; take the mean over pairs.": cosines.triu(1).mean((1, 2)),
        "Each pair counts once in this sum, and you divide by as many as if it counted twice.":
            cosines[:, pairs].sum(1) / 2 / 6,
        "Only neighbouring heads are compared; take all pairs.": (cosines[:, 0, 1] + cosines[:, 1, 2]) / 2,
        "All images went into one number; keep one for each image.": cosines[:, pairs].mean(),
    }, "For 2 images and 3 heads on 5 patches")
    return "Uniform maps are alike whatever the network learned, so read it beside the entropy."
