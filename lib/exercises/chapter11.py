"""Checks of chapter 11, the hybrid."""
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import CourseError
from lib.exercises import check, compare


def number(got) -> Tensor:
    """A number or a tensor of one -> float64 (), anything else as it came."""
    if isinstance(got, Tensor) and got.numel() == 1:
        return got.double().reshape(())
    return torch.tensor(got).double() if isinstance(got, float | int) and not isinstance(got, bool) else got


@check
def check_hybrid_loss(hybrid_loss) -> str:
    """hybrid_loss(mim, cl, cl_weight) -> a number."""
    for weight in (0.2, 0.0, 1.0):
        mim = torch.tensor(0.8 if weight < 1 else float("nan"), dtype=torch.float64)
        cl = torch.tensor(3.0 if weight > 0 else float("nan"), dtype=torch.float64)
        right = (1 - weight) * mim.nan_to_num(0) + weight * cl.nan_to_num(0)
        mistakes = {
            "λ is the weight of the contrastive loss; you gave it to the masked one.": weight * mim + (1 - weight) * cl,
            "The masked loss counts 1 - λ.": mim + weight * cl,
            "The contrastive loss counts λ.": (1 - weight) * mim + cl,
            "The two weights sum to 1; nothing is divided.": right / 2,
        } if 0 < weight < 1 else {}
        got = number(hybrid_loss(mim, cl, weight))
        if isinstance(got, Tensor) and got.isnan().any():
            raise CourseError(f"for λ = {weight:g} the half without weight was not computed, so its loss is nan, and 0 · nan "
                              "is nan. Leave that half out")
        compare(got, right, mistakes, f"For a masked loss of 0.8, a contrastive one of 3 and λ = {weight:g}")
    return "At the ends one half is left out, so λ = 0 is SimMIM and λ = 1 is MoCo v3."


@check
def check_balance(balance) -> str:
    """balance(mim_norm, cl_norm) -> the λ at which both weighted gradients have the same norm."""
    for mim, cl in ((0.5, 2.0), (3.0, 1.0)):
        mistakes = {
            "That is the share of the contrastive gradient; the larger gradient needs the smaller weight.": cl / (mim + cl),
            "λ lies between 0 and 1: solve (1 - λ) · mim = λ · cl.": mim / cl,
            "That is 1 - λ over λ, not λ.": cl / mim,
            "Solve (1 - λ) · mim = λ · cl, with the norms themselves, not their squares.": mim**2 / (mim**2 + cl**2),
        }
        compare(number(balance(mim, cl)), torch.tensor(mim / (mim + cl)).double(),
                {text: torch.tensor(value).double() for text, value in mistakes.items()},
                f"For gradients of norm {mim:g} (masked) and {cl:g} (contrastive)")
    return "A λ belongs to a recipe: another batch or temperature gives other norms."


@check
def check_gradient_cosine(gradient_cosine) -> str:
    """gradient_cosine(first, second), two lists of tensors of equal shapes -> a number from -1 to 1."""
    generator = torch.Generator().manual_seed(0)
    first = [torch.randn(shape, generator=generator).double() * size for shape, size in (((3, 2), 5.0), ((4,), 0.1))]
    second = [a * sign + torch.randn(a.shape, generator=generator).double() for a, sign in zip(first, (-1.0, 20.0))]
    a, b = (torch.cat([x.flatten() for x in some]) for some in (first, second))
    each = torch.stack([F.cosine_similarity(x.flatten(), y.flatten(), dim=0) for x, y in zip(first, second)])
    got = number(gradient_cosine([x.clone() for x in first], [x.clone() for x in second]))
    compare(got, F.cosine_similarity(a, b, dim=0), {
        "Put all tensors into one vector first: the mean of the cosines gives a small bias as much say as a large matrix.":
            each.mean(),
        "That is the product; divide by both norms.": a @ b,
        "Divide by the norms of both vectors.": a @ b / a.norm(),
        "Divide by the root of the squared norms, not by the squares.": a @ b / (a @ a * (b @ b)),
        "That is the angle; its cosine was asked for.": F.cosine_similarity(a, b, dim=0).arccos(),
        "These are only the first tensors of each list.": each[0],
        "A cosine has a sign: opposite gradients have -1.": F.cosine_similarity(a, b, dim=0).abs(),
    }, "For two lists of two tensors")
    return "Above 0 a small step for one loss also lowers the other here, below 0 it raises it."


@check
def check_beats_both(beats_both) -> str:
    """beats_both(scores (K, 2)) -> (K,) bool; row 0 is the one parent, the last row the other."""
    scores = torch.tensor([[18.2, 81.9], [61.6, 82.3], [61.8, 81.6], [30.0, 82.0], [17.0, 83.0], [58.1, 82.4], [58.1, 81.3]])
    best, worst = torch.stack([scores[0], scores[-1]]).max(0).values, torch.stack([scores[0], scores[-1]]).min(0).values
    right = (scores > best).all(1)
    got = beats_both(scores.clone())
    if not isinstance(got, Tensor) or got.dtype != torch.bool:
        came = f"a tensor of {got.dtype}" if isinstance(got, Tensor) else f"a {type(got).__name__}"
        raise CourseError(f"a tensor of bool was expected, one for each row, and {came} came. Is the return missing?")
    compare(got.double(), right.double(), {text: wrong.double() for text, wrong in {
        "A row must be above both parents on both yardsticks; yours is above on one of them.": (scores > best).any(1),
        "Above the better parent on each yardstick was asked for; you compare with the worse.": (scores > worst).all(1),
        "A parent does not beat itself: use >, not >=.": (scores >= best).all(1),
        "Only the first parent is compared with.": (scores > scores[0]).all(1),
        "Only the second parent is compared with.": (scores > scores[-1]).all(1),
        "These are the rows that do not.": ~right,
    }.items()}, "For seven rows, where 1 is True,")
    return "To beat both, a row must be above both on both."
