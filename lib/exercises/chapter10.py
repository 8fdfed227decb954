"""Checks of chapter 10, objectives matter."""
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.exercises import check, compare, number


@check
def check_partial(partial) -> str:
    """partial(kl, kp, lp), three CKAs -> a number."""
    kl, kp, lp = (torch.tensor(value, dtype=torch.float64) for value in (0.8, 0.9, 0.6))
    given = "For CKAs of 0.8, 0.9 and 0.6"
    rest = kl - kp * lp
    compare(number(partial(kl.clone(), kp.clone(), lp.clone()), given), rest / ((1 - kp**2) * (1 - lp**2)).sqrt(), {
        "Divide by the roots of what P leaves of K and of L.": rest,
        "Below stand the square roots.": rest / ((1 - kp**2) * (1 - lp**2)),
        "Below, the CKAs with P are squared.": rest / ((1 - kp) * (1 - lp)).sqrt(),
        "Below stands what P leaves, 1 less the squares.": rest / (kp * lp),
        "Take the product of the two CKAs with P off, not their sum.":
            (kl - kp - lp) / ((1 - kp**2) * (1 - lp**2)).sqrt(),
        "Above, take off what both owe to P: the product of their CKAs with it.": kl / ((1 - kp**2) * (1 - lp**2)).sqrt(),
        "P is taken out of both: two factors below.": rest / (1 - kp**2).sqrt(),
        "P is taken out of both: two factors below. ": rest / (1 - lp**2).sqrt(),
    }, given)
    given = "For a K that has nothing in common with P"
    apart = torch.tensor([0.3, 0.0, 0.8], dtype=torch.float64)
    compare(number(partial(*apart), given), torch.tensor(0.5, dtype=torch.float64), {}, given)
    return "Between two that are alike through P alone, nothing is left: 0.54, 0.9 and 0.6 give 0."


@check
def check_invariance(invariance) -> str:
    """invariance(features (n, D), transformed (n, D)) -> a number, 1 at best."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(5, 4, generator=generator).double() + 1) * torch.linspace(0.5, 3, 5).double()[:, None]
    y = x + torch.randn(5, 4, generator=generator).double()
    unit, turned = F.normalize(x, dim=1), F.normalize(y, dim=1)

    def against(cosine: Tensor, chance: Tensor | None = None) -> Tensor:
        paired = cosine.diagonal().mean()
        others = (cosine.sum() - cosine.trace()) / 20 if chance is None else chance
        return (paired - others) / (1 - others)

    cosine, given = unit @ turned.T, "For 5 images with 4 channels"
    paired, others = cosine.diagonal().mean(), (cosine.sum() - cosine.trace()) / 20
    by_row, by_column = ((cosine.sum(axis) - cosine.diagonal()) / 4 for axis in (1, 0))            # (5,) each
    compare(number(invariance(x.clone(), y.clone()), given), (paired - others) / (1 - others), {
        "That is the mean cosine of pairs; set it against that of other images.": paired,
        "Divide by the room there is above chance, 1 less the cosine with other images.": paired - others,
        "Others are all but the image itself: leave the diagonal out of their mean.": against(cosine, cosine.mean()),
        "Others are n (n - 1) pairs, not n².": against(cosine, (cosine.sum() - cosine.trace()) / 25),
        "Cosines, not products: divide each feature by its length.": against(x @ y.T),
        "Divide by the length of the transformed as well.": against(unit @ y.T),
        "Divide by the length of the untransformed as well.": against(x @ turned.T),
        "Others are transformed too: an image against the transforms of the others.":
            against(cosine, ((unit @ unit.T).sum() - 5) / 20),
        "A length belongs to an image: normalise rows, not columns.": against(F.normalize(x, dim=0) @ F.normalize(y, dim=0).T),
        "This is 1 less that: how much changes.": 1 - against(cosine),
        "Means first, the ratio last: you take a ratio for each image.":
            ((cosine.diagonal() - by_row) / (1 - by_row)).mean(),
        "Means first, the ratio last: you take a ratio for each transformed image.":
            ((cosine.diagonal() - by_column) / (1 - by_column)).mean(),
        "No mean is taken off before the cosines.":
            against(F.normalize(x - x.mean(0), dim=1) @ F.normalize(y - y.mean(0), dim=1).T),
    }, given)
    return "And a network that gives all images one code has nothing to be invariant with: 0 / 0."


@check
def check_tau(tau) -> str:
    """tau(first (C,), second (C,)), without ties -> a number from -1 to 1."""
    first = torch.tensor([2.0, 0.5, -1.0, 4.0, 1.0, 6.0], dtype=torch.float64)
    second = torch.tensor([1.0, 0.7, 0.2, 9.0, 3.0, 4.0], dtype=torch.float64)
    a, b = (torch.sign(x[:, None] - x[None]) for x in (first, second))
    same, given = (a * b).sum(), "For 6 classes"
    ranks = [x.argsort().argsort().double() for x in (first, second)]
    compare(number(tau(first.clone(), second.clone()), given), same / 30, {
        "15 pairs, each of which stands twice in a table of all i and j: divide by C (C - 1).": same / 15,
        "A class with itself is no pair: divide by C (C - 1), not by C².": same / 36,
        "How many more pairs agree than disagree; divide by the number of pairs.": same / 2,
        "How many more pairs agree than disagree, each twice; divide by the number of pairs.": same,
        "That is the share of pairs in the same order; take off the share of the others.": (same / 30 + 1) / 2,
        "That is the share of pairs in another order.": (1 - same / 30) / 2,
        "One of the two rankings is upside down.": -same / 30,
        "That is Pearson's correlation of the scores; only their order counts.":
            torch.corrcoef(torch.stack([first, second]))[0, 1],
        "That is Spearman's correlation, of ranks; count pairs.": torch.corrcoef(torch.stack(ranks))[0, 1],
        "Take the sign of a difference, not the difference.":
            ((first[:, None] - first[None]) * (second[:, None] - second[None])).sum() / 30,
    }, given)
    return "Of 15 pairs, 13 stand in the same order and 2 do not: (13 - 2) / 15."


@check
def check_best_token(best_token) -> str:
    """best_token(right (T, Q) bool) -> a share."""
    u = torch.rand(6, 22, generator=torch.Generator().manual_seed(48))
    right = u < torch.tensor([0.3, 0.4, 0.5, 0.6, 0.5, 0.7])[:, None]
    even, odd = right[:, ::2].double().mean(1), right[:, 1::2].double().mean(1)
    first, second = right[:, :11].double().mean(1), right[:, 11:].double().mean(1)
    given = "For 6 tokens and 22 images"
    compare(number(best_token(right.clone()), given), (odd[even.argmax()] + even[odd.argmax()]) / 2, {
        "That token was chosen on the images it is measured on.": right.double().mean(1).max(),
        "Each half measures the token that it chose itself; change the halves over.": (even.max() + odd.max()) / 2,
        "Do it the other way round as well, and take the mean.": odd[even.argmax()],
        "Do it the other way round as well, and take the mean. ": even[odd.argmax()],
        "The halves are every second image, not the first and the last.": (second[first.argmax()] + first[second.argmax()]) / 2,
        "That is the worst token.": (odd[even.argmin()] + even[odd.argmin()]) / 2,
        "That is the mean of all tokens; choose one.": right.double().mean(),
        "Add no two halves without dividing by two.": odd[even.argmax()] + even[odd.argmax()],
    }, given)
    return "No image had a say in the choice of the token that it measures."
